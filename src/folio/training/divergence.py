"""A run whose numbers stop being numbers, or jump. Imports no lightning."""

import math
from collections import deque
from collections.abc import Iterable
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from folio.config.training import TrainingConfig
from folio.runtime.errors import FolioError


class Diverged(FolioError):  # noqa: N818 (what happened to the run)
    """The run cannot go on as it is; its last checkpoint is from before."""


class GradientMonitor:
    """Notices gradients that are NaN or infinite before anything that they spoil is saved.

    On the CPU, and with on_nan=skip, each step is looked at before its update. Elsewhere that would make the step wait
    for the device, so with on_nan=stop the norms stay there until `check`, before each log line and checkpoint.
    """

    def __init__(self, training: TrainingConfig) -> None:
        self.skips = training.on_nan == "skip"
        self.largest_run = training.max_nan_steps if self.skips else 1
        self.n_skipped = 0
        """Steps without an update, over all parts of the run."""
        self._in_a_row = 0
        self._unread: list[tuple[int, float, Tensor]] = []

    def should_step(self, step: int, learning_rate: float, norm: Tensor) -> bool:
        """Whether the update with gradients of this norm is to be taken. Raises: Diverged where the run must stop."""
        if not self.skips and norm.device.type != "cpu":
            self._unread.append((step, learning_rate, norm))
            return True
        if math.isfinite(norm.item()):
            self._in_a_row = 0
            return True
        self._in_a_row += 1
        if self._in_a_row >= self.largest_run:
            raise Diverged(self._words(step, learning_rate, norm.item()))
        self.n_skipped += 1
        return False

    def check(self) -> None:
        """Read what is still on the device. Raises: Diverged at the first step whose gradients were not finite."""
        unread, self._unread = self._unread, []
        if not unread:
            return
        norms = torch.stack([norm for _, _, norm in unread]).tolist()
        for (step, learning_rate, _), norm in zip(unread, norms, strict=True):
            if not math.isfinite(norm):
                raise Diverged(self._words(step, learning_rate, norm))

    def _words(self, step: int, learning_rate: float, norm: float) -> str:
        before = f", the last of {self._in_a_row} such steps in a row" if self._in_a_row > 1 else ""
        remedy = "raise training.max_nan_steps" if self.skips else "leave such steps out by training.on_nan=skip"
        return (
            f"the gradients of step {step} are not finite{before}: learning rate {learning_rate:.3g}, gradient norm "
            f"{norm}; lower optimizer.learning_rate, or {remedy}"
        )

    def state(self) -> dict[str, Any]:
        return {"n_skipped": self.n_skipped, "in_a_row": self._in_a_row}

    def load_state(self, state: dict[str, Any]) -> None:
        self.n_skipped, self._in_a_row = state["n_skipped"], state["in_a_row"]


@torch.no_grad()
def all_finite(model: nn.Module) -> bool:
    """Whether no weight is NaN or infinite: one look at each, and one wait for the device."""
    return bool(torch.stack([parameter.isfinite().all() for parameter in model.parameters()]).all())


class SpikeDetector:
    """Notices a training loss far above the ones before it."""

    N_BEFORE = 20
    """Logged losses whose median is compared with."""
    N_NEEDED = 5
    """As many must be there: the first losses fall fast, and say little."""
    NATS_ABOVE = 1.0

    def __init__(self, losses: Iterable[float] = ()) -> None:
        self.losses = deque(losses, maxlen=self.N_BEFORE)

    def spike(self, loss_nats: float) -> float | None:
        """The median of the losses before, where this one is NATS_ABOVE it; else None. Remembers the loss."""
        before = median(self.losses) if len(self.losses) >= self.N_NEEDED else None
        self.losses.append(loss_nats)
        return before if before is not None and loss_nats > before + self.NATS_ABOVE else None
