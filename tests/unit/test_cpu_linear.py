"""The faster linear layers compute what torch's do."""

from collections.abc import Callable
from dataclasses import asdict

import pytest
import torch
import torch.nn.functional as F
from tiny_models import build, random_tokens

from folio.models import GPT, EncoderDecoder
from folio.models.blocks import ACTIVATIONS
from folio.models.cpu_linear import Linear, activated_linear, onednn_matmul, store_column_major


def precision() -> str:
    return torch.backends.mkldnn.matmul.fp32_precision


@pytest.mark.parametrize("tie_weights", [True, False])
def test_a_model_with_column_major_weights_is_the_same_model(tie_weights: bool) -> None:
    model, plain = build(GPT, tie_weights=tie_weights), build(GPT, tie_weights=tie_weights)
    store_column_major(model)
    assert asdict(model.config) == asdict(plain.config)
    assert list(model.state_dict()) == list(plain.state_dict())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, plain.state_dict()[name])
    assert (model.output.weight is model.token_embedding.weight) == tie_weights
    assert model.output.weight.t().is_contiguous()
    tokens = random_tokens(2, 9)
    torch.testing.assert_close(model(tokens), plain(tokens))


def test_an_encoder_decoder_can_have_column_major_weights_too() -> None:
    model, tokens = build(EncoderDecoder, conditioning="cross_attention"), random_tokens(2, 9)
    expected = model(tokens, tokens)
    store_column_major(model)
    torch.testing.assert_close(model(tokens, tokens), expected)


def test_products_keep_the_digits_of_float32() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(300, 200, generator=generator)
    for n_rows in (1, 2, 8, 100):
        rows = torch.randn(n_rows, 200, generator=generator)
        with onednn_matmul():
            products = F.linear(rows, weight)
        torch.testing.assert_close(products.double(), F.linear(rows.double(), weight.double()), rtol=0, atol=1e-4)


def layers(dtype: torch.dtype = torch.float32, *, bias: bool = True) -> tuple[Linear, torch.nn.Linear]:
    """Return Folio's layer and torch's, with the same weights."""
    ours, plain = Linear(48, 40, bias=bias, dtype=dtype), torch.nn.Linear(48, 40, bias=bias, dtype=dtype)
    plain.load_state_dict(ours.state_dict())
    return ours, plain


def gradients(hidden: torch.Tensor, out: torch.Tensor, layer: torch.nn.Module) -> list[torch.Tensor]:
    wanted = [hidden, *layer.parameters()]
    return list(torch.autograd.grad(out, wanted, torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("activation", [None, *ACTIVATIONS.values()])
def test_linear_layers_and_their_gradients_are_those_of_torch(
    activation: Callable[[torch.Tensor], torch.Tensor] | None, dtype: torch.dtype, bias: bool
) -> None:
    ours, plain = layers(dtype, bias=bias)
    width = 96 if activation is ACTIVATIONS["swiglu"] else 48
    hidden = torch.randn(3, 7, width, dtype=dtype, requires_grad=True)
    expected = plain(activation(hidden) if activation else hidden)
    out = activated_linear(hidden, activation, ours) if activation else ours(hidden)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    for found, wanted in zip(gradients(hidden, out, ours), gradients(hidden, expected, plain), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_only_the_input_of_an_activation_is_kept_for_the_backward_pass() -> None:
    def kept_bytes(work: Callable[[], torch.Tensor]) -> int:
        kept: dict[int, int] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            kept[tensor.data_ptr()] = tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            work()
        return sum(kept.values())

    ours, plain = layers()
    hidden = torch.randn(50, 48, requires_grad=True)
    activation = ACTIVATIONS["relu_squared"]
    assert kept_bytes(lambda: activated_linear(hidden, activation, ours)) == hidden.nbytes + ours.weight.nbytes
    assert kept_bytes(lambda: plain(activation(hidden))) >= 2 * hidden.nbytes + plain.weight.nbytes


def test_a_frozen_layer_passes_its_gradient_on() -> None:
    ours, plain = layers()
    ours.requires_grad_(False)
    plain.requires_grad_(False)
    hidden = torch.randn(5, 48, requires_grad=True)
    found, expected = (torch.autograd.grad(layer(hidden).sum(), hidden)[0] for layer in (ours, plain))
    torch.testing.assert_close(found, expected)
    assert ours.weight.grad is None


def test_a_hidden_state_that_needs_no_gradient_gets_none() -> None:
    ours, plain = layers()
    hidden = torch.randn(5, 48)
    for layer in (ours, plain):
        layer(hidden).sum().backward()
    assert hidden.grad is None
    torch.testing.assert_close(ours.weight.grad, plain.weight.grad)


def test_autocast_decides_the_dtype_of_products() -> None:
    ours, _ = layers()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert ours(torch.randn(5, 48)).dtype == torch.bfloat16


def test_the_switch_is_restored_after_an_error() -> None:
    before = precision()
    with pytest.raises(KeyError), onednn_matmul():
        raise KeyError
    assert precision() == before


def test_the_switch_is_left_alone_if_it_would_allow_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("folio.models.cpu_linear._onednn_keeps_float32", lambda: False)
    before = precision()
    with onednn_matmul():
        assert precision() == before
