"""Text from a model of any family, a token at a time. Imports no lightning."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, tee

import torch
from torch import Tensor

from folio.data.tokenizers.base import Tokenizer
from folio.generation.filling import fill_masks
from folio.generation.prompts import check_request
from folio.generation.sampling import Sampling
from folio.generation.token_choice import Chooser
from folio.models import GPT, Encoder, EncoderDecoder, Model
from folio.models.attention import Source
from folio.models.cache import KeyValueCache


def generate(
    model: Model,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    prefixes: Sequence[str | None] | None = None,
    max_new_tokens: int,
    sampling: Sampling,
    seeds: Sequence[int],
    stop: Sequence[str] = (),
    window: int | None = None,
    use_cache: bool = True,
) -> list[Iterator[str]]:
    """A text for each prompt and seed, in pieces as it is made: what was given, then what the model writes.

        decoder            continues the prompt
        encoder-decoder    reads the prefix with its encoder and continues it, after the prompt where there is one
        encoder            fills the blanks of the prompt, each written [MASK], and adds no text

    A text ends before its first stop string, or after max_new_tokens. Past `window` tokens, the model's
    context_length where none is given, the oldest are forgotten; see `generate_tokens` for what that costs.

    Each is the text that its prompt and seed give alone, though they may differ in length and are written together:
    to ask for a piece of one is to write the others as far. (A model in float32 rounds a batch otherwise than a row, so
    where two tokens are all but equally likely it may choose the other.) The draws come from generators of their own:
    the same seed gives the same text, and training that asks for a sample goes on as if it had not.

    Raises: FolioError for what this model cannot write from.
    """
    prefixes = [None] * len(prompts) if prefixes is None else prefixes
    assert len(prompts) == len(prefixes) == len(seeds)
    longest = longest_sequence(model)
    for prompt, prefix in zip(prompts, prefixes, strict=True):
        check_request(model.config, tokenizer, prompt, prefix, stop=stop, window=window, longest=longest)
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
    sampling: Sampling,
    seed: int,
    stop: Sequence[str] = (),
    window: int | None = None,
    use_cache: bool = True,
) -> Iterator[str]:
    """`generate` for one text."""
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


def longest_sequence(model: Model) -> int | None:
    """How many positions the model knows; None where its positional encoding has no end."""
    stack = model.decoder if isinstance(model, EncoderDecoder) else model
    return stack.positional_encoding.longest


@torch.inference_mode()
def generate_tokens(
    model: GPT | EncoderDecoder,
    prompts: Sequence[Sequence[int]],
    *,
    prefixes: Sequence[Sequence[int]] | None = None,
    max_new_tokens: int,
    sampling: Sampling,
    seeds: Sequence[int],
    n_symbols: int,
    window: int | None = None,
    use_cache: bool = True,
) -> Iterator[list[int]]:
    """Yield one new id for each prompt at a time. An encoder-decoder goes on from prefixes, and may do without prompts.

    While the longest text fits into the window, keys and values of what was read are kept, and a new token costs the
    reading of one. Past that the window slides: each row is read anew, from the token after the one it began with, so
    that a token costs the reading of a whole window. Kept keys would not do: every position has become another, and
    above the first layer all keys know of the token that is gone. Where the positional encoding has no end (all but
    learned) a window longer than the model's context_length puts that off; how well the model writes there is another
    question. use_cache=False reads anew for every token: slower, and the same but for rounding.
    """
    prefixes = [()] * len(prompts) if prefixes is None else prefixes
    given = [[*prefix, *prompt] for prefix, prompt in zip(prefixes, prompts, strict=True)]
    chooser = Chooser(given, sampling=sampling, seeds=seeds, n_symbols=n_symbols)
    # The decoder of an encoder-decoder begins with the last token of the prefix.
    texts = [[*prefix[-1:], *prompt] for prefix, prompt in zip(prefixes, prompts, strict=True)]
    source = read_prefixes(model, prefixes) if isinstance(model, EncoderDecoder) else None
    window = window or model.config.context_length
    reader = Reader(model, texts, source, window, n_new=max_new_tokens, use_cache=use_cache)
    for _ in range(max_new_tokens):
        tokens = chooser.choose(reader.logits())
        yield tokens
        reader.append(tokens)


def read_prefixes(model: EncoderDecoder, prefixes: Sequence[Sequence[int]]) -> Source:
    """The encoder's states (B, S, D) of prefixes, which are padded at the end."""
    device = next(model.parameters()).device
    longest = max(map(len, prefixes))
    padded = torch.tensor([[*prefix, *[0] * (longest - len(prefix))] for prefix in prefixes], device=device)
    lengths = torch.tensor([len(prefix) for prefix in prefixes], device=device)
    return model.encode(padded, None if (lengths == longest).all() else lengths)


class Reader:
    """Texts that grow together by n_new tokens, at most `window` tokens of each, and what a model says comes next.

    The shorter ones are padded in front, so that all end in the same column. Memory for the tokens, and for the keys
    and values of a cache, is taken once.
    """

    def __init__(
        self,
        model: GPT | EncoderDecoder,
        texts: Sequence[Sequence[int]],
        source: Source | None,
        window: int,
        *,
        n_new: int,
        use_cache: bool,
    ) -> None:
        device = next(model.parameters()).device
        longest = max(map(len, texts))
        padding = torch.tensor([longest - len(text) for text in texts], device=device)
        padded = torch.tensor([[0] * (longest - len(text)) + [*text] for text in texts], device=device)  # (B, T)
        self._model = model
        self._source = source
        self._n_tokens = min(longest, window)
        self._tokens = padded.new_zeros(len(texts), min(window, longest + n_new))
        """(B, capacity), of which the first n_tokens columns are written."""
        self._tokens[:, : self._n_tokens] = padded[:, longest - self._n_tokens :]
        padding = (padding - (longest - self._n_tokens)).clamp(min=0)
        self._n_padding = padding if padding.any() else None
        self._cache: KeyValueCache | None = None
        self._n_read = 0
        """How many columns the cache holds."""
        if use_cache and longest <= window:
            in_front = model.config.conditioning == "hidden_cache" and source is not None
            n_states = source.states.size(1) if source is not None and in_front else 0
            self._cache = KeyValueCache(model.config.n_layers, n_states + self._tokens.size(1))

    def logits(self) -> Tensor:
        """Of the token that follows each text, (B, V)."""
        hidden = self._hidden(self._tokens[:, self._n_read : self._n_tokens])[:, -1]  # (B, D): only the last
        if self._cache is not None:
            self._n_read = self._n_tokens
        return self._model.output(hidden)

    def append(self, tokens: Sequence[int]) -> None:
        """Let each text go on with its token; one that outgrows the window loses its oldest."""
        if self._n_tokens == self._tokens.size(1):
            self._slide()
        self._tokens[:, self._n_tokens] = torch.tensor(tokens, device=self._tokens.device)
        self._n_tokens += 1

    def _slide(self) -> None:
        """Forget the oldest column, and all that is cached: every position has become another."""
        self._tokens[:, :-1] = self._tokens[:, 1:].clone()
        self._n_tokens -= 1
        self._cache, self._n_read = None, 0
        if self._n_padding is not None:
            self._n_padding = (self._n_padding - 1).clamp(min=0)

    def _hidden(self, tokens: Tensor) -> Tensor:
        if isinstance(self._model, EncoderDecoder):
            assert self._source is not None
            return self._model.decode(tokens, self._source, cache=self._cache, n_padding=self._n_padding)
        return self._model.hidden(tokens, cache=self._cache, n_padding=self._n_padding)


def until_stop(pieces: Iterable[str], stop: Sequence[str]) -> Iterator[str]:
    """Pass text on until a stop string is complete, which may begin in one piece and end in a later one.

    The first to be complete counts, so how the text is cut into pieces makes no difference.
    """
    held = ""
    for piece in pieces:
        held += piece
        found = [(at + len(string), at) for string in stop if (at := held.find(string)) >= 0]
        if found:
            _, start = min(found)
            if start:
                yield held[:start]
            return
        n_safe = len(held) - _possible_start(held, stop)
        if n_safe:
            yield held[:n_safe]
        held = held[n_safe:]
    if held:
        yield held


def _possible_start(text: str, stop: Sequence[str]) -> int:
    """How many of the last characters of `text` could be the beginning of a stop string."""
    lengths = (n for string in stop for n in range(1, len(string)) if text.endswith(string[:n]))
    return max(lengths, default=0)
