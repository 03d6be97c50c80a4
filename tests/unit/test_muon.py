"""Muon and AdamW are one optimizer: each updates its own parameters, and a checkpoint holds the state of both."""

import io
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from folio.config.optimizer import MuonConfig
from folio.models import GPT, GPTConfig
from folio.optim.muon import MuonWithAdamW
from folio.optim.optimizers import build_optimizer, hidden_matrices, set_learning_rate

LEARNING_RATE, DECAY, BETAS, EPS, MOMENTUM = 0.05, 0.3, (0.8, 0.95), 1e-3, 0.9
ROUNDING = 0.02 * LEARNING_RATE
"""What bfloat16 may make of an update: the products of a stack are rounded in another order than those of one."""
TINY = GPTConfig(vocab_size=13, context_length=8, n_layers=2, n_heads=2, d_model=6)
CONFIG = MuonConfig(
    name="muon",
    learning_rate=LEARNING_RATE,
    adamw_learning_rate=None,
    momentum=MOMENTUM,
    nesterov=True,
    split_fused=False,
    weight_decay=DECAY,
    betas=list(BETAS),
    eps=EPS,
)


def model_of(seed: int, **changes: object) -> GPT:
    torch.manual_seed(seed)
    return GPT(GPTConfig(**{**vars(TINY), **changes}))


def loss_of(model: nn.Module, step: int) -> Tensor:
    tokens = torch.randint(13, (4, 8), generator=torch.Generator().manual_seed(step))
    return model(tokens).square().mean() + model(tokens).logsumexp(-1).mean()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    """Take steps whose gradients are a function of the step, as in a run."""
    for step in steps:
        optimizer.zero_grad()
        loss_of(model, step).backward()
        optimizer.step()


def same(first: nn.Module, second: nn.Module) -> bool:
    """Return whether two models have the same weights, bit for bit."""
    return all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize("tie_weights", [True, False])
def test_muon_updates_the_matrices_of_the_blocks_and_nothing_else(tie_weights: bool) -> None:
    model = model_of(0, tie_weights=tie_weights, bias=True)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    layers = ("attention.qkv_projection", "attention.out_projection")
    layers += ("feed_forward.in_projection", "feed_forward.out_projection")
    expected = {f"blocks.{block}.{layer}.weight" for block in range(2) for layer in layers}
    assert {names[id(matrix)] for matrix in hidden_matrices(model)} == expected


def test_each_parameter_is_in_one_group_and_only_matrices_decay() -> None:
    model = model_of(0)
    muon, embeddings, vectors = build_optimizer(model, CONFIG, fused=False).param_groups
    assert [group["weight_decay"] for group in (muon, embeddings, vectors)] == [DECAY, DECAY, 0.0]
    assert {parameter.ndim for parameter in vectors["params"]} == {1}
    assert any(parameter is model.token_embedding.weight for parameter in embeddings["params"])
    grouped = [id(parameter) for group in (muon, embeddings, vectors) for parameter in group["params"]]
    assert sorted(grouped) == sorted(map(id, model.parameters()))


def test_frozen_parameters_are_in_no_group() -> None:
    model = model_of(0)
    model.blocks[0].requires_grad_(False)
    model.token_embedding.requires_grad_(False)
    optimizer = build_optimizer(model, CONFIG, fused=False)
    assert all(parameter.requires_grad for group in optimizer.param_groups for parameter in group["params"])
    assert len(optimizer.param_groups[0]["params"]) == 4


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
def test_steps_equal_those_of_torchs_muon_for_the_matrices_and_of_its_adamw_for_the_rest(fused: bool) -> None:
    model, twin = model_of(0, d_model=32), model_of(0, d_model=32)
    ours = build_optimizer(model, CONFIG, fused)
    matrices = [parameter for name, parameter in twin.blocks.named_parameters() if parameter.ndim == 2]
    others = [parameter for parameter in twin.parameters() if all(parameter is not matrix for matrix in matrices)]
    muon = torch.optim.Muon(
        matrices, lr=LEARNING_RATE, weight_decay=DECAY, momentum=MOMENTUM, adjust_lr_fn="match_rms_adamw"
    )
    settings = {"lr": LEARNING_RATE, "betas": BETAS, "eps": EPS, "fused": fused}
    decaying = torch.optim.AdamW([p for p in others if p.ndim == 2], weight_decay=DECAY, **settings)
    vectors = torch.optim.AdamW([p for p in others if p.ndim == 1], weight_decay=0.0, **settings)
    for step in range(3):
        train(model, ours, range(step, step + 1))
        twin.zero_grad()
        loss_of(twin, step).backward()
        for half in (muon, decaying, vectors):
            half.step()
        for ours_now, torchs in zip(model.parameters(), twin.parameters(), strict=True):
            assert torch.allclose(ours_now, torchs, rtol=0, atol=ROUNDING)


def test_projections_of_one_matrix_can_be_orthogonalized_separately() -> None:
    """As torch's Muon does with the same projections in matrices of their own."""
    model = model_of(0, activation="swiglu", n_kv_heads=1)
    config = CONFIG.model_copy(update={"split_fused": True})
    optimizer = build_optimizer(model, config, fused=False)
    layers = (model.blocks[1].attention.qkv_projection, model.blocks[1].feed_forward.in_projection)
    assert [layer.sizes for layer in layers] == [(6, 3, 3), (24, 24)]
    parts = [nn.Parameter(part.clone()) for layer in layers for part in layer.weight.detach().split(layer.sizes)]
    muon = torch.optim.Muon(
        parts, lr=LEARNING_RATE, weight_decay=DECAY, momentum=MOMENTUM, adjust_lr_fn="match_rms_adamw"
    )
    for step in range(3):
        optimizer.zero_grad()
        loss_of(model, step).backward()
        gradients = [part for layer in layers for part in layer.weight.grad.split(layer.sizes)]
        for part, gradient in zip(parts, gradients, strict=True):
            part.grad = gradient.clone()
        optimizer.step()
        muon.step()
        ours = [part for layer in layers for part in layer.weight.split(layer.sizes)]
        for part, expected in zip(ours, parts, strict=True):
            assert torch.allclose(part, expected, rtol=0, atol=ROUNDING)


def test_a_step_moves_a_matrix_by_the_root_mean_square_of_an_adamw_step() -> None:
    """It is 0.2 times the learning rate (Liu et al. 2025, section 2.2), for every gradient and shape.

    Five Newton-Schulz steps leave singular values between about 0.7 and 1.2.
    """
    model = model_of(0)
    before = [matrix.detach().clone() for matrix in hidden_matrices(model)]
    optimizer = build_optimizer(model, CONFIG.model_copy(update={"weight_decay": 0.0}), fused=False)
    train(model, optimizer, range(1))
    for old, new in zip(before, hidden_matrices(model), strict=True):
        assert (new - old).square().mean().sqrt().item() == pytest.approx(0.2 * LEARNING_RATE, rel=0.35)


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
def test_a_checkpoint_between_steps_changes_no_bit(fused: bool) -> None:
    straight, before, after = (model_of(seed) for seed in (0, 0, 1))
    train(straight, build_optimizer(straight, CONFIG, fused), range(8))

    first = build_optimizer(before, CONFIG, fused)
    train(before, first, range(4))
    file = io.BytesIO()
    torch.save({"model": before.state_dict(), "optimizer": first.state_dict()}, file)
    file.seek(0)

    saved = torch.load(file, weights_only=True)
    after.load_state_dict(saved["model"])
    second = build_optimizer(after, CONFIG, fused)
    second.load_state_dict(saved["optimizer"])
    train(after, second, range(4, 8))
    assert same(after, straight)
    assert not same(before, straight)


def test_a_checkpoint_holds_the_state_of_every_parameter_once() -> None:
    model = model_of(0)
    optimizer = build_optimizer(model, CONFIG, fused=False)
    train(model, optimizer, range(1))
    state = optimizer.state_dict()
    n_matrices, n_parameters = len(hidden_matrices(model)), len(list(model.parameters()))
    held = [set(state["state"][index]) for index in range(n_parameters)]
    assert held[:n_matrices] == [{"momentum_buffer"}] * n_matrices
    assert held[n_matrices:] == [{"step", "exp_avg", "exp_avg_sq"}] * (n_parameters - n_matrices)
    assert len(state["state"]) == n_parameters


@pytest.mark.parametrize("loaded", [False, True], ids=["new", "loaded"])
def test_a_learning_rate_of_0_stops_every_parameter(loaded: bool) -> None:
    model = model_of(0)
    optimizer = build_optimizer(model, CONFIG, fused=False)
    train(model, optimizer, range(1))
    if loaded:
        optimizer.load_state_dict(optimizer.state_dict())
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    train(model, optimizer, range(1, 2))
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


def test_adamw_may_have_its_own_learning_rate_throughout_the_schedule() -> None:
    config = CONFIG.model_copy(update={"adamw_learning_rate": 4 * LEARNING_RATE})
    optimizer = build_optimizer(model_of(0), config, fused=False)
    optimizer.load_state_dict(optimizer.state_dict())
    set_learning_rate(optimizer, 0.01)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01, 0.04, 0.04])


def test_the_learning_rates_of_a_checkpoint_before_format_4_are_read() -> None:
    optimizer = build_optimizer(model_of(0), CONFIG.model_copy(update={"adamw_learning_rate": 0.2}), fused=False)
    saved = optimizer.state_dict()
    for group in saved["param_groups"][1:]:
        group["rate_factor"] = 3.0
        del group["lr_scale"]
    optimizer.load_state_dict(saved)
    set_learning_rate(optimizer, 0.01)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01, 0.03, 0.03])


def test_a_closure_is_called_once_before_the_update_with_gradients_enabled() -> None:
    model, twin = model_of(0), model_of(0)
    optimizer, calls = build_optimizer(model, CONFIG, fused=False), 0

    def closure() -> float:
        nonlocal calls
        calls += 1
        optimizer.zero_grad()
        loss = loss_of(model, step=0)
        loss.backward()
        return loss.item()

    returned = optimizer.step(closure)
    assert (calls, returned) == (1, loss_of(twin, step=0).item())
    train(twin, build_optimizer(twin, CONFIG, fused=False), range(1))
    assert same(model, twin)


def test_zero_grad_removes_all_gradients() -> None:
    model = model_of(0)
    optimizer = build_optimizer(model, CONFIG, fused=False)
    loss_of(model, step=0).backward()
    optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    "empty",
    [
        lambda model: ([], [{"params": list(model.parameters())}]),
        lambda model: ([{"params": hidden_matrices(model)}], []),
    ],
)
def test_muon_or_adamw_without_parameters_is_refused(empty: Callable[[GPT], tuple[list, list]]) -> None:
    with pytest.raises(ValueError, match="empty parameter list"):
        MuonWithAdamW(*empty(model_of(0)), CONFIG, fused=False, fused_sizes={})
