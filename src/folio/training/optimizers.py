"""Optimizers over two groups of parameters: those that weight decay pulls towards zero, and the others."""

from collections.abc import Collection

import torch
from torch import nn

from folio.config import AdamConfig, MuonConfig, SGDConfig
from folio.training.muon import MuonWithAdamW, block_matrices

OptimizerConfig = AdamConfig | SGDConfig | MuonConfig


RATE_FACTOR = "rate_factor"
"""Key of a parameter group: what its learning rate is of the one that the schedule gives; 1 where it is not there."""


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give each group of parameters its part of the schedule's rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get(RATE_FACTOR, 1.0)


def build_optimizer(
    model: nn.Module, config: OptimizerConfig, fused: bool, matrices: Collection[nn.Parameter] | None = None
) -> torch.optim.Optimizer:
    """The optimizer that the config names. `fused` updates all parameters in one pass: faster, the same rule.

    `matrices` are what decays, for a model whose parameters have lost their shapes by now, as sharded ones have.
    """
    if isinstance(config, MuonConfig):
        in_blocks = block_matrices(model)
        others = decay_groups(model, config.weight_decay, left_out=set(in_blocks))
        if config.adamw_learning_rate is not None:
            for group in others:
                group[RATE_FACTOR] = config.adamw_learning_rate / config.learning_rate
        return MuonWithAdamW(in_blocks, others, config, fused)
    groups = decay_groups(model, config.weight_decay, matrices=matrices)
    if isinstance(config, SGDConfig):
        return torch.optim.SGD(
            groups, lr=config.learning_rate, momentum=config.momentum, nesterov=config.nesterov, fused=fused
        )
    cls = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    first, second = config.betas
    return cls(groups, lr=config.learning_rate, betas=(first, second), eps=config.eps, fused=fused)


def decay_groups(
    model: nn.Module,
    weight_decay: float,
    left_out: Collection[nn.Parameter] = (),
    matrices: Collection[nn.Parameter] | None = None,
) -> list[dict[str, object]]:
    """Matrices and embeddings decay; biases and norms, which set scales and not directions, do not.

    Tied weights come once. Source: as in GPT-2's reproductions since Radford et al. 2018, section 4.1.
    """
    parameters = [
        parameter for parameter in model.parameters() if parameter.requires_grad and parameter not in left_out
    ]
    decaying = {parameter for parameter in parameters if parameter.ndim >= 2} if matrices is None else set(matrices)
    vectors = [parameter for parameter in parameters if parameter not in decaying]
    groups: list[dict[str, object]] = [
        {"params": [parameter for parameter in parameters if parameter in decaying], "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
