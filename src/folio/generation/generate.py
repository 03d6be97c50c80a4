"""Generate text with a model of any family, one token at a time. Imports no lightning."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, tee

import torch

from folio.data.tokenizers.base import Tokenizer
from folio.generation.filling import fill_masks
from folio.generation.prompts import check_request
from folio.generation.stop_strings import until_stop
from folio.models import GPT, Encoder, EncoderDecoder, Model
from folio.models.blocks import EncoderOutput
from folio.models.decoding import DecodingBatch
from folio.models.sampling import SamplingParams
from folio.models.token_sampler import TokenSampler


def generate(
    model: Model,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    prefixes: Sequence[str | None] | None = None,
    max_new_tokens: int,
    sampling: SamplingParams,
    seeds: Sequence[int],
    stop: Sequence[str] = (),
    window: int | None = None,
    use_cache: bool = True,
) -> list[Iterator[str]]:
    """Return an iterator for each prompt and seed, over the pieces of its text as they are generated.

        decoder            continues the prompt
        encoder-decoder    reads the prefix with its encoder and continues it, after the prompt if there is one
        encoder            fills the blanks of the prompt, each written [MASK], and adds no text

    The first piece is the given text. A text ends before its first stop string, or after max_new_tokens. Past `window`
    tokens (by default the model's context_length) the oldest are dropped; see `generate_tokens` for the cost. Of a
    longer prefix, the encoder reads the last `window` tokens.

    The texts may differ in length and are generated together, so that asking for a piece of one advances the others
    too; yet each is what its prompt and seed give alone. (In float32 a batch rounds differently from a single row, so
    if two tokens are almost equally likely, the choice may differ.) Random numbers come from separate generators: a
    seed always gives the same text, and sampling during training does not affect it.

    Raises: FolioError if this model cannot write from such a prompt.
    """
    prefixes = [None] * len(prompts) if prefixes is None else prefixes
    assert len(prompts) == len(prefixes) == len(seeds)
    for prompt, prefix in zip(prompts, prefixes, strict=True):
        check_request(model.config, tokenizer, prompt, prefix, stop=stop, window=window)
    if isinstance(model, Encoder):
        return [
            fill_masks(model, tokenizer, prompt, sampling=sampling, seed=seed)
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
    prompt_ids = [tokenizer.encode(prompt).tolist() for prompt in prompts]
    prefix_ids = [tokenizer.encode(prefix or "").tolist() for prefix in prefixes]
    steps = generate_tokens(
        model,
        prompt_ids,
        prefixes=prefix_ids if isinstance(model, EncoderDecoder) else None,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        seeds=seeds,
        n_symbols=tokenizer.vocab_size,
        window=window,
        use_cache=use_cache,
    )
    texts: list[Iterator[str]] = []
    for row, own_steps in enumerate(tee(steps, len(prompts))):
        new = tokenizer.decode_stream(_column(own_steps, row), after=prefix_ids[row] + prompt_ids[row])
        texts.append(chain([(prefixes[row] or "") + prompts[row]], until_stop(new, stop)))
    return texts


def generate_text(
    model: Model,
    tokenizer: Tokenizer,
    prompt: str,
    *,
    prefix: str | None = None,
    max_new_tokens: int,
    sampling: SamplingParams,
    seed: int,
    stop: Sequence[str] = (),
    window: int | None = None,
    use_cache: bool = True,
) -> Iterator[str]:
    """Yield the pieces of one text; see `generate`."""
    (pieces,) = generate(
        model,
        tokenizer,
        [prompt],
        prefixes=[prefix],
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        seeds=[seed],
        stop=stop,
        window=window,
        use_cache=use_cache,
    )
    return pieces


def _column(steps: Iterable[Sequence[int]], row: int) -> Iterator[int]:
    return (step[row] for step in steps)


@torch.inference_mode()
def generate_tokens(
    model: GPT | EncoderDecoder,
    prompts: Sequence[Sequence[int]],
    *,
    prefixes: Sequence[Sequence[int]] | None = None,
    max_new_tokens: int,
    sampling: SamplingParams,
    seeds: Sequence[int],
    n_symbols: int,
    window: int | None = None,
    use_cache: bool = True,
) -> Iterator[list[int]]:
    """Yield one new id per prompt at each step. An encoder-decoder continues prefixes; its prompts may be empty.

    As long as the longest text fits into the window, the keys and values of earlier tokens are cached, and a step costs
    a forward pass over one token per row. Past that the window slides: every position changes, and above the first
    layer all cached keys depend on the dropped token, so each step costs a forward pass over the whole window. If the
    positional encoding has no end, a window longer than the model's context_length postpones that, though the model may
    write worse there. A model all of whose layers attend to windows has none: each step costs the same however long the
    text is; see `DecodingBatch`. use_cache=False reads everything again for every token: slower, and the same up to
    rounding.
    """
    prefixes = [()] * len(prompts) if prefixes is None else prefixes
    given = [[*prefix, *prompt] for prefix, prompt in zip(prefixes, prompts, strict=True)]
    sampler = TokenSampler(given, sampling=sampling, seeds=seeds, n_symbols=n_symbols)
    # The decoder of an encoder-decoder starts with the last token of the prefix.
    texts = [[*prefix[-1:], *prompt] for prefix, prompt in zip(prefixes, prompts, strict=True)]
    encoder_output = None
    if isinstance(model, EncoderDecoder):
        longest = window or model.config.context_length
        encoder_output = encode_prefixes(model, [prefix[-longest:] for prefix in prefixes])
    batch = DecodingBatch(model, texts, encoder_output, window, n_new=max_new_tokens, use_cache=use_cache)
    for _ in range(max_new_tokens):
        tokens = sampler.sample(batch.next_logits())
        yield tokens
        batch.append(tokens)


def encode_prefixes(model: EncoderDecoder, prefixes: Sequence[Sequence[int]]) -> EncoderOutput:
    """Run the encoder over prefixes, padded at the end to one length: states (B, S, D)."""
    device = next(model.parameters()).device
    longest = max(map(len, prefixes))
    padded = torch.tensor([[*prefix, *[0] * (longest - len(prefix))] for prefix in prefixes], device=device)
    lengths = torch.tensor([len(prefix) for prefix in prefixes], device=device)
    return model.encode(padded, None if (lengths == longest).all() else lengths)
