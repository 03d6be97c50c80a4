"""Llama, Mistral, Qwen3 and GPT-NeoX of transformers and ours are one function, whoever wrote the folder."""

import random
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from folio.models import GPT, GPTConfig
from folio.models.formats.fields import FormatError
from folio.models.formats.folder import check_folder, read_config
from folio.models.pretrained import load_pretrained, save_pretrained
from folio.models.rotary_scaling import RotaryScaling

LARGEST_DIFFERENCE = 1e-4
CONTEXT = 32
SEEDS = range(8)


def randomize(model: torch.nn.Module, seed: int) -> None:
    """Weights so large, biases and norms included, that a wrong place or sign shows in every logit."""
    torch.manual_seed(seed)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)


def random_scaling(chance: random.Random) -> RotaryScaling | None:
    factor, original = chance.choice([2.0, 4.0, 8.5]), chance.choice([8, 16, 500])
    llama3 = {"low_freq_factor": chance.choice([1.0, 0.5]), "high_freq_factor": chance.choice([4.0, 8.0])}
    yarn = {"beta_fast": chance.choice([32.0, 4.0]), "attention_factor": chance.choice([None, 1.3])}
    name, own = chance.choice([("llama3", llama3), ("yarn", yarn), ("yarn", {})])
    made = RotaryScaling(name=name, factor=factor, original_context_length=original, **own)
    return chance.choice([None, made])


def random_sizes(chance: random.Random) -> dict[str, Any]:
    """Sizes that every architecture has; heads of an even width divide d_model."""
    n_heads, head_width = chance.choice([1, 2, 4, 6]), chance.choice([2, 6, 8])
    return {
        "vocab_size": chance.choice([37, 64]),
        "context_length": CONTEXT,
        "n_layers": chance.choice([1, 2, 3]),
        "n_heads": n_heads,
        "d_model": n_heads * head_width,
        "d_ff": chance.choice([5, 24]),
        "tie_weights": chance.random() < 0.5,
        "positional_encoding": "rotary",
        "positional_base": chance.choice([10_000.0, 500.0, 1e6]),
        "norm_eps": chance.choice([1e-5, 1e-6, 0.01]),
    }


def random_config(kind: str, seed: int) -> GPTConfig:
    """Return a model that transformers has under this name."""
    chance = random.Random(f"{kind} {seed}")
    sizes = random_sizes(chance)
    if kind == "GPTNeoX":
        activation = chance.choice(["gelu", "gelu_tanh", "relu", "relu_squared"])
        fraction = chance.choice([1.0, 0.5]) if sizes["d_model"] // sizes["n_heads"] == 8 else 1.0
        return GPTConfig(**sizes, activation=activation, rotary_fraction=fraction, bias=chance.random() < 0.7)
    sizes |= {
        "bias": False,
        "norm": "rms_norm",
        "activation": chance.choice(["swiglu", "swiglu", "relu_squared"]),
        "n_kv_heads": chance.choice([d for d in range(1, 7) if sizes["n_heads"] % d == 0]),
        "rotary_scaling": random_scaling(chance),
    }
    if kind == "Llama":
        biases = {"bias": chance.random() < 0.3, "attention_bias": chance.random() < 0.5}
        return GPTConfig(**sizes | biases, d_head=chance.choice([None, 4, 10]))
    if kind == "Mistral":
        width = sizes["d_model"] + chance.choice([0, 1])
        window = chance.choice([2, 3, 16, 100])  # not 1, with which the cache of transformers 5.23 goes wrong
        return GPTConfig(**sizes | {"d_model": width}, d_head=8, attention_window=window)
    window = chance.choice([None, 5, "SL:3", "L" + "S" * (sizes["n_layers"] - 1) + ":4"])
    window = None if sizes["n_layers"] == 1 and isinstance(window, str) else window
    attention_bias, d_head = chance.random() < 0.5, chance.choice([4, 12])
    return GPTConfig(**sizes, qk_norm=True, attention_bias=attention_bias, d_head=d_head, attention_window=window)


KINDS = ["Llama", "Mistral", "Qwen3", "GPTNeoX"]


def tokens_of(vocab_size: int, n_tokens: int) -> Tensor:
    """(3, T)."""
    return torch.randint(vocab_size, (3, n_tokens), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def assert_same(ours: GPT, theirs: Any) -> None:
    """Logits over the whole context, at their scale, and greedy text after half of it."""
    tokens = tokens_of(ours.config.vocab_size, CONTEXT)
    logits, expected = ours(tokens), theirs(tokens).logits
    assert expected.std() > 0.05
    scale = max(1.0, expected.abs().max().item())
    assert (logits - expected).abs().max().item() < LARGEST_DIFFERENCE * scale
    prompt = tokens[:, : CONTEXT // 2]
    mask = torch.ones_like(prompt)
    continued = theirs.generate(prompt, attention_mask=mask, max_new_tokens=CONTEXT // 2, do_sample=False)
    assert torch.equal(ours.generate(prompt, max_new_tokens=CONTEXT // 2, temperature=0), continued)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_is_the_same_there_and_back_again(
    kind: str, seed: int, transformers: ModuleType, tmp_path: Path
) -> None:
    ours = GPT(random_config(kind, seed)).eval()
    randomize(ours, seed)
    save_pretrained(ours, tmp_path / "ours")
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values()), report
    assert type(theirs).__name__ in {f"{kind}ForCausalLM", "MistralForCausalLM"}  # which holds Llamas of any width
    assert_same(ours, theirs)
    if ours.config.activation != "relu_squared" or kind == "GPTNeoX":  # elsewhere, two tensors must stay equal
        randomize(theirs, seed + 1)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="5GB" if seed % 2 else "4KB")
    assert check_folder(tmp_path / "theirs").n_layers == ours.config.n_layers
    assert_same(load_pretrained(tmp_path / "theirs").eval(), theirs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_read_exactly(dtype: torch.dtype, transformers: ModuleType, tmp_path: Path) -> None:
    theirs = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=37, hidden_size=16, intermediate_size=20, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=CONTEXT, bos_token_id=None, eos_token_id=None,
        )
    ).to(dtype)  # fmt: skip
    theirs.save_pretrained(tmp_path)
    assert_same(load_pretrained(tmp_path).eval(), theirs.eval().float())


PUBLISHED = {
    "SmolLM2-135M": '{"model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, '
    '"num_hidden_layers": 30, "num_key_value_heads": 3, "rope_theta": 100000, "rope_scaling": null, "rms_norm_eps": '
    '1e-05, "tie_word_embeddings": true, "vocab_size": 49152, "max_position_embeddings": 8192, "hidden_act": "silu"}',
    "Llama 3.2 1B": '{"model_type": "llama", "head_dim": 64, "hidden_size": 2048, "intermediate_size": 8192, '
    '"num_attention_heads": 32, "num_hidden_layers": 16, "num_key_value_heads": 8, "rope_theta": 500000.0, '
    '"rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, '
    '"original_max_position_embeddings": 8192, "rope_type": "llama3"}, "rms_norm_eps": 1e-05, "tie_word_embeddings": '
    'true, "vocab_size": 128256, "max_position_embeddings": 131072, "hidden_act": "silu", "mlp_bias": false}',
    "Qwen3-0.6B": '{"model_type": "qwen3", "head_dim": 128, "hidden_size": 1024, "intermediate_size": 3072, '
    '"num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8, "rope_theta": 1000000, '
    '"rope_scaling": null, "rms_norm_eps": 1e-06, "tie_word_embeddings": true, "vocab_size": 151936, '
    '"max_position_embeddings": 40960, "use_sliding_window": false, "sliding_window": null, "max_window_layers": 28}',
}
"""The config.json of published models, as an older version of transformers wrote them."""

N_PARAMETERS = {"SmolLM2-135M": 134_515_008, "Llama 3.2 1B": 1_235_814_400, "Qwen3-0.6B": 596_049_920}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs_give_published_sizes_and_the_angles_of_transformers(
    name: str, transformers: ModuleType, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(PUBLISHED[name])
    _, config = read_config(tmp_path)
    with torch.device("meta"):
        model = GPT(config)
    assert model.n_parameters == N_PARAMETERS[name]
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    rotary = transformers.AutoModelForCausalLM.from_config(_shallow(theirs)).model.rotary_emb
    positions = torch.arange(100)
    cos, _ = rotary(torch.zeros(1), positions[None])
    expected = cos[0, :, : config.head_width // 2]
    actual = model.positional_encoding.rotation(positions).cos
    torch.testing.assert_close(actual, expected, atol=2e-5, rtol=0)


def _shallow(config: Any) -> Any:
    """Return the config of a model that takes no memory, with the same angles."""
    config.num_hidden_layers, config.vocab_size, config.layer_types = 1, 8, ["full_attention"]
    return config


def test_a_gate_that_differs_from_its_twin_is_refused(tmp_path: Path) -> None:
    save_pretrained(GPT(replace(random_config("Llama", 0), activation="relu_squared")), tmp_path / "x")
    weights = load_file(tmp_path / "x" / "model.safetensors")
    weights["model.layers.0.mlp.gate_proj.weight"][0, 0] += 1
    save_file(weights, tmp_path / "x" / "model.safetensors")
    with pytest.raises(FormatError, match=r"layers\.0\.mlp\.up_proj\.weight differs from its twin"):
        load_pretrained(tmp_path / "x")
