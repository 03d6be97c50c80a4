"""Copies of a config in which one key has another value."""

from folio.config.run import RunConfig
from folio.config.section import ConfigError
from folio.models.transformer_config import BOUNDED_POSITIONS


def with_vocab_size(config: RunConfig, tokenizer_vocab_size: int) -> RunConfig:
    """Return the config with model.vocab_size set to the tokenizer's, unless it already is a padded size.

    An encoder's vocabulary has one more symbol, the mask, whose id follows the tokenizer's.

    Raises: ConfigError if the given size is too small for the tokenizer, or larger than the next multiple of 128.
    """
    given = config.model.vocab_size
    n_symbols = tokenizer_vocab_size + (config.model.family == "encoder")
    padded = -(-n_symbols // 128) * 128
    if config.init_from is not None and config.tokenizer.name == "huggingface":
        padded = max(padded, n_symbols + n_symbols // 20)  # others pad for other reasons: Qwen3 by 267 of 151,936
    if given is not None and not n_symbols <= given <= padded:
        if config.init_from is not None:
            raise ConfigError(
                f"tokenizer={config.tokenizer.name} has {n_symbols} symbols, but the model of "
                f"init_from={config.init_from} has {given}; choose the tokenizer that it was trained with: "
                "tokenizer=huggingface tokenizer.path=<the folder>, or for OpenAI's GPT-2 tokenizer=gpt2"
            )
        mask = ", including the mask" if n_symbols > tokenizer_vocab_size else ""
        raise ConfigError(
            f"model.vocab_size={given} does not match tokenizer={config.tokenizer.name} with its "
            f"{n_symbols} symbols{mask}; leave model.vocab_size out, or pad to at most {padded}"
        )
    model = config.model.model_copy(update={"vocab_size": given or n_symbols})
    return config.model_copy(update={"model": model})


def with_machine(config: RunConfig, n_threads: int, precision: str) -> RunConfig:
    """Return the config with what was chosen on this CPU: the number of threads of each process, and the precision."""
    chosen = {"threads": n_threads, "precision": precision}
    return config.model_copy(update={"trainer": config.trainer.model_copy(update=chosen)})


def with_context_length(config: RunConfig, context_length: int) -> RunConfig:
    """Return the config of a trained model with windows of another length.

    Raises: ConfigError if the model cannot read them.
    """
    trained_with = config.model.context_length
    if config.model.family != "decoder":
        raise ConfigError(f"--context-length={context_length}: this is for a decoder; RUN is an {config.model.family}")
    encoding = config.positional_encoding.name
    if encoding in BOUNDED_POSITIONS and context_length > trained_with:
        raise ConfigError(
            f"--context-length={context_length}: {encoding} positions end at the {trained_with} that the model was "
            f"trained with; use at most {trained_with}, or train with another positional_encoding"
        )
    return config.model_copy(update={"model": config.model.model_copy(update={"context_length": context_length})})
