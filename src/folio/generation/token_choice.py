"""The next token of each text, drawn from logits as `folio.generation.sampling` says."""

from collections.abc import Sequence

import torch
from torch import Tensor

from folio.generation.sampling import Sampling


class Chooser:
    """Draws for a batch of texts, each from a generator of its own, so that a text does not depend on its neighbours.

    All on the CPU, so that a seed gives the same text on every device. Ids from n_symbols on are never drawn: a padded
    vocabulary has rows that no symbol belongs to, and an encoder's has its mask.
    """

    def __init__(
        self, texts: Sequence[Sequence[int]], *, sampling: Sampling, seeds: Sequence[int], n_symbols: int
    ) -> None:
        assert len(texts) == len(seeds)
        self._sampling = sampling
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._n_symbols = n_symbols
        self._seen = torch.zeros(len(texts), n_symbols, dtype=torch.bool)  # (B, V)
        for seen, text in zip(self._seen, texts, strict=True):
            seen[[token for token in text if token < n_symbols]] = True

    def choose(self, logits: Tensor) -> list[int]:
        """One id for each row of (B, V), which belongs to the text from then on."""
        logits = logits[:, : self._n_symbols].float().cpu()
        logits = penalise(logits, self._seen, self._sampling.repetition_penalty)
        if self._sampling.temperature == 0.0:
            tokens = logits.argmax(dim=1)
        else:
            probabilities = token_probabilities(logits, self._sampling)
            rows = zip(probabilities, self._generators, strict=True)
            tokens = torch.cat([torch.multinomial(row, num_samples=1, generator=generator) for row, generator in rows])
        self._seen[torch.arange(len(tokens)), tokens] = True
        chosen: list[int] = tokens.tolist()
        return chosen


def penalise(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Logits (..., V), made smaller, for a penalty above 1, where the text has the token: seen (..., V) bool."""
    if penalty == 1.0:
        return logits
    limit = torch.finfo(logits.dtype).max
    penalty = min(penalty, limit)  # past it the penalty would be infinite, and that times a logit of 0 no number
    penalised = torch.where(logits > 0, logits / penalty, logits * penalty)
    return torch.where(seen, penalised.clamp(-limit, limit), logits)


def token_probabilities(logits: Tensor, sampling: Sampling) -> Tensor:
    """(..., V) -> (..., V): what temperature, top-k, top-p and min-p make of penalised logits.

    What they leave out is 0 and the rest is not scaled up to a sum of 1; whoever draws from it divides by the sum.
    """
    # Counted from the largest, so that a small temperature sends the others to -inf, and none to +inf.
    logits = logits - logits.amax(dim=-1, keepdim=True)
    logits = logits / max(sampling.temperature, torch.finfo(logits.dtype).tiny)
    if sampling.top_k is not None and sampling.top_k < logits.size(-1):
        # Exactly k are kept, also where several are as likely as the k-th.
        kept = logits.topk(sampling.top_k, dim=-1)
        logits = torch.full_like(logits, float("-inf")).scatter(-1, kept.indices, kept.values)
    probabilities = logits.softmax(dim=-1)
    if sampling.top_p is not None:
        ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
        # The likeliest stays, and each that follows while those before it have not reached p.
        ordered[..., 1:].masked_fill_(ordered.cumsum(dim=-1)[..., :-1] >= sampling.top_p, 0.0)
        probabilities = torch.zeros_like(probabilities).scatter(-1, order, ordered)
    if sampling.min_p is not None:
        least = sampling.min_p * probabilities.amax(dim=-1, keepdim=True)
        probabilities = probabilities.masked_fill(probabilities < least, 0.0)
    return probabilities
