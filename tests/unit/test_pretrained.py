"""A model is saved and loaded unchanged, and a faulty folder is refused before it is used."""

import json
import re
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from folio.models import GPT, GPTConfig
from folio.models.formats.fields import FormatError
from folio.models.formats.folder import check_folder, read_config
from folio.models.pretrained import load_pretrained, save_pretrained

CONFIG = GPTConfig(vocab_size=11, context_length=6, n_layers=2, n_heads=2, d_model=8, d_ff=32, tie_weights=True)
ROTARY = {"positional_encoding": "rotary"}
LLAMA = ROTARY | {"bias": False, "norm": "rms_norm", "activation": "swiglu", "d_ff": 12, "d_head": 4}
TOKENS = torch.arange(12).view(2, 6) % 11
WEIGHTS = "model.safetensors"

VARIANTS = {
    "as GPT-2": {},
    "another width inside": {"d_ff": 5},
    "relu": {"activation": "relu"},
    "exact gelu": {"activation": "gelu"},
    "an output layer of its own": {"tie_weights": False},
    "one head, one layer": {"n_heads": 1, "n_layers": 1},
    "GPT-NeoX": ROTARY | {"rotary_fraction": 0.5, "norm_eps": 1e-6},
    "Llama": LLAMA | {"n_kv_heads": 1, "attention_bias": False},
    "Llama with biases": LLAMA | {"n_kv_heads": 2, "bias": True, "attention_bias": True},
    "Mistral": LLAMA | {"n_kv_heads": 2, "attention_window": 3},
    "Qwen3": LLAMA | {"n_kv_heads": 2, "qk_norm": True, "attention_window": "SL:2", "attention_bias": False},
    "a squared ReLU as its own gate": LLAMA | {"n_kv_heads": 2, "activation": "relu_squared", "attention_bias": False},
}


def random_gpt(config: GPTConfig = CONFIG) -> GPT:
    """Return a model whose biases and norms are as random as its matrices."""
    torch.manual_seed(0)
    model = GPT(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model.eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder written by `save_pretrained`, which a test may change."""
    save_pretrained(random_gpt(), tmp_path / "gpt2")
    return tmp_path / "gpt2"


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_weights(folder: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS)


def refusal(call: Callable[..., object], *args: Any, **kwargs: Any) -> str:
    with pytest.raises(FormatError) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_saved_and_loaded_model_is_the_same(variant: str, tmp_path: Path) -> None:
    config = replace(CONFIG, **VARIANTS[variant])
    model = random_gpt(config)
    save_pretrained(model, tmp_path / "gpt2")
    again = load_pretrained(tmp_path / "gpt2")
    assert again.config == config
    assert again.n_parameters == model.n_parameters
    state, expected = again.state_dict(), model.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    assert torch.equal(again(TOKENS), model(TOKENS))


@pytest.mark.parametrize(
    "change",
    [
        {"bias": False},
        {"attention_bias": False},
        {"final_norm": True, "scale_embedding": False, "attention_bias": True, "feed_forward_dropout": 0.1},
    ],
    ids=str,
)
def test_a_model_that_the_format_holds_in_another_form_computes_the_same(
    change: dict[str, Any], tmp_path: Path
) -> None:
    model = random_gpt(replace(CONFIG, **change))
    save_pretrained(model, tmp_path / "gpt2")
    again = load_pretrained(tmp_path / "gpt2")
    assert again.config.bias
    torch.testing.assert_close(again(TOKENS), model(TOKENS), rtol=0, atol=1e-6)


def test_a_loaded_model_trains_with_the_requested_dropout(folder: Path) -> None:
    model = load_pretrained(folder, dropout=0.5, attention_dropout=0.25)
    assert (model.config.dropout, model.config.attention_dropout) == (0.5, 0.25)
    assert model.training
    model(TOKENS).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert model.output.weight is model.token_embedding.weight
    with pytest.raises(AssertionError):
        torch.testing.assert_close(model(TOKENS), model(TOKENS))


def test_a_shorter_context_keeps_the_first_positions(folder: Path) -> None:
    whole, cropped = load_pretrained(folder), load_pretrained(folder, context_length=4)
    assert cropped.config == replace(whole.config, context_length=4)
    torch.testing.assert_close(cropped(TOKENS[:, :4]), whole(TOKENS)[:, :4])
    assert cropped.state_dict()["positional_encoding.embedding.weight"].shape == (4, 8)


def test_a_longer_context_is_refused(folder: Path) -> None:
    message = refusal(load_pretrained, folder, context_length=7)
    assert re.search(r"context_length=7 is longer than the 6 positions of .*; use at most 6", message)


def test_a_loaded_model_no_longer_needs_its_file(folder: Path) -> None:
    model = load_pretrained(folder)
    before = model(TOKENS)
    file = folder / WEIGHTS
    file.write_bytes(bytes(file.stat().st_size))
    assert torch.equal(model(TOKENS), before)


def without_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}


def with_masks(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    masks = {
        f"transformer.h.{layer}.attn.{name}": torch.ones(1, 1, 6, 6)
        for layer in (0, 1)
        for name in ("bias", "masked_bias")
    }
    return tensors | masks


def with_twin(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return tensors | {"lm_head.weight": tensors["transformer.wte.weight"].clone()}


def as_safetensors(tensors: dict[str, Tensor], folder: Path) -> None:
    save_file(tensors, folder / WEIGHTS)


def as_pieces(tensors: dict[str, Tensor], folder: Path) -> None:
    files = {name: f"model-0000{1 + index % 2}-of-00002.safetensors" for index, name in enumerate(tensors)}
    for file in set(files.values()):
        save_file({name: tensors[name] for name in tensors if files[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))


def as_bin(tensors: dict[str, Tensor], folder: Path) -> None:
    torch.save(tensors, folder / "pytorch_model.bin")


def as_old_bin(tensors: dict[str, Tensor], folder: Path) -> None:
    """Write the format of torch before 1.6, which the hub has for GPT-2."""
    torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("change", [dict, without_prefix, with_masks, with_twin])
@pytest.mark.parametrize("write", [as_safetensors, as_pieces, as_bin, as_old_bin])
def test_every_format_in_which_weights_were_ever_saved_gives_the_same_model(
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    write: Callable[[dict[str, Tensor], Path], None],
    folder: Path,
) -> None:
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    write(change(tensors), folder)
    assert check_folder(folder) == CONFIG
    assert torch.equal(load_pretrained(folder)(TOKENS), random_gpt()(TOKENS))


def test_weights_of_half_precision_become_float32(folder: Path) -> None:
    change_weights(folder, lambda tensors: tensors.update({name: tensors[name].half() for name in tensors}))
    check_folder(folder)
    model = load_pretrained(folder)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    torch.testing.assert_close(model(TOKENS), random_gpt()(TOKENS), rtol=0, atol=0.02)


def test_a_missing_key_of_config_json_means_gpt2s_default(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    small = GPTConfig(vocab_size=50_257, context_length=1024, n_layers=12, n_heads=12, d_model=768, tie_weights=True)
    assert read_config(tmp_path)[1] == small


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "gpt_neo"}, ('model_type="gpt_neo"', "gpt2, gpt_neox, llama, mistral, qwen3")),
        ({"model_type": None}, ("model_type=null",)),
        ({"layer_norm_epsilon": 0}, ("layer_norm_epsilon=0 must be a number above 0",)),
        ({"layer_norm_epsilon": "1e-5"}, ('layer_norm_epsilon="1e-5"',)),
        ({"scale_attn_weights": False}, ("scale_attn_weights=false",)),
        ({"scale_attn_by_inverse_layer_idx": True}, ("scale_attn_by_inverse_layer_idx=true",)),
        ({"add_cross_attention": True}, ("add_cross_attention=true",)),
        ({"activation_function": "silu"}, ('activation_function="silu"', "gelu_new, gelu_pytorch_tanh, gelu, relu")),
        ({"activation_function": ["gelu"]}, ('activation_function=["gelu"]',)),
        ({"tie_word_embeddings": "yes"}, ('tie_word_embeddings="yes"',)),
        ({"n_layer": "2"}, ('n_layer="2"', "whole number")),
        ({"n_layer": 2.0}, ("n_layer=2.0", "whole number")),
        ({"n_layer": True}, ("n_layer=true", "whole number")),
        ({"n_layer": 0}, ("n_layer=0 must be 1 or more",)),
        ({"n_head": None}, ("n_head=null", "whole number")),
        ({"n_head": 3}, ("n_embd=8 must be divisible by n_head=3",)),
        ({"n_layer": 9_999}, ("lack h.2.ln_1.weight",)),
        ({"n_layer": 10**15}, ("n_layer=1000000000000000 must be 10000 or less",)),
        ({"n_layer": 1}, ("h.1.attn.c_attn.bias", "and 11 more", "1 layers")),
        ({"n_positions": 10**7}, ("wpe.weight has shape (6, 8)", "(10000000, 8)")),
        ({"n_embd": 16}, ("wte.weight has shape (11, 8)", "(11, 16)")),
        ({"n_inner": 12}, ("h.0.mlp.c_fc.weight has shape (8, 32)", "(8, 12)")),
        ({"tie_word_embeddings": False}, ("lack lm_head.weight", "(11, 8)")),
    ],
    ids=lambda value: json.dumps(value)[1:-1] if isinstance(value, dict) else "",
)
def test_a_config_that_is_not_gpt2s_or_contradicts_its_weights_is_refused(
    changes: dict[str, Any], words: tuple[str, ...], folder: Path
) -> None:
    change_config(folder, **changes)
    message = refusal(check_folder, folder)
    assert str(folder) in message
    assert not [word for word in words if word not in message], message
    assert refusal(load_pretrained, folder) == message


WRONG_WEIGHTS: dict[str, tuple[Callable[[dict[str, Tensor]], object], tuple[str, ...]]] = {
    "a missing one": (
        lambda tensors: tensors.pop("transformer.h.1.mlp.c_proj.weight"),
        ("lack h.1.mlp.c_proj.weight, of shape (32, 8)", "download them again"),
    ),
    "a transposed one": (
        lambda tensors: tensors.update({"transformer.h.0.attn.c_attn.weight": torch.zeros(24, 8)}),
        ("h.0.attn.c_attn.weight has shape (24, 8)", "(8, 24)"),
    ),
    "one of another rank": (
        lambda tensors: tensors.update({"transformer.ln_f.bias": torch.zeros(())}),
        ("ln_f.bias has shape ()", "(8,)"),
    ),
    "a stranger": (
        lambda tensors: tensors.update({"transformer.h.0.crossattention.c_proj.bias": torch.zeros(8)}),
        ("hold h.0.crossattention.c_proj.bias of shape (8,)", "lacks"),
    ),
    "whole numbers": (
        lambda tensors: tensors.update({"transformer.ln_f.bias": torch.zeros(8, dtype=torch.int64)}),
        ("transformer.ln_f.bias holds", "64"),
    ),
    "twins": (
        lambda tensors: tensors.update({"wte.weight": torch.zeros(11, 8)}),
        ("transformer.wte.weight", "one tensor"),
    ),
    "an output layer of another shape": (
        lambda tensors: tensors.update({"lm_head.weight": torch.zeros(12, 8)}),
        ("lm_head.weight has shape (12, 8)", "(11, 8)"),
    ),
}


@pytest.mark.parametrize("write", [as_safetensors, as_pieces, as_bin])
@pytest.mark.parametrize("wrong", WRONG_WEIGHTS)
def test_weights_that_contradict_the_config_are_refused(
    wrong: str, write: Callable[[dict[str, Tensor], Path], None], folder: Path
) -> None:
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    WRONG_WEIGHTS[wrong][0](tensors)
    write(tensors, folder)
    words = WRONG_WEIGHTS[wrong][1]
    checks = [load_pretrained] if write is as_bin else [load_pretrained, check_folder]
    for check in checks:
        message = refusal(check, folder)
        assert str(folder) in message
        assert not [word for word in words if word not in message], message


def test_an_output_layer_that_differs_from_its_tied_embedding_is_refused(folder: Path) -> None:
    change_weights(folder, lambda tensors: tensors.update({"lm_head.weight": torch.zeros(11, 8)}))
    message = refusal(load_pretrained, folder)
    assert "lm_head.weight differs from wte.weight" in message
    assert "tie_word_embeddings" in message


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.parametrize("name", [WEIGHTS, "pytorch_model.bin", "config.json"])
def test_a_truncated_file_is_refused_wherever_it_ends(name: str, data: st.DataObject, tmp_path: Path) -> None:
    folder = tmp_path / "cut"
    save_pretrained(random_gpt(), folder, overwrite=True)
    if name.endswith(".bin"):
        as_bin(load_file(folder / WEIGHTS), folder)
        (folder / WEIGHTS).unlink()
    whole = (folder / name).read_bytes().rstrip()
    (folder / name).write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    message = refusal(load_pretrained, folder)
    assert str(folder / name) in message


@pytest.mark.parametrize("content", [b"", b"\x00", b"[]", b"[" * 100_000, b"\xff\xfe", b'{"n_layer": '], ids=str)
@pytest.mark.parametrize("name", [WEIGHTS, "config.json", "pytorch_model.bin"])
def test_a_file_with_other_content_is_refused(name: str, content: bytes, folder: Path) -> None:
    if name.endswith(".bin"):
        (folder / WEIGHTS).unlink()
    (folder / name).write_bytes(content)
    assert str(folder / name) in refusal(load_pretrained, folder)


class Hostile:
    """Creates a file if it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_in_a_bin_file_is_executed(zipped: bool, folder: Path, tmp_path: Path) -> None:
    (folder / WEIGHTS).unlink()
    harm = tmp_path / "harm"
    torch.save({"wte.weight": Hostile(harm)}, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    assert "pytorch_model.bin cannot be read (it holds the name " in refusal(load_pretrained, folder)
    assert not harm.exists()


@pytest.mark.parametrize("content", [[1, 2], {"wte.weight": "text"}, {"wte.weight": [1.0]}], ids=str)
def test_a_bin_file_without_tensors_is_refused(content: object, folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    torch.save(content, folder / "pytorch_model.bin")
    assert str(folder / "pytorch_model.bin") in refusal(load_pretrained, folder)


@pytest.mark.parametrize(
    ("weight_map", "words"),
    [
        (None, "names no files"),
        ({}, "names no files"),
        (["model.safetensors"], "names no files"),
        ({"wte.weight": "../secret.safetensors"}, "'../secret.safetensors'"),
        ({"wte.weight": "/etc/passwd"}, "'/etc/passwd'"),
        ({"wte.weight": ["a.safetensors"]}, "['a.safetensors']"),
        ({"wte.weight": "harm.bin"}, "'harm.bin'"),
        ({"wte.weight": "not-there.safetensors"}, "not-there.safetensors does not exist"),
    ],
    ids=str,
)
def test_an_index_may_name_only_files_beside_it(weight_map: object, words: str, folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert words in refusal(check_folder, folder)


def test_an_incomplete_folder_is_refused_naming_what_is_missing(folder: Path, tmp_path: Path) -> None:
    assert "nowhere is not a folder" in refusal(load_pretrained, tmp_path / "nowhere")
    (folder / WEIGHTS).unlink()
    assert "none of model.safetensors, " in refusal(load_pretrained, folder)
    (folder / "config.json").unlink()
    assert "config.json does not exist" in refusal(load_pretrained, folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"positional_encoding": "alibi"}, ("positional_encoding=alibi", "GPT-2", "has positional_encoding=learned")),
        ({"norm_position": "post"}, ("norm_position=post", "has norm_position=pre")),
        ({"final_norm": False}, ("final_norm=false", "has final_norm=true")),
        ({"output_bias": True}, ("output_bias=true", "has output_bias=false")),
        ({"norm": "rms_norm"}, ("norm=rms_norm", "has norm=layer_norm")),
        ({"qk_norm": True}, ("qk_norm=true", "has qk_norm=false")),
        ({"activation": "swiglu"}, ("activation=swiglu", "has activation=gelu_tanh or gelu or relu or relu_squared")),
        ({"family": "encoder"}, ("family=encoder", "has family=decoder")),
        (
            {"positional_encoding": "rotary", "norm": "rms_norm", "activation": "swiglu", "output_bias": True},
            ("output_bias=true", "Llama", "has output_bias=false"),
        ),
    ],
    ids=str,
)
def test_a_model_that_no_format_holds_is_refused_and_nothing_is_written(
    change: dict[str, Any], words: tuple[str, ...], tmp_path: Path
) -> None:
    model = GPT(replace(CONFIG, **change))
    message = refusal(save_pretrained, model, tmp_path / "gpt2")
    assert not [word for word in words if word not in message], message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("end_of_text", [10, None])
def test_the_end_of_text_is_written_if_the_tokenizer_has_one(end_of_text: int | None, tmp_path: Path) -> None:
    save_pretrained(random_gpt(), tmp_path / "gpt2", end_of_text=end_of_text)
    values = json.loads((tmp_path / "gpt2" / "config.json").read_text())
    assert (values["bos_token_id"], values["eos_token_id"]) == (end_of_text, end_of_text)


def test_the_dropout_rates_are_exported(tmp_path: Path) -> None:
    save_pretrained(GPT(replace(CONFIG, dropout=0.25, attention_dropout=0.0)), tmp_path / "gpt2")
    values = json.loads((tmp_path / "gpt2" / "config.json").read_text())
    assert [values[f"{part}_pdrop"] for part in ("embd", "resid", "attn")] == [0.25, 0.25, 0.0]


def test_existing_files_are_not_overwritten(folder: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert "gpt2 is not empty" in refusal(save_pretrained, random_gpt(), folder)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert "config.json is a file" in refusal(save_pretrained, random_gpt(), folder / "config.json", overwrite=True)
    assert list(tmp_path.iterdir()) == [folder]


def test_an_empty_folder_is_filled_and_parents_are_created(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty", "a/b"):
        save_pretrained(random_gpt(), tmp_path / name)
        assert {path.name for path in (tmp_path / name).iterdir()} == {"config.json", WEIGHTS}
        load_pretrained(tmp_path / name)


def test_overwriting_replaces_the_model_and_keeps_other_files(folder: Path, tmp_path: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")
    smaller = random_gpt(replace(CONFIG, n_layers=1))
    save_pretrained(smaller, folder, overwrite=True)
    assert torch.equal(load_pretrained(folder)(TOKENS), smaller(TOKENS))
    assert {path.name for path in folder.iterdir()} == {"config.json", WEIGHTS, "tokenizer.json"}
    assert list(tmp_path.iterdir()) == [folder]


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="No space"):
        save_pretrained(random_gpt(), tmp_path / "gpt2")
    assert list(tmp_path.iterdir()) == []


def test_exported_files_have_the_usual_permissions(folder: Path) -> None:
    ordinary = folder.parent / "ordinary"
    ordinary.touch()
    modes = {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == {stat.S_IMODE(ordinary.stat().st_mode)}


def test_a_folder_can_be_a_string(tmp_path: Path) -> None:
    model = GPT(GPTConfig(vocab_size=11, context_length=4, n_layers=1, n_heads=1, d_model=4))
    save_pretrained(model, str(tmp_path / "mine"))
    tokens = torch.tensor([[1, 2, 3]])
    assert torch.equal(load_pretrained(str(tmp_path / "mine"))(tokens), model(tokens))
