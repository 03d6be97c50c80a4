"""Text from a model, a token at a time. Imports no lightning."""

import codecs
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from folio.data.tokenizers import Tokenizer
from folio.errors import FolioError
from folio.models import GPT
from folio.sampling import Sampling


def generate_text(
    model: GPT,
    tokenizer: Tokenizer,
    prompt: str,
    *,
    max_new_tokens: int,
    sampling: Sampling,
    seed: int,
    stop: Sequence[str] = (),
) -> Iterator[str]:
    """Yield the continuation of `prompt` in pieces, as it is made; ends before the first stop string.

    The draws come from a generator of their own: the same seed gives the same text, and training that asks
    for a sample goes on as if it had not. Raises: FolioError for a prompt that gives no tokens.
    """
    tokens = tokenizer.encode(prompt).tolist()
    if not tokens:
        raise FolioError("prompt='' gives no tokens, and a model continues at least one; give some text")
    generator = torch.Generator().manual_seed(seed)
    new_tokens = generate_tokens(model, tokens, max_new_tokens, sampling, generator, tokenizer.vocab_size)
    return until_stop(decode_stream(new_tokens, tokenizer), stop)


@torch.inference_mode()
def generate_tokens(
    model: GPT,
    tokens: Sequence[int],
    max_new_tokens: int,
    sampling: Sampling,
    generator: torch.Generator,
    n_symbols: int,
) -> Iterator[int]:
    """Yield new token ids. Past the model's context_length its window slides: the oldest tokens are forgotten.

    Ids from n_symbols on are never drawn: a padded vocabulary has rows that no symbol belongs to.
    """
    device = next(model.parameters()).device
    window = torch.tensor([list(tokens)], device=device)  # (1, T)
    for _ in range(max_new_tokens):
        window = window[:, -model.config.context_length :]
        hidden = model.hidden(window)[:, -1]  # (1, D): the logits of the other positions are not needed
        logits = model.output(hidden)[0, :n_symbols].float().cpu()  # (V,)
        token = choose_token(logits, sampling, generator)
        yield token
        window = torch.cat((window, torch.tensor([[token]], device=device)), dim=1)


def choose_token(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """Draw an id from logits (V,); on the CPU, so that a seed gives the same text on every device."""
    if sampling.temperature == 0.0:
        return int(logits.argmax())
    probabilities = token_probabilities(logits, sampling)
    return int(torch.multinomial(probabilities, num_samples=1, generator=generator))


def token_probabilities(logits: Tensor, sampling: Sampling) -> Tensor:
    """(V,) -> (V,): temperature first, then top-k, then top-p over what is left."""
    # Counted from the largest, so that a small temperature sends the others to -inf, and none to +inf.
    logits = (logits - logits.max()) / max(sampling.temperature, torch.finfo(logits.dtype).tiny)
    if sampling.top_k is not None and sampling.top_k < logits.numel():
        # Exactly k are kept, also where several are as likely as the k-th.
        kept = logits.topk(sampling.top_k)
        logits = torch.full_like(logits, float("-inf")).scatter(0, kept.indices, kept.values)
    probabilities = logits.softmax(dim=0)
    if sampling.top_p is not None:
        ordered, order = probabilities.sort(descending=True)
        # The likeliest stays, and each that follows while those before it have not reached p.
        ordered[1:][ordered.cumsum(dim=0)[:-1] >= sampling.top_p] = 0.0
        probabilities = torch.zeros_like(probabilities).scatter(0, order, ordered)
    return probabilities


def decode_stream(tokens: Iterable[int], tokenizer: Tokenizer) -> Iterator[str]:
    """Text of tokens as they come; a character whose bytes are spread over tokens waits for the last of them."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for token in tokens:
        if piece := decoder.decode(tokenizer.decode_bytes([token])):
            yield piece
    if rest := decoder.decode(b"", final=True):
        yield rest


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
