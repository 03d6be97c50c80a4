"""A quantized model computes nearly the same in a quarter of the memory, or is refused."""

import pytest
import torch
from tiny_models import CONDITIONINGS, build, random_tokens
from torch import Tensor, nn

from folio.generation.generate import generate_tokens
from folio.models import GPT, Encoder, EncoderDecoder, Model
from folio.models.quantization import Int8Linear, Int8Weight, quantize_int8, quantize_rows
from folio.models.sampling import SamplingParams

FAMILIES = ("decoder", "encoder", *CONDITIONINGS)
LARGEST_ERROR = 0.05
"""Root mean square error of the logits, in standard deviations of the model's."""

SAMPLING = SamplingParams(temperature=0.0, repetition_penalty=2.0)
"""Otherwise some models would repeat themselves."""

each_family = pytest.mark.parametrize("family", FAMILIES)


def model_of(family: str, **changes: object) -> Model:
    if family in CONDITIONINGS:
        return build(EncoderDecoder, conditioning=family, **changes).float()
    return build({"decoder": GPT, "encoder": Encoder}[family], **changes).float()


@torch.no_grad()
def logits_of(model: Model) -> Tensor:
    tokens = random_tokens(4, 12)
    return model(tokens, random_tokens(4, 7, seed=1)) if isinstance(model, EncoderDecoder) else model(tokens)


def n_bytes(model: nn.Module) -> int:
    """Return the bytes of a model. Shared weights count once."""
    tensors = {tensor.data_ptr(): tensor for tensor in (*model.parameters(), *model.buffers())}
    return sum(tensor.nbytes for tensor in tensors.values())


PLAIN: dict[str, object] = {"tie_weights": False, "bias": False, "activation": "swiglu"}
GROUPED: dict[str, object] = {"d_head": 16, "n_kv_heads": 2, "logit_softcap": 2.0}


@pytest.mark.parametrize("choices", [{}, PLAIN, GROUPED])
@each_family
def test_quantized_logits_are_close_to_the_models(family: str, choices: dict[str, object]) -> None:
    model = model_of(family, **choices)
    expected = logits_of(model)
    logits = logits_of(quantize_int8(model))
    assert not torch.equal(logits, expected)
    assert (logits - expected).square().mean().sqrt() < LARGEST_ERROR * expected.std()


def test_every_weight_is_rounded_to_the_nearest_step_of_its_row() -> None:
    weight = torch.randn(9, 64, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 3, 9)[:, None]
    weight[4] = 0.0
    values, scales = quantize_rows(weight)
    assert values.dtype == torch.int8
    steps = scales.float()[:, None]
    assert ((values * steps - weight).abs() <= 0.501 * steps).all()
    assert (values.abs().amax(dim=1)[weight.abs().amax(dim=1) > 0] == 127).all()


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_computes_with_its_rounded_weight(bias: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(-127, 128, (19, 48), generator=generator, dtype=torch.int8)
    scales = torch.rand(19, generator=generator).bfloat16()
    added = nn.Parameter(torch.randn(19, generator=generator)) if bias else None
    layer, rows = Int8Linear(Int8Weight(values, scales), added), torch.randn(2, 3, 48, generator=generator).bfloat16()
    expected = nn.functional.linear(rows.float(), values * scales.float()[:, None], added)
    torch.testing.assert_close(layer(rows.float()), expected, rtol=2**-7, atol=0.05)


@each_family
def test_a_quantized_model_takes_less_than_half_of_the_memory(family: str) -> None:
    """A quarter, except for norms, biases and positions, which are a large part of a tiny model."""
    model = model_of(family)
    before = n_bytes(model)
    assert n_bytes(quantize_int8(model)) < 0.5 * before


@pytest.mark.parametrize("family", ["decoder", *CONDITIONINGS])
def test_a_quantized_model_generates_a_batch_like_each_text_alone(family: str) -> None:
    model = quantize_int8(model_of(family, positional_encoding="rotary"))
    assert not isinstance(model, Encoder)
    texts = [[1, 2, 3], [4] * 9, [5]]
    options = {"max_new_tokens": 20, "sampling": SAMPLING, "n_symbols": 57}

    def written(rows: list[list[int]]) -> list[list[int]]:
        given = {"prompts": rows} if family == "decoder" else {"prompts": [[]] * len(rows), "prefixes": rows}
        return list(map(list, zip(*generate_tokens(model, **given, seeds=[0] * len(rows), **options), strict=True)))

    together = written(texts)
    assert together == [written([text])[0] for text in texts]
    assert len({token for text in together for token in text}) > 3


def test_layers_of_unsupported_widths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"a multiple of 16, and the model has layers of 36 inputs \(d_model=36\)"):
        quantize_int8(model_of("decoder", d_model=36))


def test_another_device_is_refused() -> None:
    with pytest.raises(ValueError, match="for the CPU, and the model is on meta; choose device cpu"):
        quantize_int8(model_of("decoder").to("meta"))


def test_a_cpu_without_wide_instructions_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "DEFAULT")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    with pytest.raises(ValueError, match="need a CPU with AVX2 or AVX-512"):
        quantize_int8(model_of("decoder"))
