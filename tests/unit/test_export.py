"""An export says at once what stands in its way, and leaves nothing half-written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from folio.config.run import RunConfig
from folio.data.tokenizers.base import Tokenizer
from folio.data.tokenizers.bpe import BPETokenizer
from folio.data.tokenizers.byte import ByteTokenizer
from folio.data.tokenizers.char import CharTokenizer
from folio.export import gguf, huggingface
from folio.export.gguf_tokenizer import vocabulary
from folio.models import GPT
from folio.models.pretrained import load_pretrained
from folio.runs.checkpoints import LoadedCheckpoint
from folio.runtime.errors import FolioError

LLAMA = ("positional_encoding=rotary", "model.norm=rms_norm", "model.activation=swiglu")
STRETCHED = "positional_encoding.rotary_scaling={name:llama3,factor:2,original_context_length:4}"
QUICKSTART = ("positional_encoding=rotary", "model.qk_norm=true", "model.activation=relu_squared")
BYTES = ByteTokenizer()

Compose = Callable[..., RunConfig]


def trained_model(compose: Compose, *words: str, tokenizer: Tokenizer = BYTES) -> LoadedCheckpoint:
    config = compose("model=debug", "model.d_model=8", f"tokenizer={tokenizer.name}", *words)
    torch.manual_seed(0)
    model = GPT(config.transformer_config(config.model.vocab_size or tokenizer.vocab_size)).eval()
    return LoadedCheckpoint(model, tokenizer, config, 7, {"loss_nats": 1.25, "bits_per_byte": 2.5})


def refusal(call: Callable[..., object], *args: Any) -> str:
    with pytest.raises(FolioError) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("words", [(), LLAMA, QUICKSTART, ("positional_encoding=rotary",)], ids=str)
def test_an_exported_folder_is_complete_and_verified(words: tuple[str, ...], compose: Compose, tmp_path: Path) -> None:
    trained = trained_model(compose, *words)
    said = huggingface.export(trained, Path("last.ckpt"), tmp_path / "out", False)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"
    }  # fmt: skip
    assert "16 random tokens differ by at most" in said
    tokens = torch.arange(8)[None]
    torch.testing.assert_close(load_pretrained(tmp_path / "out").eval()(tokens), trained.model(tokens))
    card = (tmp_path / "out" / "README.md").read_text()
    for words_of_card in ("library_name: transformers", "1.250000 nats", "2.5000", "7 steps of 12", "from_pretrained"):
        assert words_of_card in card


def test_a_model_that_is_written_in_another_form_says_so(compose: Compose, tmp_path: Path) -> None:
    said = huggingface.export(trained_model(compose, *QUICKSTART), Path("last.ckpt"), tmp_path / "out", False)
    assert "Qwen3ForCausalLM" in said
    assert "LayerNorm without bias as RMSNorm" in said
    values = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (values["hidden_act"], values["tie_word_embeddings"]) == ("relu", False)


def test_a_model_that_does_not_verify_is_not_written(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = trained_model(compose, *LLAMA)
    # Other tests in this process may have put transformers on the path, which would then read the folder.
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("folio.export.verification.load_pretrained", lambda folder: trained_model(compose).model)
    message = refusal(huggingface.export, trained, Path("last.ckpt"), tmp_path / "out", False)
    assert "the written model is not the trained one: its logits" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("positional_encoding=alibi",), "positional_encoding=alibi stands in the way"),
        (("model.logit_softcap=15",), "model.logit_softcap=15.0 stands in the way"),
        (("model.norm_position=post",), "nearest is GPT-2: train with model.norm_position=pre"),
        ((*LLAMA, "positional_encoding.rotary_fraction=0.5"), "train with positional_encoding.rotary_fraction=1.0"),
        ((*LLAMA, "model.output_bias=true"), "nearest is Llama: train with model.output_bias=false"),
    ],
    ids=str,
)
def test_the_option_in_the_way_and_its_recipe_are_named(
    words: tuple[str, ...], expected: str, compose: Compose
) -> None:
    assert expected in refusal(huggingface.check_run, trained_model(compose, *words).config)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (QUICKSTART, "model.activation=relu_squared stands in the way: nothing that llama.cpp reads has it; "),
        (QUICKSTART, "the nearest is Qwen3: train with model.activation=swiglu"),
        ((), "train with positional_encoding=rotary model.activation=swiglu"),
        ((*LLAMA, "model.attention_window=4"), "model.attention_window=4 stands in the way"),
        ((*LLAMA, "model.qk_norm=true", "model.attention_window=4"), "train with model.attention_window=null"),
        ((*LLAMA, "model.qk_norm=true", "model.attention_bias=true"), "train with model.attention_bias=false"),
        ((*LLAMA, "model.qk_norm=true", STRETCHED), "the nearest is Qwen3: train with"),
        ((*LLAMA, "tokenizer=char"), "tokenizer=char stands in the way: llama.cpp knows byte-level byte pairs"),
    ],
    ids=str,
)
def test_llama_cpp_has_fewer_models(words: tuple[str, ...], expected: str, compose: Compose) -> None:
    assert expected in refusal(gguf.check_run, compose("model=debug", "model.d_model=8", "tokenizer=byte", *words))


def test_a_destination_that_exists_is_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("x")
    assert "file is a file" in refusal(huggingface.check_destination, tmp_path / "file", True)
    assert "not empty" in refusal(huggingface.check_destination, tmp_path / "folder", False)
    assert "exists; name a new file, or replace it with --force" in refusal(
        gguf.check_destination, tmp_path / "file", False
    )
    assert "is a folder; name a new file" in refusal(gguf.check_destination, tmp_path / "folder", True)
    huggingface.check_destination(tmp_path / "folder", True)
    gguf.check_destination(tmp_path / "file", True)


@pytest.mark.parametrize("words", [LLAMA, (*LLAMA, "model.qk_norm=true")], ids=str)
def test_a_gguf_file_holds_every_tensor_and_the_tokenizer(
    words: tuple[str, ...], compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gguf import GGUFReader

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # no llama.cpp, as on most machines
    tokenizer = BPETokenizer.from_text("to be or not to be, that is " * 9, 263)
    trained = trained_model(compose, *words, "model.vocab_size=384", tokenizer=tokenizer)
    said = gguf.export(trained, Path("last.ckpt"), tmp_path / "m.gguf", False)
    assert "tensors were read back as written; install llama-cpp-python" in said
    reader = GGUFReader(tmp_path / "m.gguf")
    assert sum(tensor.n_elements for tensor in reader.tensors) == trained.model.n_parameters
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    assert len(tokens) == 384
    assert reader.fields["tokenizer.ggml.eos_token_id"].contents() == tokenizer.end_of_text


def test_the_vocabulary_for_llama_cpp_ends_texts_where_no_text_can_be() -> None:
    words = vocabulary(BYTES, 384)
    assert words.end_of_text == 0  # the byte NUL
    assert words.tokens[256:] == [f"[unused{token}]" for token in range(256, 384)]
    assert "tokenizer=char stands in the way" in refusal(vocabulary, CharTokenizer("ab"), 2)
