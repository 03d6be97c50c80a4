"""Muon for the matrices inside the blocks and AdamW for everything else, as one optimizer."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from folio.config.optimizer import MuonConfig
from folio.optim.optimizers import LR_SCALE, param_groups


def build_muon(model: nn.Module, config: MuonConfig, fused: bool) -> torch.optim.Optimizer:
    """Muon and AdamW over all parameters of a model."""
    matrices = block_matrices(model)
    others = param_groups(model, config.weight_decay, left_out=set(matrices))
    if config.adamw_learning_rate is not None:
        for group in others:
            group[LR_SCALE] = config.adamw_learning_rate / config.learning_rate
    return MuonWithAdamW(matrices, others, config, fused)


def block_matrices(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that Muon updates: the trainable matrices of the blocks.

    Muon is for matrices that map one hidden vector to another. Embeddings, position tables and the output layer
    are matrices as well, but each of their rows belongs to a symbol or a place, and AdamW serves them better;
    biases and norms are no matrices at all (Jordan et al. 2024).

    A fused projection, such as that of q, k and v, is one matrix here and is orthogonalised whole. Jordan et al.
    advise to split it; that would take an optimizer that knows how each layer is laid out.
    """
    return [
        parameter
        for name, parameter in model.named_parameters()
        if "blocks." in name and parameter.ndim == 2 and parameter.requires_grad
    ]


class MuonWithAdamW(torch.optim.Optimizer):
    """One optimizer, with one step and one state, whose first group is Muon's and whose other groups are AdamW's.

    Both halves do well at the same learning rate, since Muon's update is scaled to the root mean square of AdamW's
    (Liu et al. 2025, section 2.2). `fused` is for AdamW; Muon has no such kernel.

    Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks".
    Raises: ValueError where there is no matrix for Muon or nothing for AdamW.
    """

    def __init__(
        self, matrices: list[nn.Parameter], others: list[dict[str, Any]], config: MuonConfig, fused: bool
    ) -> None:
        self._muon = torch.optim.Muon(
            matrices,
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            nesterov=config.nesterov,
            adjust_lr_fn="match_rms_adamw",
        )
        first, second = config.betas
        self._adamw = torch.optim.AdamW(
            others, lr=config.learning_rate, betas=(first, second), eps=config.eps, fused=fused
        )
        super().__init__([*self._muon.param_groups, *self._adamw.param_groups], {"lr": config.learning_rate})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter by its rule. Returns: what `closure`, called first with gradients on, returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._lend()
        self._muon.step()
        self._adamw.step()
        return loss

    def _lend(self) -> None:
        """Let both halves work on this optimizer's groups and state, which are the only ones that are ever saved.

        At each step, because loading a checkpoint puts new groups and a new state in the place of the old.
        """
        self._muon.param_groups, self._adamw.param_groups = self.param_groups[:1], self.param_groups[1:]
        self._muon.state = self._adamw.state = self.state
