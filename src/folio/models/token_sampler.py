"""Draw the next token of each text from logits, as `SamplingParams` says."""

from collections.abc import Sequence

import torch
from torch import Tensor

from folio.models.sampling import SamplingParams


class TokenSampler:
    """Samples for a batch of texts, each from its own generator, so that a text does not depend on the others.

    Everything runs on the CPU, so that a seed gives the same text on every device. Ids from n_symbols on are never
    drawn: a padded vocabulary has rows that belong to no symbol, and an encoder's vocabulary contains the mask.

        >>> greedy = SamplingParams(temperature=0.0)
        >>> sampler = TokenSampler([[1, 2]], sampling=greedy, seeds=[0], n_symbols=3)
        >>> sampler.sample(torch.tensor([[0.1, 0.2, 0.7]]))
        [2]
    """

    def __init__(
        self, texts: Sequence[Sequence[int]], *, sampling: SamplingParams, seeds: Sequence[int], n_symbols: int
    ) -> None:
        assert len(texts) == len(seeds)
        self._sampling = sampling
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._n_symbols = n_symbols
        self._seen = torch.zeros(len(texts), n_symbols, dtype=torch.bool)  # (B, V)
        for seen, text in zip(self._seen, texts, strict=True):
            seen[[token for token in text if token < n_symbols]] = True

    def sample(self, logits: Tensor) -> list[int]:
        """Draw one id for each row of (B, V), which then counts as part of the text."""
        logits = logits[:, : self._n_symbols].float().cpu()
        logits = penalize_repetition(logits, self._seen, self._sampling.repetition_penalty)
        tokens = draw_tokens(logits, self._sampling, self._generators)
        self._seen[torch.arange(len(tokens)), tokens] = True
        sampled: list[int] = tokens.tolist()
        return sampled


def draw_tokens(logits: Tensor, sampling: SamplingParams, generators: Sequence[torch.Generator | None]) -> Tensor:
    """Draw one id for each row of logits (B, V) from the row's generator, or torch's own if it is None: (B,) int64."""
    if sampling.temperature == 0.0:
        return logits.argmax(dim=1)
    rows = zip(token_probabilities(logits, sampling), generators, strict=True)
    return torch.cat([torch.multinomial(row, num_samples=1, generator=generator) for row, generator in rows])


def penalize_repetition(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Lower the logits (..., V) of tokens that the text already contains, seen (..., V) bool, if penalty is above 1."""
    if penalty == 1.0:
        return logits
    limit = torch.finfo(logits.dtype).max
    penalty = min(penalty, limit)  # above it the penalty would be infinite, and infinity times a logit of 0 is NaN
    penalized = torch.where(logits > 0, logits / penalty, logits * penalty)
    return torch.where(seen, penalized.clamp(-limit, limit), logits)


def token_probabilities(logits: Tensor, sampling: SamplingParams) -> Tensor:
    """Apply temperature, top-k, top-p and min-p to penalized logits: (..., V) -> (..., V).

    Excluded tokens have 0. The rest is not rescaled to a sum of 1; torch.multinomial does that.
    """
    # Relative to the largest, so that a small temperature sends the others to -inf, and none to +inf.
    logits = logits - logits.amax(dim=-1, keepdim=True)
    logits = logits / max(sampling.temperature, torch.finfo(logits.dtype).tiny)
    if sampling.top_k is not None and sampling.top_k < logits.size(-1):
        # Exactly k remain, even if several are as likely as the k-th.
        kept = logits.topk(sampling.top_k, dim=-1)
        logits = torch.full_like(logits, float("-inf")).scatter(-1, kept.indices, kept.values)
    probabilities = logits.softmax(dim=-1)
    if sampling.top_p is not None:
        ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
        # The likeliest remains, and each next one as long as those before it have not reached p.
        ordered[..., 1:].masked_fill_(ordered.cumsum(dim=-1)[..., :-1] >= sampling.top_p, 0.0)
        probabilities = torch.zeros_like(probabilities).scatter(-1, order, ordered)
    if sampling.min_p is not None:
        threshold = sampling.min_p * probabilities.amax(dim=-1, keepdim=True)
        probabilities = probabilities.masked_fill(probabilities < threshold, 0.0)
    return probabilities
