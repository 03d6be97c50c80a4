"""Faster products are the same products."""

from dataclasses import asdict

import pytest
import torch
import torch.nn.functional as F
from tiny_models import build, random_tokens

from folio.models import GPT, EncoderDecoder
from folio.models.cpu_products import lay_out_by_input, onednn_products


def precision() -> str:
    return torch.backends.mkldnn.matmul.fp32_precision


@pytest.mark.parametrize("tie_weights", [True, False])
def test_a_model_laid_out_by_input_is_the_same_model(tie_weights: bool) -> None:
    model, plain = build(GPT, tie_weights=tie_weights), build(GPT, tie_weights=tie_weights)
    lay_out_by_input(model)
    assert asdict(model.config) == asdict(plain.config)
    assert list(model.state_dict()) == list(plain.state_dict())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, plain.state_dict()[name])
    assert (model.output.weight is model.token_embedding.weight) == tie_weights
    assert model.output.weight.t().is_contiguous()
    tokens = random_tokens(2, 9)
    torch.testing.assert_close(model(tokens), plain(tokens))


def test_an_encoder_decoder_can_be_laid_out_too() -> None:
    model, tokens = build(EncoderDecoder, conditioning="cross_attention"), random_tokens(2, 9)
    expected = model(tokens, tokens)
    lay_out_by_input(model)
    torch.testing.assert_close(model(tokens, tokens), expected)


def test_products_keep_the_digits_of_float32() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(300, 200, generator=generator)
    for n_rows in (1, 2, 8, 100):
        rows = torch.randn(n_rows, 200, generator=generator)
        with onednn_products():
            products = F.linear(rows, weight)
        torch.testing.assert_close(products.double(), F.linear(rows.double(), weight.double()), rtol=0, atol=1e-4)


def test_the_switch_is_put_back_also_after_an_error() -> None:
    before = precision()
    with pytest.raises(KeyError), onednn_products():
        raise KeyError
    assert precision() == before


def test_where_bfloat16_would_be_used_nothing_is_switched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("folio.models.cpu_products._onednn_keeps_float32", lambda: False)
    before = precision()
    with onednn_products():
        assert precision() == before
