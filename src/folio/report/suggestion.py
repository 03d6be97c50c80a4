"""Suggest a size and a number of steps for a time, from a law of size and tokens and from measured steps."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch

from folio.distributed.cost_model import step_flops
from folio.models import TransformerConfig, build_model
from folio.report.joint_law import JointFit, JointLaw
from folio.runtime.errors import FolioError

WIDTHS = (*range(32, 257, 32), 320, 384, 448, 512, 640, 768, 1024)
MIN_LAYERS = 4
MAX_WIDTH_PER_LAYER = 64
"""Ratio of d_model and n_layers beyond which a candidate gets more layers. The runs of the law had 4 layers and ratios
of 8 to 64. From 10 to 100 it hardly matters (Kaplan et al. 2020, figure 5)."""

MAX_MEASURED_WIDTH = 256
"""Width of the wide model of which a step is measured first, if the heads divide it: wide enough for its products to
take most of the time, and narrow enough for a moment."""
MIN_STEPS = 200
"""Fewest steps of a candidate: the usual warm-up takes half of them."""
N_SHOWN = 7
SHARE = 0.9
"""Probability of an interval."""


@dataclass(frozen=True)
class Suggestion:
    """A size, and what it reaches in the given time."""

    model: TransformerConfig
    parameters: int
    """Number of parameters without embeddings."""
    step_s: float
    n_steps: int
    n_tokens: int
    loss: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Suggestions:
    """The best size, its neighbors, and the range of widths that might be the best one instead."""

    best: Suggestion
    shown: list[Suggestion]
    measured: dict[int, float]
    """d_model -> seconds of a step."""
    widths: tuple[int, int]
    """The widths that the resampled laws choose, without the rarest tenth."""


def suggest(
    model: TransformerConfig,
    batch_size: int,
    seconds: float,
    fit: JointFit,
    measure: Callable[[TransformerConfig], float],
) -> Suggestions | None:
    """Return what to train in so many seconds; None if they are too few for MIN_STEPS steps of any size.

    `measure` returns the seconds of an optimizer step. Those of a narrow and a wide model give the time of a step that
    does not depend on its size, and the speed of the rest. The steps of the best size and its neighbors are measured.

    Raises: FolioError if the heads divide fewer than two of the widths.
    """
    candidates = list(candidates_of(model))
    if len(candidates) < 2:
        raise FolioError(
            f"model.n_heads={model.n_heads}: sizes are suggested for widths that are multiples of 32, which so many "
            "heads do not divide; use model.n_heads=4, or give model.d_head"
        )
    small, *others = candidates
    large = max((each for each in others if each.d_model <= MAX_MEASURED_WIDTH), key=_width, default=others[0])
    measured = {each.d_model: measure(each) for each in (small, large)}
    flops = [step_flops(each, batch_size) for each in (small, large)]
    narrow_s, wide_s = measured.values()
    per_flop = max((wide_s - narrow_s) / (flops[1] - flops[0]), 0.1 * wide_s / flops[1])
    fixed = max(narrow_s - per_flop * flops[0], 0.0)

    def reached(candidate: TransformerConfig, step_s: float) -> Suggestion:
        n_steps, parameters = max(1, int(seconds / step_s)), parameters_of(candidate)
        n_tokens = n_steps * batch_size * candidate.context_length
        loss, interval = fit.law(parameters, n_tokens), fit.interval(parameters, n_tokens, SHARE)
        return Suggestion(candidate, parameters, step_s, n_steps, n_tokens, loss, interval)

    steps = {each: measured.get(each.d_model, fixed + per_flop * step_flops(each, batch_size)) for each in candidates}
    estimated = [reached(each, step_s) for each, step_s in steps.items()]
    possible = [each for each in estimated if each.n_steps >= MIN_STEPS]
    if not possible:
        return None

    def choose(law: JointLaw) -> int:
        """Return the index of the size with the lowest loss by a law."""
        return int(np.argmin([law(each.parameters, each.n_tokens) for each in possible]))

    def not_measured() -> Iterator[int]:
        """Yield the index of the best size and those of its neighbors, if only an estimate of their step is known."""
        best = choose(fit.law)
        for index in (best, best - 1, best + 1):
            if 0 <= index < len(possible) and possible[index].model.d_model not in measured:
                yield index

    while (index := next(not_measured(), None)) is not None:
        size = possible[index].model
        measured[size.d_model] = measure(size)
        possible[index] = reached(size, measured[size.d_model])
    index = choose(fit.law)
    widths = sorted(possible[choose(law)].model.d_model for law in fit.resampled)
    low, high = (widths[round(share * (len(widths) - 1))] for share in ((1 - SHARE) / 2, (1 + SHARE) / 2))
    first = max(0, min(index - N_SHOWN // 2, len(possible) - N_SHOWN))
    return Suggestions(possible[index], possible[first : first + N_SHOWN], measured, (low, high))


def _width(model: TransformerConfig) -> int:
    return model.d_model


def candidates_of(model: TransformerConfig) -> Iterator[TransformerConfig]:
    """Yield the model in each width that its heads divide, with more layers the wider it is."""
    for width in WIDTHS:
        n_layers = max(MIN_LAYERS, -(-width // MAX_WIDTH_PER_LAYER))
        if model.d_head is not None or width % (2 * model.n_heads) == 0:
            yield replace(model, d_model=width, n_layers=n_layers, d_ff=None)


@cache
def parameters_of(model: TransformerConfig) -> int:
    """Return the number of parameters without embeddings, without allocating them."""
    with torch.device("meta"):
        return build_model(model).n_parameters_without_embeddings
