"""Hugging Face's GPT-2 and ours are one function, whichever of the two a folder came from."""

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from folio.models import GPT, GPTConfig
from folio.models.pretrained import load_pretrained, save_pretrained

LARGEST_DIFFERENCE = 1e-4

SMALL = {"vocab_size": 61, "n_positions": 40, "n_embd": 24, "n_layer": 3, "n_head": 4}

THEIRS: dict[str, dict[str, Any]] = {
    "GPT-2's choices": {},
    "one head": {"n_head": 1},
    "narrow heads and a width of its own inside": {"n_head": 12, "n_inner": 50},
    "relu": {"activation_function": "relu"},
    "relu squared": {"activation_function": "relu2"},
    "exact gelu": {"activation_function": "gelu"},
    "torch's name for gelu by tanh": {"activation_function": "gelu_pytorch_tanh"},
    "an output layer of its own": {"tie_word_embeddings": False},
    "attention in float32, by hand": {"reorder_and_upcast_attn": True},
    "one layer, long context": {"n_layer": 1, "n_positions": 200},
    "GPT-2's symbols": {"vocab_size": 50_257, "bos_token_id": 50_256, "eos_token_id": 50_256},
}

OURS: dict[str, dict[str, Any]] = {
    "GPT-2's choices": {},
    "no biases": {"bias": False},
    "relu, and a width of its own inside": {"activation": "relu", "d_ff": 7},
    "exact gelu": {"activation": "gelu"},
    "an output layer of its own": {"tie_weights": False},
    "GPT-2's symbols, padded": {"vocab_size": 50_304},
}


def randomize(model: torch.nn.Module) -> None:
    """Weights so large, biases and norms included, that a wrong place or sign shows in every logit."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)


def hugging_face_gpt2(transformers: ModuleType, **changes: Any) -> Any:
    symbols = {"bos_token_id": None, "eos_token_id": None}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**(SMALL | symbols | changes)))
    randomize(model)
    return model.eval()


def tokens_of(vocab_size: int, n_tokens: int) -> Tensor:
    """(3, T)."""
    return torch.randint(vocab_size, (3, n_tokens), generator=torch.Generator().manual_seed(1))


def greedy(model: GPT, tokens: Tensor, n_new: int) -> Tensor:
    for _ in range(n_new):
        tokens = torch.cat((tokens, model(tokens)[:, -1:].argmax(dim=-1)), dim=1)
    return tokens


@torch.no_grad()
def assert_same(ours: GPT, theirs: Any) -> None:
    """Logits over the whole context, and 20 greedy tokens after half of it."""
    assert not theirs.training
    vocab_size, context_length = ours.config.vocab_size, ours.config.context_length
    tokens = tokens_of(vocab_size, context_length)
    logits, expected = ours(tokens), theirs(tokens).logits
    assert expected.std() > 0.1
    assert (logits - expected).abs().max().item() < LARGEST_DIFFERENCE
    prompt = tokens[:, : context_length // 2]
    continued = theirs.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=20, do_sample=False, pad_token_id=0
    )
    assert torch.equal(greedy(ours, prompt, continued.size(1) - prompt.size(1)), continued)


@pytest.mark.parametrize("variant", THEIRS)
def test_a_model_of_hugging_face_is_the_same_here(variant: str, transformers: ModuleType, tmp_path: Path) -> None:
    theirs = hugging_face_gpt2(transformers, **THEIRS[variant])
    theirs.save_pretrained(tmp_path)
    assert_same(load_pretrained(tmp_path).eval(), theirs)


@pytest.mark.parametrize("shard_size", ["5GB", "20KB"])
def test_a_model_in_one_piece_and_in_many_is_the_same_here(
    shard_size: str, transformers: ModuleType, tmp_path: Path
) -> None:
    theirs = hugging_face_gpt2(transformers)
    theirs.save_pretrained(tmp_path, max_shard_size=shard_size)
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard_size == "20KB")
    assert_same(load_pretrained(tmp_path).eval(), theirs)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_model_without_an_output_layer_in_the_old_format_is_the_same_here(
    zipped: bool, transformers: ModuleType, tmp_path: Path
) -> None:
    """As the hub keeps GPT-2: the names of GPT2Model, without a prefix."""
    theirs = hugging_face_gpt2(transformers)
    theirs.config.save_pretrained(tmp_path)
    state = theirs.transformer.state_dict()
    torch.save(state, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    assert_same(load_pretrained(tmp_path).eval(), theirs)


@pytest.mark.parametrize("variant", OURS)
def test_a_model_of_ours_is_the_same_there(variant: str, transformers: ModuleType, tmp_path: Path) -> None:
    sizes = {"vocab_size": 61, "context_length": 40, "n_layers": 3, "n_heads": 4, "d_model": 24}
    ours = GPT(GPTConfig(**(sizes | OURS[variant]))).eval()
    randomize(ours)
    save_pretrained(ours, tmp_path / "exported")
    theirs, report = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "exported", output_loading_info=True)
    assert not any(report.values()), report
    assert_same(ours, theirs)


def test_a_cropped_model_gives_the_logits_of_the_whole_one(transformers: ModuleType, tmp_path: Path) -> None:
    theirs = hugging_face_gpt2(transformers)
    theirs.save_pretrained(tmp_path / "whole")
    cropped = load_pretrained(tmp_path / "whole", context_length=16).eval()
    tokens = tokens_of(61, 16)
    assert (cropped(tokens) - theirs(tokens).logits).abs().max().item() < LARGEST_DIFFERENCE
    save_pretrained(cropped, tmp_path / "cropped")
    again = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "cropped")
    assert again.config.n_positions == 16
    assert (again(tokens).logits - cropped(tokens)).abs().max().item() < LARGEST_DIFFERENCE
