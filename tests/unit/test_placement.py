"""Every tensor of a step lies on the device of the model, which is checked without any GPU.

`FakeTensorMode` computes shapes and devices without numbers, and refuses an operation on tensors of two devices. The
card is torch's device `meta`: a build of torch without CUDA knows no other. On a GPU, the tests marked gpu compare the
numbers, too.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_models import CONDITIONINGS, OTHER_CHOICES, TINY
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from folio.config.run import RunConfig
from folio.data.batches.batch import Batch
from folio.models import GPT, Encoder, EncoderDecoder, Model, TransformerConfig, build_model
from folio.models.decoding import DecodingBatch
from folio.objectives.losses import batch_loss, cross_entropy_, hidden_states
from folio.optim.optimizers import build_optimizer

ENCODINGS = ("learned", "sinusoidal", "rotary", "alibi", "concatenated", "none")

DECODERS: dict[str, dict[str, Any]] = {
    **{encoding: {"positional_encoding": encoding} for encoding in ENCODINGS},
    "other_choices": OTHER_CHOICES,
    "windows": {"attention_window": "SSL:4", "positional_encoding": "rotary"},
    "value_embeddings": {"value_embeddings": 1, "zero_init_residual": True, "activation": "relu_squared"},
}
CASES: dict[str, TransformerConfig] = {
    **{name: replace(TINY, **options) for name, options in DECODERS.items()},
    "encoder": replace(TINY, family="encoder"),
    **{name: replace(TINY, family="encoder_decoder", conditioning=name) for name in CONDITIONINGS},
}
BATCH, TIME, PREFIX = 3, 16, 10


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """A device without a card: inside this fixture, tensors have no numbers."""
    tensor = torch.tensor

    def tensor_on(values: Any, *, device: torch.device | None = None, **options: Any) -> Tensor:
        """Make a tensor of numbers on the CPU first: directly on `meta` it would not be a fake one."""
        return tensor(values, **options).to(device or "cpu")

    monkeypatch.setattr(torch, "tensor", tensor_on)
    monkeypatch.setattr(Tensor, "__bool__", lambda _: False)  # as if texts differed in length
    with FakeTensorMode():
        yield torch.device("meta")


def move(model: nn.Module, device: torch.device) -> None:
    """Do what `model.to(device)` does: it moves parameters and buffers, and nothing else that a module holds.

    Written out, because torch 2.11 cannot move fake parameters in place.
    """
    moved: dict[int, nn.Parameter] = {}  # a tied weight stays one
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                there = moved.setdefault(id(parameter), nn.Parameter(parameter.detach().to(device)))
                module._parameters[name] = there
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = buffer.to(device)


def build_on(config: TransformerConfig, device: torch.device) -> Model:
    """Build a model on the CPU, as training does, and move it."""
    model = build_model(config)
    move(model, device)
    assert {tensor.device for tensor in (*model.parameters(), *model.buffers())} <= {device}
    return model


def batch_for(config: TransformerConfig, documents: bool = False) -> Batch:
    """Return a batch on the CPU, where loaders make it, with rows of several lengths."""
    generator = torch.Generator().manual_seed(0)

    def tokens(time: int) -> Tensor:
        return torch.randint(config.vocab_size, (BATCH, time), generator=generator)

    lengths = torch.tensor([TIME, TIME - 3, TIME - 7]) if config.family == "encoder" else None
    prefix = tokens(PREFIX) if config.family == "encoder_decoder" else None
    prefix_lengths = None if prefix is None else torch.tensor([PREFIX, PREFIX - 2, 1])
    numbers = torch.arange(TIME).expand(BATCH, TIME) // 6 if documents else None
    return Batch(tokens(TIME), tokens(TIME), BATCH * TIME, lengths, prefix, prefix_lengths, numbers)


def loss_of(model: Model, batch: Batch) -> Tensor:
    """Return the loss; of an encoder that of all tokens, because choosing those with a target needs numbers."""
    if isinstance(model, Encoder):
        logits = model.output(hidden_states(model, batch))
        return nn.functional.cross_entropy(logits.flatten(end_dim=1), batch.targets.flatten())
    return batch_loss(model, batch)[0]


@pytest.mark.parametrize("name", CASES)
def test_a_training_step_and_a_validation_stay_on_one_device(name: str, card: torch.device) -> None:
    model = build_on(CASES[name], card)
    optimizer = torch.optim.AdamW(model.parameters())
    for documents in (False, True) if CASES[name].family == "decoder" else (False,):
        batch = batch_for(CASES[name], documents)
        loss = loss_of(model, batch.to(card))
        assert loss.device == card
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        assert {parameter.grad.device for parameter in model.parameters() if parameter.grad is not None} == {card}
    with torch.no_grad():  # what `target_losses` does, without choosing rows by their numbers
        logits = model.output(hidden_states(model, batch.to(card)).flatten(end_dim=1))
        assert {part.device for part in cross_entropy_(logits, batch.targets.flatten().to(card))[:2]} == {card}


@pytest.mark.parametrize("name", [name for name, config in CASES.items() if config.family != "encoder"])
def test_generation_stays_on_one_device(name: str, card: torch.device) -> None:
    config = CASES[name]
    model = build_on(config, card).eval()
    assert isinstance(model, GPT | EncoderDecoder)
    encoded = None
    if isinstance(model, EncoderDecoder):
        encoded = model.encode(torch.zeros(2, 5, dtype=torch.int64, device=card), torch.tensor([5, 3], device=card))
    with torch.inference_mode():
        batch = DecodingBatch(model, [[1, 2, 3], [4]], encoded, n_new=15, use_cache=True)
        for _ in range(15):  # past the context, where the window slides
            assert batch.next_logits().device == card
            batch.append([5, 6])


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "muon"])
def test_the_state_of_every_optimizer_is_where_the_weights_are(
    optimizer: str, compose: Callable[..., RunConfig], card: torch.device
) -> None:
    model = build_on(TINY, card)
    built = build_optimizer(model, compose(f"optimizer={optimizer}").optimizer, fused=False)
    batch_loss(model, batch_for(TINY).to(card))[0].backward()
    built.step()
    states = [value for state in built.state.values() for value in state.values() if isinstance(value, Tensor)]
    assert states
    assert {state.device for state in states if state.ndim} == {card}


def test_a_tensor_that_stays_behind_is_noticed(card: torch.device) -> None:
    model = build_on(TINY, card)
    with pytest.raises(RuntimeError, match=r"on the same device|two different devices"):
        batch_loss(model, batch_for(TINY))


@pytest.mark.gpu
@pytest.mark.parametrize("name", CASES)
def test_a_gpu_computes_what_the_cpu_does(name: str, rehearse: bool) -> None:
    device = torch.device("cpu" if rehearse else "cuda")
    torch.manual_seed(0)
    model, batch = build_model(CASES[name]), batch_for(CASES[name])
    expected, _ = batch_loss(model, batch)
    expected.backward()
    gradients = {key: parameter.grad for key, parameter in model.named_parameters()}
    model.zero_grad()
    model.to(device)
    loss, _ = batch_loss(model, batch.to(device))
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[key], rtol=1e-4, atol=1e-6, check_device=False, msg=key)
