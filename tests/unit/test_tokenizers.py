"""Text is the same after encoding and decoding, and a tokenizer is the same after a checkpoint."""

import base64
import io
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from folio.config.tokenizer import TOKENIZERS, choose_tokenizer, load_tokenizer
from folio.data.assets import fetch
from folio.data.tokenizers import tiktoken_bpe
from folio.data.tokenizers.base import LearnedTokenizer, Tokenizer, UnknownTokens
from folio.data.tokenizers.bpe import BPETokenizer
from folio.data.tokenizers.byte import ByteTokenizer
from folio.data.tokenizers.byte_pairs import write_ranks
from folio.data.tokenizers.char import CharTokenizer
from folio.data.tokenizers.choice import TokenizerChoice
from folio.data.tokenizers.huggingface import HuggingFaceTokenizer
from folio.data.tokenizers.rank_files import ENCODINGS
from folio.data.tokenizers.state import state_from_json, state_to_json
from folio.data.tokenizers.word import WordTokenizer
from folio.export.tokenizer import tokenizer_json
from folio.runtime.errors import FolioError

BYTES = [bytes([byte]) for byte in range(256)]

FIXED = ["byte", *ENCODINGS]
"""Tokenizers that do not learn."""

TEXT = "O Romeo, Romeo!\r\n\tWherefore art thou 15 \N{ROSE} naïve?   <|endoftext|>"


def build(name: str, assets_dir: Path) -> Tokenizer:
    """Return a tokenizer by name; one that is learned has learned from TEXT."""
    kind = TOKENIZERS[name].load_code()
    if issubclass(kind, HuggingFaceTokenizer):
        return kind(tokenizer_json(BPETokenizer.from_text(TEXT)).encode())
    return kind.from_text(TEXT) if issubclass(kind, LearnedTokenizer) else kind.create(name, assets_dir)


@pytest.fixture(scope="session", params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest, assets_dir: Path) -> Tokenizer:
    return build(request.param, assets_dir)


@pytest.fixture(scope="session")
def cl100k(assets_dir: Path) -> Tokenizer:
    return build("cl100k_base", assets_dir)


def test_decoding_reverses_encoding(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(TEXT)
    assert np.issubdtype(ids.dtype, np.integer)
    assert ids.ndim == 1
    assert ids.min() >= 0
    assert ids.max() < tokenizer.vocab_size
    assert tokenizer.decode(ids.tolist()) == TEXT
    assert tokenizer.unknown(TEXT) == UnknownTokens(n_tokens=0, spelling_bits=0.0)


# What patterns tell apart: white space of all kinds, also what Python alone calls so; letters, among them those of
# contractions and one that becomes an s; digits, signs, marks, and characters beyond 16 bits.
TROUBLE = (
    " \n\r\t\v\x1c\x85\N{NO-BREAK SPACE}\N{LINE SEPARATOR}\N{IDEOGRAPHIC SPACE}"
    "'\N{RIGHT SINGLE QUOTATION MARK}sSlLrevmtdé中\N{LATIN SMALL LETTER LONG S}ǅ15२Ⅷ½!.,;(-_"
    "\N{COMBINING ACUTE ACCENT}\N{ZERO WIDTH JOINER}\N{ROSE}"
)


def test_ids_of_the_parts_are_ids_of_the_whole_wherever_a_text_may_be_cut(assets_dir: Path) -> None:
    fixed = [build(name, assets_dir) for name in FIXED]

    @settings(max_examples=400)
    @given(text=st.text(st.sampled_from(TROUBLE), max_size=24), max_vocab_size=st.none() | st.integers(4, 20))
    def parts_are_the_whole(text: str, max_vocab_size: int | None) -> None:
        word = WordTokenizer.from_text(text[: len(text) // 2], max_vocab_size)
        bpe = BPETokenizer.from_text(3 * f"ab {text[: len(text) // 2]}")
        for tokenizer in (*fixed, bpe, CharTokenizer("".join(sorted({*text, "a"}))), word):
            whole, unknown = tokenizer.encode(text).tolist(), tokenizer.unknown(text)
            for end in range(len(text) + 1):
                # What is seen of the text must be enough, whatever follows.
                cut = tokenizer.last_cut(text[:end])
                parts = text[:cut], text[cut:]
                before, behind = (tokenizer.encode(part).tolist() for part in parts)
                assert before + behind == whole, (tokenizer.name, parts)
                added = tokenizer.unknown(parts[0]) + tokenizer.unknown(parts[1])
                assert added.n_tokens == unknown.n_tokens
                assert added.spelling_bits == pytest.approx(unknown.spelling_bits)

    parts_are_the_whole()


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("To be, or not", ("To be, or", " not")),
        ("中文。\n好", ("中文。\n", "好")),
        ("To\nbe", ("To\n", "be")),
        ("To  be", ("To", "  be")),
        ("To\n\nbe", ("", "To\n\nbe")),
        ("To\n", ("", "To\n")),
        (" To", ("", " To")),
        ("To be" + "x" * 10_000, ("To", " be" + "x" * 10_000)),
    ],
)
def test_a_text_is_cut_as_late_as_the_patterns_of_byte_pairs_allow(
    text: str, parts: tuple[str, str], cl100k: Tokenizer
) -> None:
    cut = cl100k.last_cut(text)
    assert (text[:cut], text[cut:]) == parts


def test_an_empty_text_has_no_ids(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("").shape == (0,)
    assert tokenizer.decode([]) == ""


@pytest.mark.parametrize("name", FIXED)
def test_encodings_of_bytes_reproduce_any_unicode(name: str, assets_dir: Path) -> None:
    tokenizer = build(name, assets_dir)

    @given(st.text())
    def round_trip(text: str) -> None:
        assert tokenizer.decode(tokenizer.encode(text).tolist()) == text

    round_trip()


@given(st.text(min_size=1))
def test_a_char_tokenizer_reproduces_its_own_characters(text: str) -> None:
    tokenizer = CharTokenizer("".join(sorted(set(text))))
    assert tokenizer.decode(tokenizer.encode(text).tolist()) == text
    assert load_tokenizer(tokenizer.state()).encode(text).tolist() == tokenizer.encode(text).tolist()


def test_characters_are_numbered_in_the_order_of_their_code_points() -> None:
    tokenizer = CharTokenizer.from_text("cabbage")
    assert tokenizer.vocab_size == 5
    assert tokenizer.encode("abceg").tolist() == [0, 1, 2, 3, 4]


def test_characters_without_an_id_are_named_with_their_first_position() -> None:
    tokenizer = CharTokenizer.from_text("abc")
    with pytest.raises(FolioError, match=r"'é' \(U\+00E9\) at position 2, '\\n' \(U\+000A\) at position 4") as caught:
        tokenizer.encode("abéé\nc")
    assert "\n" not in str(caught.value)


def test_bytes_are_their_own_ids() -> None:
    assert ByteTokenizer().encode("a\N{ROSE}\n").tolist() == [97, 0xF0, 0x9F, 0x8C, 0xB9, 10]


def test_half_a_surrogate_pair_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(FolioError, match="position 1"):
        tokenizer.encode("a\udc80")


def test_a_special_token_in_the_text_is_ordinary_text(cl100k: Tokenizer) -> None:
    ids = cl100k.encode("<|endoftext|>")
    assert len(ids) > 1
    assert ids.max() < 100_256


def test_a_cut_utf8_sequence_decodes_to_the_replacement_character(cl100k: Tokenizer) -> None:
    ids = cl100k.encode("\N{ROSE}").tolist()
    assert len(ids) > 1
    assert cl100k.decode(ids[:1]) == "\N{REPLACEMENT CHARACTER}"


def test_an_id_in_a_gap_of_the_vocabulary_does_not_stop_generation(cl100k: Tokenizer) -> None:
    a, b = cl100k.encode("ab")[0], cl100k.encode("b")[0]
    assert cl100k.decode([a, 100_256, b]) == cl100k.decode([a]) + "\N{REPLACEMENT CHARACTER}" + "b"


def test_ids_that_hold_a_line_feed_are_listed(tokenizer: Tokenizer) -> None:
    ids = tokenizer.newline_ids()
    assert ids.dtype == np.int64
    assert ids.tolist() == sorted(set(ids.tolist()))
    (in_text,) = [token for token in tokenizer.encode(TEXT).tolist() if "\n" in tokenizer.decode([token])]
    assert in_text in ids
    assert all("\n" in tokenizer.decode([token]) for token in ids.tolist())


def test_bytes_characters_and_words_have_one_line_feed_and_byte_pairs_many(assets_dir: Path) -> None:
    counts = {name: len(build(name, assets_dir).newline_ids()) for name in ("byte", "char", "word", "gpt2")}
    assert counts == {"byte": 1, "char": 1, "word": 1, "gpt2": sum(b"\n" in token for token in gpt2_tokens(assets_dir))}
    assert CharTokenizer("ab").newline_ids().shape == (0,)


def gpt2_tokens(assets_dir: Path) -> list[bytes]:
    """From the lines of the rank file: a token in base64 and its rank."""
    lines = fetch(ENCODINGS["gpt2"].rank_file, assets_dir).read_bytes().splitlines()
    return [base64.b64decode(line.split()[0]) for line in lines]


def test_streamed_text_is_what_decoding_at_once_gives(tokenizer: Tokenizer) -> None:
    @given(prompt=st.integers(0, len(TEXT)), ids=st.lists(st.integers(0, tokenizer.vocab_size - 1)))
    def continues(prompt: int, ids: list[int]) -> None:
        after = tokenizer.encode(TEXT[:prompt]).tolist()
        whole = tokenizer.decode(after + ids)
        pieces = list(tokenizer.decode_stream(iter(ids), after))
        assert "".join(pieces) == whole[len(tokenizer.decode(after)) :]
        assert len(pieces) - len(ids) in (0, 1), "one piece for each id, and one for what is incomplete at the end"

    continues()


def test_a_character_waits_for_the_last_of_its_bytes() -> None:
    assert list(ByteTokenizer().decode_stream("a\N{ROSE}é!".encode())) == ["a", "", "", "", "\N{ROSE}", "", "é", "!"]


def test_a_character_cut_off_at_the_end_is_shown_as_such() -> None:
    pieces = ByteTokenizer().decode_stream("a\N{ROSE}".encode()[:-1])
    assert list(pieces) == ["a", "", "", "", "\N{REPLACEMENT CHARACTER}"]


def test_text_streams_while_the_ids_are_made(tokenizer: Tokenizer) -> None:
    def ids() -> Iterator[int]:
        yield from tokenizer.encode("Romeo").tolist()
        pytest.fail("the text of the first ids was held back")

    assert TEXT[2:].startswith(next(tokenizer.decode_stream(ids())))


@pytest.mark.parametrize("wrong", [-1, 10**6])
def test_an_id_outside_the_vocabulary_is_refused(tokenizer: Tokenizer, wrong: int) -> None:
    with pytest.raises(FolioError, match=f"token id {wrong} is outside the vocabulary"):
        tokenizer.decode([0, wrong])
    with pytest.raises(FolioError, match=f"token id {wrong} is outside the vocabulary"):
        list(tokenizer.decode_stream([wrong]))


def test_text_that_tiktoken_cannot_split_is_an_error_and_no_panic(assets_dir: Path) -> None:
    tokenizer = build("gpt2", assets_dir)
    with pytest.raises(FolioError, match="run of hundreds of thousands of spaces"):
        tokenizer.encode(" " * 1_000_000 + "a")


def test_a_checkpoint_holds_everything_a_tokenizer_needs(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = io.BytesIO()
    torch.save({"tokenizer": tokenizer.state()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)["tokenizer"]
    monkeypatch.setattr(tiktoken_bpe, "fetch", None)
    monkeypatch.setattr("tiktoken.registry.ENCODINGS", {})
    monkeypatch.setattr("tiktoken.load.read_file", None)
    loaded = load_tokenizer(state)
    assert (loaded.name, loaded.vocab_size) == (tokenizer.name, tokenizer.vocab_size)
    assert loaded.encode(TEXT).tolist() == tokenizer.encode(TEXT).tolist()


def test_a_state_goes_through_json(tokenizer: Tokenizer) -> None:
    assert state_from_json(state_to_json(tokenizer.state())) == tokenizer.state()


@pytest.mark.parametrize("before", [None, "/somewhere"])
def test_the_environment_is_left_as_it_was(
    before: str | None, assets_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tiktoken.registry.ENCODINGS", {})
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR", raising=False)
    if before is not None:
        monkeypatch.setenv("TIKTOKEN_CACHE_DIR", before)
    build("gpt2", assets_dir).encode("a")
    assert os.environ.get("TIKTOKEN_CACHE_DIR") == before


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"name": "gpt5", "rank_file": b""},
        {"name": "gpt2"},
        {"name": "gpt2", "rank_file": "text"},
        {"name": "gpt2", "rank_file": b"damaged"},
        {"name": "byte", "rank_file": b""},
        {"name": "char", "characters": ""},
        {"name": "char", "characters": "ba"},
        {"name": "char", "characters": "aa"},
        {"name": "char", "characters": "ab", "more": 1},
        {"name": 3, "characters": "ab"},
        {"name": "bpe"},
        {"name": "bpe", "rank_file": b""},
        {"name": "bpe", "rank_file": write_ranks(BYTES[1:])},
        {"name": "bpe", "rank_file": write_ranks([*BYTES, b"a"])},
        {"name": "bpe", "rank_file": write_ranks([*BYTES, b""])},
        {"name": "bpe", "rank_file": write_ranks([*BYTES, b"a" * 1000])},
        {"name": "bpe", "rank_file": write_ranks([*BYTES, b"ab"]).replace(b" 256", b" 4000000000")},
        {"name": "bpe", "rank_file": write_ranks([*BYTES, b"ab"]).replace(b" 256", b" " + b"9" * 5000)},
        {"name": "bpe", "rank_file": write_ranks(BYTES) + b"!!! 256\n"},
        {"name": "bpe", "rank_file": write_ranks(BYTES) + b"\n"},
        {"name": "huggingface", "tokenizer_json": b"{}"},
        {"name": "huggingface", "tokenizer_json": b"{}", "end_of_text": "", "sha256": ""},
        {"name": "word"},
        {"name": "word", "units": "ab"},
        {"name": "word", "units": ["a", "b"], "more": 1},
        {"name": "word", "units": ["a", "b", "a"]},
        {"name": "word", "units": ["a", 3]},
        {"name": "word", "units": ["a", ["b"]]},
        {"name": "word", "units": ["a", None]},
        {"name": "word", "units": ["a", ""]},
        {"name": "word", "units": ["a", " "]},
        {"name": "word", "units": ["a b"]},
        {"name": "word", "units": ["'tis"]},
        {"name": "word", "units": ["<unk>"]},
        {"name": "word", "units": ["\n\n"]},
        {"name": "word", "units": ["a\n"]},
        {"name": "word", "units": ["\udc80"]},
    ],
)
def test_a_damaged_state_is_refused(state: dict[str, object]) -> None:
    with pytest.raises(FolioError):
        load_tokenizer(state)


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"3", b'{"a": {"base64": 5}}', b'{"a": {}}', b"\xff"])
def test_damaged_json_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a tokenizer state"):
        state_from_json(data)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(FolioError, match="did you mean gpt2"):
        choose_tokenizer("gtp2")
    with pytest.raises(FolioError, match="choose one of gpt2"):
        choose_tokenizer("xyz")


def test_characters_of_an_empty_text_are_refused() -> None:
    with pytest.raises(FolioError, match="at least one"):
        CharTokenizer.from_text("")


@pytest.mark.parametrize("name", TOKENIZERS)
def test_sizes_known_without_a_text_are_right(name: str, assets_dir: Path) -> None:
    tokenizer = build(name, assets_dir)
    assert type(tokenizer).known_vocab_size(name) in (None, tokenizer.vocab_size)
    is_of_a_text = isinstance(tokenizer, LearnedTokenizer | HuggingFaceTokenizer)
    assert (type(tokenizer).known_vocab_size(name) is None) == is_of_a_text


def test_a_shared_vocabulary_has_a_folder_of_its_own() -> None:
    first, second = CharTokenizer("ab"), CharTokenizer("abc")
    choice = TokenizerChoice(CharTokenizer, "char", shared=first)
    assert choice.folder_name.startswith("char-")
    assert choice.folder_name != TokenizerChoice(CharTokenizer, "char", shared=second).folder_name
    assert choice.allows(CharTokenizer("ab"))
    assert not choice.allows(second)
