"""The models that a server offers: those of the command line, by name."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from folio.data.tokenizers.base import Tokenizer
from folio.runs.description import config_beside
from folio.runs.folders import find_checkpoint
from folio.runtime.errors import FolioError
from folio.runtime.startup import fast_imports
from folio.runtime.untrusted import shown
from folio.serve.errors import ApiError
from folio.serve.limits import MAX_PROMPT_TOKENS
from folio.serve.requests import Prompt

if TYPE_CHECKING:
    from folio.models import GPT


@dataclass(frozen=True)
class ServedModel:
    """A trained decoder with its tokenizer."""

    id: str
    """Name in requests."""
    model: "GPT"
    tokenizer: Tokenizer
    path: Path
    """Checkpoint file."""
    step: int
    """Optimizer step of the weights."""
    n_parameters: int
    """Number of parameters, before the weights are rounded."""
    created: int
    """Time at which the checkpoint was written, in seconds since 1970."""
    sample_prompt: str
    """Prompt that the run itself wrote samples from."""
    val: dict[str, float] = field(default_factory=dict)
    """Validation metrics that training logged for these weights."""

    @property
    def context_length(self) -> int:
        return self.model.config.context_length

    def encode_all(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Return the ids of each prompt, at least one. Raises: ApiError."""
        encoded = []
        n_left = MAX_PROMPT_TOKENS
        for prompt in prompts:
            encoded.append(self._encode(prompt))
            n_left -= len(encoded[-1])
            if n_left < 0:
                raise ApiError(
                    f"the prompts have more than {MAX_PROMPT_TOKENS:,} tokens, the most of a request; send fewer",
                    param="prompt",
                )
        return encoded

    def _encode(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, list):
            n_symbols = self.tokenizer.vocab_size
            for token in prompt:
                if not 0 <= token < n_symbols:
                    raise ApiError(
                        f"token id {shown(token)} is outside the vocabulary of {self.id}, 0 to {n_symbols - 1}",
                        param="prompt",
                    )
            return prompt
        try:
            ids: list[int] = self.tokenizer.encode(prompt).tolist()
        except FolioError as error:
            raise ApiError(str(error), param="prompt") from None
        if not ids and self.tokenizer.end_of_text is not None:
            return [self.tokenizer.end_of_text]  # a new document, as in OpenAI's API
        if not ids:
            raise ApiError(
                f"prompt={prompt!r} gives no tokens, but a model continues at least one; give some text", param="prompt"
            )
        return ids

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes that a token adds to a text, which may end within a character."""
        decode_bytes = getattr(self.tokenizer, "decode_bytes", None)  # of tokenizers that lose nothing
        return decode_bytes([token]) if decode_bytes else self.tokenizer.decode([token]).encode()

    def token_text(self, token: int) -> str:
        r"""Return a token as text: `bytes:\xe2` in OpenAI's notation if it is part of a character."""
        content = self.token_bytes(token)
        try:
            return content.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)


class ServedModels:
    """The models of a server, in the order of the command line."""

    def __init__(self, models: Sequence[ServedModel]) -> None:
        self._models = {model.id: model for model in models}

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models.values())

    def at(self, index: int) -> ServedModel:
        """Return a model by its place on the command line. Raises: ApiError."""
        models = list(self)
        if index >= len(models):
            raise ApiError(f"model={index} must be below {len(models)}", param="model")
        return models[index]

    def find(self, name: str | None) -> ServedModel:
        """Return the model that a request names; without a name, the only one. Raises: ApiError."""
        if name is None and len(self._models) == 1:
            return next(iter(self))
        known = ", ".join(self._models)
        if name is None:
            raise ApiError(f"model is missing; the models are {known}", param="model")
        if name not in self._models:
            raise ApiError(
                f"model={shown(name)} is not served; the models are {known}",
                param="model",
                status=404,
                code="model_not_found",
            )
        return self._models[name]


def find_checkpoints(runs: Sequence[str], output_dir: Path, which: str) -> list[Path]:
    """Return the checkpoint of each RUN, without torch. Raises: FolioError, also for a model of the wrong family."""
    paths = [find_checkpoint(run, output_dir, which) for run in runs]
    for path in paths:
        if config := config_beside(path):
            check_family(path, config.model.family)
    return paths


def check_family(path: Path, family: str) -> None:
    """Raises: FolioError unless the model is a decoder."""
    if family != "decoder":
        raise FolioError(
            f"{path}: the model is an {family.replace('_', '-')}, and OpenAI's API is for decoders, which continue a "
            "prompt; use scripts/generate.py"
        )


def load_models(paths: Sequence[Path], device: str, quantize: str | None) -> ServedModels:
    """Load the model of each checkpoint. Raises: FolioError."""
    with fast_imports():  # only now torch, whose import takes seconds
        from folio.distributed.devices import device_from_name
        from folio.generation.weights import prepare_weights
        from folio.models import GPT
        from folio.runs.checkpoints import load_checkpoint

    models: list[ServedModel] = []
    for path in paths:
        trained = load_checkpoint(path, device_from_name(device))
        check_family(path, trained.config.model.family)
        assert isinstance(trained.model, GPT)
        n_parameters = trained.model.n_parameters
        prepare_weights(trained.model, quantize)
        name = choose_name(trained.config.run_name, path, [model.id for model in models])
        models.append(
            ServedModel(
                id=name,
                model=trained.model,
                tokenizer=trained.tokenizer,
                path=path,
                step=trained.step,
                n_parameters=n_parameters,
                created=int(path.stat().st_mtime),
                sample_prompt=trained.config.callbacks.samples.prompt,
                val=trained.val,
            )
        )
    return ServedModels(models)


def choose_name(run_name: str, path: Path, taken: Sequence[str]) -> str:
    """Return quickstart for a run, quickstart@step=250 for another of its checkpoints, quickstart-2 for the next."""
    base = run_name if path.stem in ("best", "last") else f"{run_name}@{path.stem}"
    numbered = (f"{base}-{number}" for number in range(2, len(taken) + 3))
    return next(name for name in (base, *numbered) if name not in taken)
