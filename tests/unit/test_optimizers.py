"""Every parameter is updated once per step, by the rule of the paper, and only matrices decay."""

from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from folio.config.optimizer import AdamConfig, SGDConfig
from folio.models import GPT, GPTConfig
from folio.optim.optimizers import build_optimizer, param_groups

LEARNING_RATE, DECAY, BETAS, EPS, MOMENTUM = 0.05, 0.3, (0.8, 0.95), 1e-3, 0.9
TINY = GPTConfig(vocab_size=13, context_length=8, n_layers=2, n_heads=2, d_model=6)

Rule = Callable[[Tensor, list[Tensor], float], Tensor]
"""Maps a parameter, the gradients of all steps and the weight decay to the parameter after these steps."""


def adam(name: Literal["adam", "adamw"]) -> AdamConfig:
    return AdamConfig(name=name, learning_rate=LEARNING_RATE, betas=list(BETAS), eps=EPS, weight_decay=DECAY)


def sgd(nesterov: bool) -> SGDConfig:
    return SGDConfig(name="sgd", learning_rate=LEARNING_RATE, momentum=MOMENTUM, nesterov=nesterov, weight_decay=DECAY)


def adamw_rule(value: Tensor, gradients: list[Tensor], decay: float) -> Tensor:
    """Loshchilov and Hutter 2019, algorithm 2, with decay multiplied by the learning rate."""
    first = second = torch.zeros_like(value)
    for step, gradient in enumerate(gradients, start=1):
        first = BETAS[0] * first + (1 - BETAS[0]) * gradient
        second = BETAS[1] * second + (1 - BETAS[1]) * gradient**2
        update = first / (1 - BETAS[0] ** step) / ((second / (1 - BETAS[1] ** step)).sqrt() + EPS)
        value = value - LEARNING_RATE * (update + decay * value)
    return value


def adam_rule(value: Tensor, gradients: list[Tensor], decay: float) -> Tensor:
    """Kingma and Ba 2015, algorithm 1, with L2 regularization: the decay passes through the moments."""
    first = second = torch.zeros_like(value)
    for step, gradient in enumerate(gradients, start=1):
        regularized = gradient + decay * value
        first = BETAS[0] * first + (1 - BETAS[0]) * regularized
        second = BETAS[1] * second + (1 - BETAS[1]) * regularized**2
        update = first / (1 - BETAS[0] ** step) / ((second / (1 - BETAS[1] ** step)).sqrt() + EPS)
        value = value - LEARNING_RATE * update
    return value


def momentum_rule(value: Tensor, gradients: list[Tensor], decay: float) -> Tensor:
    velocity = torch.zeros_like(value)
    for gradient in gradients:
        velocity = MOMENTUM * velocity + gradient + decay * value
        value = value - LEARNING_RATE * velocity
    return value


def nesterov_rule(value: Tensor, gradients: list[Tensor], decay: float) -> Tensor:
    velocity = torch.zeros_like(value)
    for gradient in gradients:
        regularized = gradient + decay * value
        velocity = MOMENTUM * velocity + regularized
        value = value - LEARNING_RATE * (regularized + MOMENTUM * velocity)
    return value


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize(
    ("config", "rule"),
    [
        (adam("adamw"), adamw_rule),
        (adam("adam"), adam_rule),
        (sgd(nesterov=False), momentum_rule),
        (sgd(nesterov=True), nesterov_rule),
    ],
    ids=["adamw", "adam", "sgd", "nesterov"],
)
def test_three_steps_follow_the_published_rule(config: AdamConfig | SGDConfig, rule: Rule, fused: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(4, 3, dtype=torch.float64)
    parameters = list(layer.parameters())
    gradients = [[torch.randn_like(parameter) for parameter in parameters] for _ in range(3)]
    expected = [
        rule(parameter.detach().clone(), [step[index] for step in gradients], decay)
        for index, (parameter, decay) in enumerate(zip(parameters, (DECAY, 0.0), strict=True))
    ]
    optimizer = build_optimizer(layer, config, fused)
    for step in gradients:
        for parameter, gradient in zip(parameters, step, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
    torch.testing.assert_close([parameter.detach() for parameter in parameters], expected)


@pytest.mark.parametrize("tie_weights", [True, False])
def test_each_parameter_is_in_one_group_and_only_matrices_decay(tie_weights: bool) -> None:
    model = GPT(GPTConfig(**{**vars(TINY), "tie_weights": tie_weights}))
    decaying, others = build_optimizer(model, adam("adamw"), fused=False).param_groups
    assert (decaying["weight_decay"], others["weight_decay"]) == (DECAY, 0.0)
    assert {parameter.ndim for parameter in decaying["params"]} == {2}
    assert {parameter.ndim for parameter in others["params"]} == {1}
    grouped = [id(parameter) for parameter in decaying["params"] + others["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters())


def test_frozen_parameters_are_in_no_group() -> None:
    model = GPT(TINY)
    model.token_embedding.requires_grad_(False)
    grouped = [parameter for group in param_groups(model, DECAY) for parameter in group["params"]]
    assert not any(parameter is model.token_embedding.weight for parameter in grouped)
    assert len(grouped) == len(list(model.parameters())) - 1


def test_a_model_with_only_matrices_has_one_group() -> None:
    (group,) = param_groups(nn.Linear(3, 2, bias=False), DECAY)
    assert group["weight_decay"] == DECAY
