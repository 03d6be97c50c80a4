"""Optimizers, and the parameter groups that they update: with and without weight decay."""

from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from folio.config.optimizer import AdamConfig, OptimizerConfig, SGDConfig
from folio.models import Model
from folio.models.initialization import parameters_of_blocks

LR_SCALE = "lr_scale"
"""Key of a parameter group: factor on the schedule's learning rate; 1 if missing."""


def build_optimizer(model: nn.Module, config: OptimizerConfig, fused: bool) -> torch.optim.Optimizer:
    """Return the optimizer that the config names.

    `fused` updates all parameters in one kernel, by the same rule; optimizers without such a kernel ignore it.
    """
    return config.load_code()(model, config, fused)


def build_adam(model: nn.Module, config: AdamConfig, fused: bool) -> torch.optim.Optimizer:
    """Return Adam or AdamW."""
    cls = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    beta1, beta2 = config.betas
    groups = param_groups(model, config.weight_decay)
    return cls(groups, lr=config.learning_rate, betas=(beta1, beta2), eps=config.eps, fused=fused)


def build_sgd(model: nn.Module, config: SGDConfig, fused: bool) -> torch.optim.Optimizer:
    """Return SGD with momentum."""
    groups = param_groups(model, config.weight_decay)
    return torch.optim.SGD(
        groups, lr=config.learning_rate, momentum=config.momentum, nesterov=config.nesterov, fused=fused
    )


def param_groups(model: nn.Module, weight_decay: float, exclude: Collection[nn.Parameter] = ()) -> list[dict[str, Any]]:
    """Return the trainable parameters of a model in up to three groups: with weight decay and without.

    Matrices and embeddings decay. Biases and norms do not: they set scales, not directions. A tied weight comes once.
    Source: GPT-2's reproductions since Radford et al. 2018, section 4.1.

    With model.parametrization=mup, the matrices of the blocks are a group of their own, whose learning rate falls with
    1 / width (Yang et al. 2022, table 8, Adam). All updates of Adam have one size, and those of a matrix point the same
    way, so what they add up to grows with the number of inputs.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad and parameter not in exclude]
    multiplier = width_multiplier(model)
    hidden = set(hidden_matrices(model)) if multiplier != 1.0 else set()
    decay = [parameter for parameter in parameters if parameter.ndim >= 2 and parameter not in hidden]
    no_decay = [parameter for parameter in parameters if parameter.ndim < 2]
    groups = [
        scaled_group([parameter for parameter in parameters if parameter in hidden], weight_decay, 1.0 / multiplier),
        {"params": decay, "weight_decay": weight_decay},
        {"params": no_decay, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def scaled_group(parameters: list[nn.Parameter], weight_decay: float, lr_scale: float) -> dict[str, Any]:
    """Return a parameter group with its own factor on the learning rate.

    Both decide the decay of a step, and only the factor depends on the width: dividing by it makes a step's decay the
    same for all widths, as in the authors' package `mup`.
    """
    if lr_scale == 1.0:
        return {"params": parameters, "weight_decay": weight_decay}
    return {"params": parameters, "weight_decay": weight_decay / lr_scale, LR_SCALE: lr_scale}


def hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """Return the trainable matrices of the blocks, which map one hidden vector to another."""
    return [weight for weight in parameters_of_blocks(model) if weight.ndim >= 2 and weight.requires_grad]


def width_multiplier(model: nn.Module) -> float:
    """Return `TransformerConfig.width_multiplier` of a model; 1 for any other module."""
    return model.config.width_multiplier if isinstance(model, Model) else 1.0


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the learning rate of each parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group.get(LR_SCALE, 1.0)
