"""Detect NaN or infinite gradients and weights, and jumps of the loss. Imports no lightning."""

import math
from collections import deque
from collections.abc import Iterable
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from folio.config.training import TrainingConfig
from folio.distributed.sharding import own_part
from folio.runtime.errors import FolioError


class Diverged(FolioError):  # noqa: N818 (an event, not a fault of the code)
    """The run diverged. Its last checkpoint is from before."""


class GradientMonitor:
    """Detects NaN or infinite gradients before anything that they spoil is saved.

    On the CPU, and with on_nan=skip, each norm is read before its update. Elsewhere reading it would make every step
    wait for the device, so with on_nan=stop the norms stay there until `check`, before each log line and checkpoint.
    """

    def __init__(self, training: TrainingConfig) -> None:
        self.skips = training.on_nan == "skip"
        self.max_in_a_row = training.max_nan_steps if self.skips else 1
        self.n_skipped = 0
        """Number of skipped steps in all parts of the run."""
        self._in_a_row = 0
        self._unread: list[tuple[int, float, Tensor]] = []

    def should_step(self, step: int, learning_rate: float, norm: Tensor) -> bool:
        """Return whether to apply an update with this gradient norm. Raises: Diverged if the run must stop."""
        if not self.skips and norm.device.type != "cpu":
            self._unread.append((step, learning_rate, norm))
            return True
        if math.isfinite(norm.item()):
            self._in_a_row = 0
            return True
        self._in_a_row += 1
        if self._in_a_row >= self.max_in_a_row:
            raise Diverged(self._message(step, learning_rate, norm.item()))
        self.n_skipped += 1
        return False

    def check(self) -> None:
        """Read the norms that are still on the device. Raises: Diverged at the first that is NaN or infinite."""
        unread, self._unread = self._unread, []
        if not unread:
            return
        norms = torch.stack([norm for _, _, norm in unread]).tolist()
        for (step, learning_rate, _), norm in zip(unread, norms, strict=True):
            if not math.isfinite(norm):
                raise Diverged(self._message(step, learning_rate, norm))

    def _message(self, step: int, learning_rate: float, norm: float) -> str:
        repeated = f", the last of {self._in_a_row} such steps in a row" if self._in_a_row > 1 else ""
        remedy = "raise training.max_nan_steps" if self.skips else "skip such steps with training.on_nan=skip"
        return (
            f"the gradients of step {step} are not finite{repeated}: learning rate {learning_rate:.3g}, gradient norm "
            f"{norm}; lower optimizer.learning_rate, or {remedy}"
        )

    def state_dict(self) -> dict[str, Any]:
        return {"n_skipped": self.n_skipped, "in_a_row": self._in_a_row}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.n_skipped, self._in_a_row = state["n_skipped"], state["in_a_row"]


@torch.no_grad()
def all_finite(model: nn.Module) -> bool:
    """Return whether no weight of this process is NaN or infinite. Waits for the device once."""
    return bool(torch.stack([own_part(parameter).isfinite().all() for parameter in model.parameters()]).all())


class SpikeDetector:
    """Detects a training loss far above the previous ones."""

    WINDOW = 20
    """Number of logged losses whose median a loss is compared with."""
    MIN_LOSSES = 5
    """Number of losses needed for a comparison; the first ones fall fast and say little."""
    THRESHOLD_NATS = 1.0
    """Distance above the median from which a loss is a spike."""

    def __init__(self, losses_nats: Iterable[float] = ()) -> None:
        self.losses_nats = deque(losses_nats, maxlen=self.WINDOW)

    def update(self, loss_nats: float) -> float | None:
        """Add a loss. Returns: the median of the previous ones if the loss is a spike, else None."""
        previous = median(self.losses_nats) if len(self.losses_nats) >= self.MIN_LOSSES else None
        self.losses_nats.append(loss_nats)
        return previous if previous is not None and loss_nats > previous + self.THRESHOLD_NATS else None
