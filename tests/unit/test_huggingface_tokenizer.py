"""Any tokenizer.json is read as data: it encodes as its library does, or is refused in one line."""

import base64
import json
import math
import pickle
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

from folio.config.tokenizer import load_tokenizer
from folio.data.tokenizers.base import LearnedTokenizer, LosslessTokenizer, UnknownTokens
from folio.data.tokenizers.bpe import BPETokenizer
from folio.data.tokenizers.char import CharTokenizer
from folio.data.tokenizers.huggingface import SAFE_PATTERNS, HuggingFaceTokenizer
from folio.data.tokenizers.state import state_from_json, state_to_json
from folio.data.tokenizers.word import WordTokenizer
from folio.export.tokenizer import tokenizer_json
from folio.runtime.errors import FolioError

TEXT = "To be, or not to be: that is the question. Whether 'tis Nobler in the mind to suffer 15 naïve slings\n" * 3
TROUBLE = (
    " \n\r\t\x1c\N{NO-BREAK SPACE}\N{LINE SEPARATOR}\N{IDEOGRAPHIC SPACE}'sSlLré中15Ⅷ½!.,/(-_"
    "\N{COMBINING ACUTE ACCENT}\N{ROSE}"
)


def byte_level(*, pattern: str | None = None) -> tokenizers.Tokenizer:
    """GPT-2's kind, or with a pattern of its own Llama 3's and Qwen's, which is in NFC."""
    library = tokenizers.Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    if pattern is not None:
        split = pre_tokenizers.Split(Regex(pattern), "isolated")
        library.normalizer = normalizers.NFC()
        library.pre_tokenizer = pre_tokenizers.Sequence([split, library.pre_tokenizer])
    library.decoder = decoders.ByteLevel()
    library.post_processor = processors.ByteLevel(trim_offsets=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|endoftext|>"]
    library.train_from_iterator(
        [TEXT], trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, special_tokens=special)
    )
    return library


def word_piece() -> tokenizers.Tokenizer:
    """BERT's kind: without capitals and accents, and with tokens around each text."""
    library = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    library.normalizer = normalizers.BertNormalizer(lowercase=True)
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.decoder = decoders.WordPiece()
    special = ["[UNK]", "[CLS]", "[SEP]"]
    library.train_from_iterator([TEXT], trainers.WordPieceTrainer(vocab_size=80, special_tokens=special))
    library.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    library.enable_truncation(4)
    library.enable_padding(length=50)
    return library


def sentence_piece() -> tokenizers.Tokenizer:
    """T5's kind."""
    library = tokenizers.Tokenizer(models.Unigram())
    library.pre_tokenizer = pre_tokenizers.Metaspace()
    library.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=60, special_tokens=["<unk>", "</s>"], unk_token="<unk>")
    library.train_from_iterator([TEXT], trainer)
    return library


def llama2() -> tokenizers.Tokenizer:
    """Llama 2's kind: an underline for each space, one before the text, and bytes for what is unknown."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "b", "e", "t", "o"]
    pieces += ["▁b", "▁be", "▁t", "▁to"]
    merges = [("▁", "b"), ("▁b", "e"), ("▁", "t"), ("▁t", "o")]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    library = tokenizers.Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    library.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    library.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    library.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in pieces[:3]])
    return library


KINDS: dict[str, Callable[[], tokenizers.Tokenizer]] = {
    "byte_level": byte_level,
    "llama3": lambda: byte_level(pattern=SAFE_PATTERNS[0]),
    "qwen": lambda: byte_level(pattern=SAFE_PATTERNS[1]),
    "word_piece": word_piece,
    "sentence_piece": sentence_piece,
    "llama2": llama2,
}


def ours(library: tokenizers.Tokenizer) -> HuggingFaceTokenizer:
    return HuggingFaceTokenizer.of(library.to_str().encode())


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> tuple[tokenizers.Tokenizer, HuggingFaceTokenizer]:
    library = KINDS[request.param]()
    return library, ours(library)


def test_ids_are_those_of_the_library_without_what_it_adds(
    kind: tuple[tokenizers.Tokenizer, HuggingFaceTokenizer],
) -> None:
    as_saved, tokenizer = kind
    library = tokenizers.Tokenizer.from_str(as_saved.to_str())
    library.no_truncation()
    library.no_padding()
    ids = tokenizer.encode(TEXT)
    assert ids.tolist() == library.encode(TEXT, add_special_tokens=False).ids
    assert tokenizer.vocab_size == library.get_vocab_size()
    assert tokenizer.decode(ids.tolist()) == library.decode(ids.tolist(), skip_special_tokens=False)


def test_ids_that_stand_for_bytes_are_known_as_such(kind: tuple[tokenizers.Tokenizer, HuggingFaceTokenizer]) -> None:
    """So token files of other projects can be measured in bits per byte, and figures can show parts of characters."""
    _, tokenizer = kind
    assert isinstance(tokenizer, LosslessTokenizer) == (tokenizer.library_json.count('"ByteLevel"') > 0)
    if isinstance(tokenizer, LosslessTokenizer):
        ids = [*tokenizer.encode("né \N{ROSE}").tolist(), tokenizer.end_of_text]
        assert tokenizer.decode_bytes(ids) == "né \N{ROSE}<|endoftext|>".encode()
        for token in range(tokenizer.vocab_size):
            assert tokenizer.decode_bytes([token]).decode(errors="replace") == tokenizer.decode([token])


def test_text_that_looks_like_a_special_token_is_ordinary_text() -> None:
    tokenizer = ours(byte_level())
    ids = tokenizer.encode("<|endoftext|>").tolist()
    assert tokenizer.end_of_text not in ids
    assert tokenizer.decode(ids) == "<|endoftext|>"


@pytest.mark.parametrize(
    ("name", "end"),
    [("byte_level", "<|endoftext|>"), ("word_piece", "[SEP]"), ("sentence_piece", "</s>"), ("llama2", "</s>")],
)
def test_documents_end_with_the_usual_token_or_the_one_that_the_config_names(
    name: str, end: str, tmp_path: Path
) -> None:
    library = KINDS[name]()
    library.save(str(tmp_path / "tokenizer.json"))
    assert HuggingFaceTokenizer.read(tmp_path).end_of_text == library.token_to_id(end)
    first = library.id_to_token(0)
    for token in (first, {"content": first}):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": token}))
        assert HuggingFaceTokenizer.read(tmp_path / "tokenizer.json").end_of_text == 0


@pytest.mark.parametrize(
    ("name", "text", "n_unknown", "is_whole"),
    [
        ("byte_level", "Any text, e\N{COMBINING ACUTE ACCENT}: \N{ROSE}\r\n", 0, True),
        ("qwen", "é\N{ROSE}", 0, True),
        ("qwen", "e\N{COMBINING ACUTE ACCENT}", 0, False),  # NFC makes it one character
        ("word_piece", "to be", 0, True),
        ("word_piece", "To be", 0, False),
        ("word_piece", "to \N{ROSE}", 1, False),
        ("sentence_piece", "to be", 0, True),
        ("sentence_piece", "to \N{ROSE}", 1, False),
        ("llama2", "to be \N{ROSE}", 0, True),
    ],
)
def test_what_ids_leave_out_is_noticed(name: str, text: str, n_unknown: int, is_whole: bool) -> None:
    tokenizer = ours(KINDS[name]())
    ids, unknown = tokenizer.encode_with_unknown(text)
    assert ids.tolist() == tokenizer.encode(text).tolist()
    assert unknown == tokenizer.unknown(text) == UnknownTokens(n_unknown, 0.0 if is_whole else math.inf)


@pytest.mark.parametrize("name", ["byte_level", "llama3", "qwen"])
def test_a_long_text_is_cut_where_the_pattern_allows_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("folio.data.tokenizers.huggingface.PIECE_CHARACTERS", 5)
    library = KINDS[name]()
    tokenizer = ours(library)

    @settings(max_examples=300)
    @given(st.text(st.sampled_from(TROUBLE), max_size=24))
    def is_whole(text: str) -> None:
        whole = library.encode(text, add_special_tokens=False).ids
        assert tokenizer.encode(text).tolist() == whole
        cut = tokenizer.last_cut(text)
        assert [*tokenizer.encode(text[:cut]), *tokenizer.encode(text[cut:])] == whole

    is_whole()
    assert tokenizer.last_cut("To be, or not") == len("To be, or")


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "Lowercase"}},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}},
        {"pre_tokenizer": None},
        {"added_tokens": [{"id": 300, "content": "a b", "special": False}]},
        {"added_tokens": [{"id": 300, "content": "<a>", "special": False, "lstrip": True}]},
    ],
)
def test_a_text_is_not_cut_where_something_may_reach_over_the_cut(change: dict[str, Any]) -> None:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    changed = json.loads(byte_level().to_str()) | change
    changed["added_tokens"] = [flags | token for token in changed["added_tokens"]]
    assert HuggingFaceTokenizer.of(json.dumps(changed).encode()).last_cut("To be, or not") == 0


def test_streamed_text_is_what_decoding_at_once_gives(kind: tuple[tokenizers.Tokenizer, HuggingFaceTokenizer]) -> None:
    _, tokenizer = kind
    ids = tokenizer.encode("To be, naïve \N{ROSE}\N{ROSE} or not\nto be  15").tolist()
    for n_after in range(len(ids)):
        if tokenizer.decode(ids[:n_after]).endswith("\N{REPLACEMENT CHARACTER}"):
            continue  # no prompt ends within a character
        pieces = list(tokenizer.decode_stream(iter(ids[n_after:]), ids[:n_after]))
        assert len(pieces) in (len(ids) - n_after, len(ids) - n_after + 1)
        assert "".join(pieces) == tokenizer.decode(ids)[len(tokenizer.decode(ids[:n_after])) :]


@pytest.mark.parametrize(
    ("name", "spaces"), [("byte_level", "before"), ("word_piece", "around"), ("sentence_piece", "before")]
)
def test_the_spaces_that_belong_to_a_word_are_found_out(name: str, spaces: str) -> None:
    assert ours(KINDS[name]()).spaces_of_words == spaces


def test_ids_that_hold_a_line_feed_are_listed(kind: tuple[tokenizers.Tokenizer, HuggingFaceTokenizer]) -> None:
    _, tokenizer = kind
    newlines = tokenizer.newline_ids().tolist()
    assert newlines == [token for token in range(tokenizer.vocab_size) if "\n" in tokenizer.decode([token])]


def test_a_run_keeps_the_whole_file_with_its_sha256(kind: tuple[tokenizers.Tokenizer, HuggingFaceTokenizer]) -> None:
    library, tokenizer = kind
    state = state_from_json(state_to_json(tokenizer.state()))
    assert state["tokenizer_json"] == library.to_str().encode()
    for copy in (load_tokenizer(state), pickle.loads(pickle.dumps(tokenizer))):
        assert type(copy) is type(tokenizer)
        assert copy.state() == tokenizer.state()
        assert copy.encode(TEXT).tolist() == tokenizer.encode(TEXT).tolist()
    with pytest.raises(FolioError, match="damaged"):
        load_tokenizer(state | {"sha256": "0" * 64})


@pytest.mark.parametrize("kind", [BPETokenizer, WordTokenizer, CharTokenizer])
def test_what_folio_exports_can_be_read_again(kind: type[LearnedTokenizer]) -> None:
    text = f"{TEXT}{TROUBLE}<|endoftext|>"
    before = kind.from_text(text)
    again = HuggingFaceTokenizer.of(tokenizer_json(before).encode())
    ids, unknown = again.encode_with_unknown(text)
    assert ids.tolist() == before.encode(text).tolist()
    assert unknown == UnknownTokens()
    assert (again.vocab_size, again.end_of_text) == (before.vocab_size, before.end_of_text)


# A file of unknown origin.


def valid() -> dict[str, Any]:
    return json.loads(tokenizer_json(BPETokenizer.from_text(TEXT, 300)))


def replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def charsmap(*replacements: bytes) -> str:
    table = b"\0" * 8
    return base64.b64encode(len(table).to_bytes(4, "little") + table + b"\0".join(replacements)).decode()


def in_model(**changes: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda value: value | {"model": value["model"] | changes}


HOSTILE: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a list": (lambda value: [value], "not a JSON object"),
    "no model": (lambda value: {"version": "1.0"}, "no model"),
    "an unknown model": (in_model(type="Python"), "known are BPE"),
    "an empty vocabulary": (in_model(vocab={}), "no vocabulary"),
    "an id beyond the others": (in_model(vocab={"a": 4_000_000_000}), "its ids go up to 4000000000"),
    "a negative id": (in_model(vocab={"a": -1}), "which is no whole number"),
    "a fraction": (in_model(vocab={"a": 0.5}), "which is no whole number"),
    "one id for two": (in_model(vocab={"a": 0, "b": 0}), "two of its tokens have one id"),
    "an endless token": (in_model(vocab={"a" * 5000: 0}), "more than 1024 characters"),
    "a merge of unknown tokens": (in_model(merges=["xx yy"]), "out of vocabulary"),
    "a merge of three": (in_model(merges=["a b c"]), "cannot be used"),
    "one merge a thousand times": (in_model(vocab={"a": 0, "aa": 1}, merges=["a a"] * 1000), "1,000 merges for 3 tok"),
    "merges that are a number": (in_model(merges=5), "cannot be used"),
    "an added token twice": (
        lambda value: value | {"added_tokens": [{"id": 7, "content": "<|endoftext|>"}]},
        "two ids",
    ),
    "an added token far off": (
        lambda value: value | {"added_tokens": [{"id": 2**40, "content": "<x>"}]},
        "its ids go up to",
    ),
    "a catastrophic pattern": (
        lambda value: value | {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(x+x+)+y"}}},
        "might take forever",
    ),
    "a hidden catastrophic pattern": (
        lambda value: (
            value | {"normalizer": {"type": "Sequence", "normalizers": [replace({"Regex": r"(\w|\w\w)*z"}, "")]}}
        ),
        "might take forever",
    ),
    "text that doubles forty times": (
        lambda value: (
            value | {"normalizer": {"type": "Sequence", "normalizers": [replace({"String": "e"}, "ee")] * 40}}
        ),
        "times longer",
    ),
    "text between all characters": (lambda value: value | {"normalizer": replace({"Regex": ""}, "e" * 99)}, "longer"),
    "a character of a megabyte": (
        lambda value: (
            value | {"normalizer": {"type": "Precompiled", "precompiled_charsmap": charsmap(b"e" * 1_000_000)}}
        ),
        "longer",
    ),
    "a damaged table": (
        lambda value: value | {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "/////w=="}},
        "damaged",
    ),
    "a million steps": (
        lambda value: value | {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Whitespace"}] * 1000}},
        "more than 200",
    ),
    "an unknown step": (lambda value: value | {"pre_tokenizer": {"type": "Python", "code": "1"}}, "cannot be used"),
    "a decoder that is text": (lambda value: value | {"decoder": "ByteLevel"}, "not an object"),
    "a list in place of a step": (lambda value: value | {"normalizer": [""]}, "not an object"),
    "half a surrogate pair": (in_model(vocab={"\ud800": 0}, merges=[]), "surrogate"),
    "Folio's own file": (lambda value: {"name": "char", "characters": "ab"}, "record of tokenizer=char"),
    "scores that are no numbers": (in_model(type="Unigram", vocab=[["a", math.inf]], unk_id=0), "finite scores"),
    "words of any length": (in_model(type="WordPiece", max_input_chars_per_word=10**9), "max_input_chars_per_word"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    change, problem = HOSTILE[name]
    (tmp_path / "tokenizer.json").write_text(json.dumps(change(valid())))
    with pytest.raises(FolioError, match=problem) as caught:
        HuggingFaceTokenizer.read(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"tokenizer.path={tmp_path}: ")
    assert "\n" not in message
    assert len(message) < 700


@pytest.mark.parametrize("content", [b"", b"\xff", b"[" * 10**6, b'{"a":' * 500 + b"1" + b"}" * 500, b"{"])
def test_what_is_no_json_is_refused_in_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(FolioError, match=r"tokenizer\.path=") as caught:
        HuggingFaceTokenizer.read(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_file_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "tokenizer.json").open("wb") as file:
        file.truncate(2**33)
    with pytest.raises(FolioError, match="reads at most"):
        HuggingFaceTokenizer.read(tmp_path)


def test_a_path_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(FolioError, match=r"tokenizer\.path=.*nowhere does not exist"):
        HuggingFaceTokenizer.read(tmp_path / "nowhere")
    with pytest.raises(FolioError, match=r"has no tokenizer\.json; make one with transformers"):
        HuggingFaceTokenizer.read(tmp_path)


def test_an_unknown_token_that_is_missing_is_an_error_in_one_line() -> None:
    library = tokenizers.Tokenizer(models.WordLevel({"a": 0}, unk_token="<unk>"))
    with pytest.raises(FolioError, match="tokenizer huggingface cannot encode the text"):
        ours(library).encode("b")


@given(st.data())
@settings(max_examples=200)
def test_any_damage_to_a_file_is_a_tokenizer_or_an_error(data: st.DataObject) -> None:
    value = valid()
    part = data.draw(st.sampled_from([value, value["model"], value["pre_tokenizer"], value["added_tokens"][0]]))
    key = data.draw(st.sampled_from(sorted(part)))
    part[key] = data.draw(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text()) | st.just({"a": {}})
    )
    with suppress(FolioError):
        tokenizer = HuggingFaceTokenizer.of(json.dumps(value).encode())
        ids = tokenizer.encode("To be")
        assert np.issubdtype(ids.dtype, np.integer)
        tokenizer.decode(ids.tolist())
