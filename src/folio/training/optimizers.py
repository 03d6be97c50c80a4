"""Optimizers over two groups of parameters: those that weight decay pulls towards zero, and the others."""

from collections.abc import Collection

import torch
from torch import nn

from folio.config import AdamConfig, MuonConfig, SGDConfig
from folio.training.muon import MuonWithAdamW, block_matrices

OptimizerConfig = AdamConfig | SGDConfig | MuonConfig


def build_optimizer(model: nn.Module, config: OptimizerConfig, fused: bool) -> torch.optim.Optimizer:
    """The optimizer that the config names. `fused` updates all parameters in one pass: faster, the same rule."""
    if isinstance(config, MuonConfig):
        matrices = block_matrices(model)
        others = decay_groups(model, config.weight_decay, left_out=set(matrices))
        return MuonWithAdamW(matrices, others, config, fused)
    groups = decay_groups(model, config.weight_decay)
    if isinstance(config, SGDConfig):
        return torch.optim.SGD(
            groups, lr=config.learning_rate, momentum=config.momentum, nesterov=config.nesterov, fused=fused
        )
    cls = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    first, second = config.betas
    return cls(groups, lr=config.learning_rate, betas=(first, second), eps=config.eps, fused=fused)


def decay_groups(
    model: nn.Module, weight_decay: float, left_out: Collection[nn.Parameter] = ()
) -> list[dict[str, object]]:
    """Matrices and embeddings decay; biases and norms, which set scales and not directions, do not.

    Tied weights come once. Source: as in GPT-2's reproductions since Radford et al. 2018, section 4.1.
    """
    parameters = [
        parameter for parameter in model.parameters() if parameter.requires_grad and parameter not in left_out
    ]
    matrices = [parameter for parameter in parameters if parameter.ndim >= 2]
    vectors = [parameter for parameter in parameters if parameter.ndim < 2]
    groups: list[dict[str, object]] = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
