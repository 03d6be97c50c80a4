"""Optimizers over two groups of parameters: those that weight decay pulls towards zero, and the others."""

from collections.abc import Collection

import torch
from torch import nn

from folio.config.optimizer import AdamConfig, OptimizerConfig, SGDConfig

LR_SCALE = "rate_factor"
"""Key of a parameter group: what its learning rate is of the one that the schedule gives; 1 where it is not there."""

WAS_MATRIX = "was_matrix"
"""Of a parameter, as `mark_matrices` found it."""


def mark_matrices(model: nn.Module) -> None:
    """Let `is_matrix` know after a strategy has sharded the model, which flattens parameters."""
    for parameter in model.parameters():
        setattr(parameter, WAS_MATRIX, parameter.ndim >= 2)


def is_matrix(parameter: nn.Parameter) -> bool:
    return bool(getattr(parameter, WAS_MATRIX, parameter.ndim >= 2))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give each group of parameters its part of the schedule's rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get(LR_SCALE, 1.0)


def build_optimizer(model: nn.Module, config: OptimizerConfig, fused: bool) -> torch.optim.Optimizer:
    """The optimizer that the config names. `fused` updates all parameters in one pass: faster, the same rule."""
    return config.load_code()(model, config, fused)


def build_adam(model: nn.Module, config: AdamConfig, fused: bool) -> torch.optim.Optimizer:
    """Adam or AdamW."""
    cls = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    first, second = config.betas
    groups = param_groups(model, config.weight_decay)
    return cls(groups, lr=config.learning_rate, betas=(first, second), eps=config.eps, fused=fused)


def build_sgd(model: nn.Module, config: SGDConfig, fused: bool) -> torch.optim.Optimizer:
    """SGD with momentum."""
    groups = param_groups(model, config.weight_decay)
    return torch.optim.SGD(
        groups, lr=config.learning_rate, momentum=config.momentum, nesterov=config.nesterov, fused=fused
    )


def param_groups(
    model: nn.Module, weight_decay: float, left_out: Collection[nn.Parameter] = ()
) -> list[dict[str, object]]:
    """Matrices and embeddings decay; biases and norms, which set scales and not directions, do not.

    Tied weights come once. Source: as in GPT-2's reproductions since Radford et al. 2018, section 4.1.
    """
    parameters = [
        parameter for parameter in model.parameters() if parameter.requires_grad and parameter not in left_out
    ]
    matrices = [parameter for parameter in parameters if is_matrix(parameter)]
    vectors = [parameter for parameter in parameters if not is_matrix(parameter)]
    groups: list[dict[str, object]] = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
