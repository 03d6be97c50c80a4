"""transformers and Folio give the same ids for a text, and the same text for ids."""

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import Mock

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from folio.config.tokenizer import TOKENIZERS
from folio.data.tokenizers.base import LearnedTokenizer, Tokenizer
from folio.data.tokenizers.bpe import BPETokenizer
from folio.data.tokenizers.char import CharTokenizer
from folio.data.tokenizers.huggingface import HuggingFaceTokenizer
from folio.data.tokenizers.word import WordTokenizer
from folio.export.tokenizer import export_tokenizer, tokenizer_json, what_is_lost
from folio.runtime.errors import FolioError

LEARNED_FROM = (
    "To be, or not to be: that is the question.\r\n\tWhether 'tis nobler in the mind to suffer 15 naïve "
    "slings & arrows (of outrageous fortune) - \N{ROSE} o'er, o'er; \N{LEFT DOUBLE QUOTATION MARK}ay"
)

# What patterns and rules tell apart: white space of all kinds, letters, among them those of contractions and one that
# becomes an s, digits, signs, marks, apostrophes and characters beyond 16 bits.
TROUBLE = (
    " \n\r\t\v\x1c\x85\x00\x7f\N{NO-BREAK SPACE}\N{LINE SEPARATOR}\N{IDEOGRAPHIC SPACE}"
    "'\N{RIGHT SINGLE QUOTATION MARK}sSlLrevmtdé中\N{LATIN SMALL LETTER LONG S}ǅ15२Ⅷ½²!.,;([{-_<>|&"
    "\N{LEFT DOUBLE QUOTATION MARK}\N{COMBINING ACUTE ACCENT}\N{ZERO WIDTH JOINER}\N{ROSE}"
)
# Code points that this Python's Unicode lacks may be letters in that of another program.
assigned = st.characters(exclude_categories=["Cs", "Cn"]).filter(
    lambda character: unicodedata.category(character) != "Cn"
)
texts = st.one_of(
    st.text(assigned),
    st.text(st.sampled_from(TROUBLE), max_size=40),
    st.lists(st.sampled_from([*LEARNED_FROM.split(" "), " ", "  ", "<|endoftext|>", "<unk>", "\n"])).map("".join),
)


def build(name: str, assets_dir: Path) -> Tokenizer:
    kind = TOKENIZERS[name].load_code()
    return kind.from_text(LEARNED_FROM) if issubclass(kind, LearnedTokenizer) else kind.create(name, assets_dir)


@pytest.fixture
def load(transformers: ModuleType, tmp_path: Path) -> Callable[[Tokenizer], Any]:
    """Return a function that exports a tokenizer and loads it as a user of transformers does."""

    def load(tokenizer: Tokenizer) -> Any:
        export_tokenizer(tokenizer, tmp_path, context_length=64)
        loaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
        assert loaded.model_max_length == 64
        return loaded

    return load


def check_equal(ours: Tokenizer, theirs: Any, text: str) -> None:
    ids = ours.encode(text).tolist()
    assert theirs(text, verbose=False)["input_ids"] == ids
    assert theirs.decode(ids) == ours.decode(ids)


@pytest.mark.parametrize("name", [name for name in TOKENIZERS if name not in ("char", "huggingface")])
def test_any_text_has_the_same_ids_and_comes_back(
    name: str, assets_dir: Path, load: Callable[[Tokenizer], Any]
) -> None:
    ours = build(name, assets_dir)
    theirs = load(ours)
    for text in ("", TROUBLE, TROUBLE[::-1], LEARNED_FROM):
        check_equal(ours, theirs, text)
    settings(max_examples=60)(given(texts)(lambda text: check_equal(ours, theirs, text)))()


def test_characters_have_the_same_ids_and_an_unknown_one_is_an_error(load: Callable[[Tokenizer], Any]) -> None:
    ours = CharTokenizer("".join(sorted({*TROUBLE})))
    theirs = load(ours)
    given(st.text(st.sampled_from(TROUBLE)))(lambda text: check_equal(ours, theirs, text))()
    with pytest.raises(FolioError, match="no id for 'Z'"):
        ours.encode("Z")
    with pytest.raises(Exception, match="WordLevel"):
        theirs("Z")


@pytest.mark.parametrize("kind", [WordTokenizer, BPETokenizer])
def test_any_vocabulary_gives_the_same_ids(kind: type[LearnedTokenizer], load: Callable[[Tokenizer], Any]) -> None:
    """Repetitions above all: there, the order in which pairs are joined shows."""

    @settings(max_examples=25)
    @given(st.text(st.sampled_from(TROUBLE), max_size=30), st.lists(st.sampled_from(["ab", "a", "'", " ", "aba"])))
    def is_equal(some: str, words: list[str]) -> None:
        text = "".join(words)
        ours = kind.from_text(f"{text} {some} {text[::-1]} b")
        theirs = load(ours)
        for other in (text, some, 3 * text, text + some + text, TROUBLE):
            check_equal(ours, theirs, other)

    is_equal()


@pytest.mark.parametrize("name", ["bpe", "word", "byte", "p50k_edit"])
def test_any_ids_have_the_same_text(name: str, assets_dir: Path, load: Callable[[Tokenizer], Any]) -> None:
    ours = build(name, assets_dir)
    theirs = load(ours)

    @given(st.lists(st.integers(0, ours.vocab_size - 1)))
    def is_equal(ids: list[int]) -> None:
        assert theirs.decode(ids) == ours.decode(ids)

    is_equal()


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "qwen3", "mistral"])
def test_the_config_of_a_model_beside_it_changes_nothing(
    model_type: str, transformers: ModuleType, tmp_path: Path
) -> None:
    ours = BPETokenizer.from_text(LEARNED_FROM)
    assert export_tokenizer(ours, tmp_path) == []
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.eos_token_id == ours.end_of_text
    assert len(theirs) == ours.vocab_size
    check_equal(ours, theirs, TROUBLE + "<|endoftext|>" + LEARNED_FROM)


def test_what_the_file_cannot_express_is_said(tmp_path: Path) -> None:
    (line,) = export_tokenizer(WordTokenizer.from_text("to be \ufdd0"), tmp_path)
    assert "uses U+FDD1 and U+FDD2 as marks" in line


def test_a_tokenizer_from_a_file_is_written_without_what_it_would_add(load: Callable[[Tokenizer], Any]) -> None:
    library = tokenizers.Tokenizer.from_str(tokenizer_json(BPETokenizer.from_text(LEARNED_FROM)))
    library.post_processor = tokenizers.processors.TemplateProcessing("$A <|endoftext|>", None, [("<|endoftext|>", 5)])
    library.enable_truncation(3)
    ours = HuggingFaceTokenizer.of(library.to_str().encode())
    check_equal(ours, load(ours), LEARNED_FROM + "<|endoftext|>")
    assert "adds no special tokens" in what_is_lost(ours)[0]


def test_a_tokenizer_that_someone_added_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    own = Mock(spec=Tokenizer)
    own.name = "ascii"
    with pytest.raises(FolioError, match=r"tokenizer=ascii cannot be written as tokenizer\.json"):
        export_tokenizer(own, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()
