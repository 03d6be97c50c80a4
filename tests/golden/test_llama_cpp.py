"""llama.cpp, which shares no code with transformers or Folio, reads the same ids and writes the same text."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from folio.config.run import RunConfig
from folio.config.tokenizer import choose_tokenizer
from folio.data.tokenizers.base import Tokenizer
from folio.data.tokenizers.bpe import BPETokenizer
from folio.data.tokenizers.huggingface import HuggingFaceTokenizer
from folio.export import gguf
from folio.export.gguf_tokenizer import PATTERNS
from folio.models import GPT
from folio.runs.checkpoints import LoadedCheckpoint

pytestmark = pytest.mark.slow
llama_cpp: Any = pytest.importorskip("llama_cpp", reason="llama-cpp-python compiles for many minutes")

TEXT = "To be, or not to be: that is the question.\nWhether 'tis nobler in the mind to suffer, 1599 times?\n" * 9
LLAMA = ("positional_encoding=rotary", "model.norm=rms_norm", "model.activation=swiglu")
SIZE = ("model.d_model=32", "model.n_heads=4", "model.n_layers=3", "model.context_length=64")
SCALING = "positional_encoding.rotary_scaling={name:NAME,factor:4,original_context_length:16}"

MODELS: dict[str, tuple[str, ...]] = {
    "llama": LLAMA,
    "llama with biases": (*LLAMA, "model.bias=true"),
    "an output layer of its own": (*LLAMA, "model.tie_weights=false"),
    "a padded vocabulary": (*LLAMA, "model.vocab_size=384"),
    "another base": (*LLAMA, "positional_encoding.base=500000"),
    "layer norm": ("positional_encoding=rotary", "model.activation=swiglu"),
    "grouped queries": (*LLAMA, "model.n_kv_heads=2", "model.d_head=12"),
    "Llama 3's scaling": (*LLAMA, SCALING.replace("NAME", "llama3")),
    "YaRN": (*LLAMA, SCALING.replace("NAME", "yarn")),
    "YaRN, all keys": (*LLAMA, SCALING.replace("NAME", "yarn,beta_fast:4,beta_slow:0.5,attention_factor:1.3")),
    "qwen3": (*LLAMA, "model.qk_norm=true", "model.n_kv_heads=2", "model.d_head=12"),
    "qwen3 with YaRN": (*LLAMA, "model.qk_norm=true", SCALING.replace("NAME", "yarn")),
}


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    return BPETokenizer.from_text(TEXT, 300)


@pytest.fixture
def exported(compose: Callable[..., RunConfig], tmp_path: Path) -> Callable[..., tuple[GPT, Any]]:
    def export(tokenizer: Tokenizer, *words: str) -> tuple[GPT, Any]:
        config = compose("model=debug", *SIZE, f"tokenizer={tokenizer.name}", *words)
        torch.manual_seed(0)
        model = GPT(config.transformer_config(config.model.vocab_size or tokenizer.vocab_size)).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        gguf.check_run(config)
        said = gguf.export(LoadedCheckpoint(model, tokenizer, config, 0, {}), Path("x"), tmp_path / "m.gguf", False)
        assert "from those of llama.cpp" in said
        float32 = llama_cpp.GGML_TYPE_F32
        options = {"n_ctx": 64, "verbose": False, "logits_all": True, "type_k": float32, "type_v": float32}
        return model, llama_cpp.Llama(str(tmp_path / "m.gguf"), **options)

    return export


@pytest.mark.parametrize("name", MODELS)
def test_llama_cpp_gives_the_same_logits_and_the_same_greedy_text(
    name: str, bpe: Tokenizer, exported: Callable[..., tuple[GPT, Any]]
) -> None:
    model, theirs = exported(bpe, *MODELS[name])
    prompt = bpe.encode("To be, or").tolist()
    assert theirs.tokenize(b"To be, or", add_bos=False) == prompt
    expected = model.generate(torch.tensor([prompt]), max_new_tokens=20, temperature=0)[0, len(prompt) :].tolist()
    written = [token for token, _ in zip(theirs.generate(prompt, temp=0.0), range(20), strict=False)]
    assert written == expected


def huggingface_tokenizer(pattern: str) -> Tokenizer:
    """Return one as Llama 3 and Qwen have it, with another vocabulary."""
    library: Any = pytest.importorskip("tokenizers")
    made = library.Tokenizer(library.models.BPE())
    split = library.pre_tokenizers.Split(library.Regex(pattern), "isolated")
    made.pre_tokenizer = library.pre_tokenizers.Sequence(
        [split, library.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    made.decoder = library.decoders.ByteLevel()
    alphabet = library.pre_tokenizers.ByteLevel.alphabet()
    trainer = library.trainers.BpeTrainer(
        vocab_size=320, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"], show_progress=False
    )
    made.train_from_iterator([TEXT], trainer)
    return HuggingFaceTokenizer(made.to_str().encode())


@pytest.mark.parametrize("name", ["bpe", "byte", "gpt2", "llama-bpe", "qwen2"])
def test_llama_cpp_gives_any_text_the_same_ids(
    name: str, bpe: Tokenizer, assets_dir: Path, exported: Callable[..., tuple[GPT, Any]]
) -> None:
    if name in PATTERNS.values():
        tokenizer = huggingface_tokenizer(next(pattern for pattern in PATTERNS if PATTERNS[pattern] == name))
    else:
        tokenizer = bpe if name == "bpe" else choose_tokenizer(name).build(assets_dir)
    _, theirs = exported(tokenizer, *LLAMA)
    chance = random.Random(0)
    alphabets = (
        TEXT,
        " \n\t\r",
        "0123456789'",
        "äßéøñ",
        "日本語のテキスト",
        "\U0001f600\U0001f468\u200d",
        "<|endoftext|>",
    )
    for _ in range(300):
        text = "".join(chance.choice(chance.choice(alphabets)) for _ in range(chance.randrange(1, 40)))
        ids = theirs.tokenize(text.encode(), add_bos=False, special=False)
        assert ids == tokenizer.encode(text).tolist(), text
        assert theirs.detokenize(ids) == text.encode()
