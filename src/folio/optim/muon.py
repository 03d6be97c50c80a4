"""Muon for the matrices of the blocks and AdamW for everything else, as one optimizer."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from folio.config.optimizer import MuonConfig
from folio.models.blocks import FusedLinear
from folio.optim.batched_muon import BatchedMuon
from folio.optim.optimizers import LR_SCALE, hidden_matrices, param_groups, scaled_group, width_multiplier
from folio.optim.sharded_muon import ShardedMuon


def build_muon(model: nn.Module, config: MuonConfig, fused: bool) -> torch.optim.Optimizer:
    """Return Muon and AdamW over all parameters of a model.

    Muon is for matrices that map one hidden vector to another. Embeddings, position tables and the output layer are
    matrices too, but each of their rows belongs to one symbol or position, and AdamW suits them better
    (Jordan et al. 2024).

    A fused projection, such as that of q, k and v, is orthogonalized as one matrix, or with optimizer.split_fused as
    the projections that it holds, as Jordan et al. advise.

    With model.parametrization=mup, Muon's learning rate falls with 1 / sqrt(width). The singular values of its updates
    are all equal and, scaled to AdamW's root mean square, grow with sqrt(width); those of a matrix's update must not
    depend on the width (Yang et al. 2023, "A spectral condition for feature learning", condition 1).
    """
    matrices = hidden_matrices(model)
    muon_groups = [scaled_group(matrices, config.weight_decay, width_multiplier(model) ** -0.5)] if matrices else []
    adamw_groups = param_groups(model, config.weight_decay, exclude=set(matrices))
    if config.adamw_learning_rate is not None:
        for group in adamw_groups:
            group[LR_SCALE] = config.adamw_learning_rate / config.learning_rate
    return MuonWithAdamW(muon_groups, adamw_groups, config, fused, fused_sizes(model) if config.split_fused else {})


def fused_sizes(model: nn.Module) -> dict[Tensor, tuple[int, ...]]:
    """Return the matrices of a model that hold several projections, with the rows of each."""
    return {layer.weight: layer.sizes for layer in model.modules() if isinstance(layer, FusedLinear)}


class MuonWithAdamW(torch.optim.Optimizer):
    """One optimizer with one state: its first parameter group is Muon's, and the others are AdamW's.

    Both do well at the same learning rate, because Muon's update is scaled to the root mean square of AdamW's
    (Liu et al. 2025, section 2.2). `fused` concerns AdamW; Muon has no fused kernel.

    Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks".
    Raises: ValueError if Muon or AdamW is left without parameters.
    """

    def __init__(
        self,
        muon_groups: list[dict[str, Any]],
        adamw_groups: list[dict[str, Any]],
        config: MuonConfig,
        fused: bool,
        fused_sizes: Mapping[Tensor, Sequence[int]],
    ) -> None:
        is_sharded = any(isinstance(matrix, DTensor) for group in muon_groups for matrix in group["params"])
        self._muon = (ShardedMuon if is_sharded else BatchedMuon)(
            muon_groups,
            fused_sizes,
            lr=config.learning_rate,
            momentum=config.momentum,
            nesterov=config.nesterov,
        )
        beta1, beta2 = config.betas
        self._adamw = torch.optim.AdamW(
            adamw_groups, lr=config.learning_rate, betas=(beta1, beta2), eps=config.eps, fused=fused
        )
        super().__init__([*self._muon.param_groups, *self._adamw.param_groups], {"lr": config.learning_rate})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter, and return what `closure` returned, which is called first, with gradients enabled."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._share_state()
        self._muon.step()
        self._adamw.step()
        return loss

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            if "rate_factor" in group:  # the name of LR_SCALE in checkpoints before format 4
                group[LR_SCALE] = group.pop("rate_factor")

    def _share_state(self) -> None:
        """Let both optimizers work on the groups and the state of this one, which are what a checkpoint holds.

        At each step, because loading a checkpoint replaces the groups and the state.
        """
        self._muon.param_groups, self._adamw.param_groups = self.param_groups[:1], self.param_groups[1:]
        self._muon.state = self._adamw.state = self.state
