"""Byte pairs are learned as the papers say, the same way everywhere, and reproduce any text."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from folio.config.tokenizer import choose_tokenizer, load_tokenizer
from folio.data.corpora.single_text import TextFile
from folio.data.tokenizers import bpe as module
from folio.data.tokenizers.bpe import MAX_TOKEN_BYTES, BPETokenizer
from folio.runtime.errors import FolioError

MERCY = "The quality of mercy is not strain'd,\nIt droppeth as the gentle rain from heaven\n" * 4


def reference_pairs(counts: Counter[str], n_pairs: int) -> list[bytes]:
    """Byte-pair encoding as in Sennrich et al. 2016, figure 1: join the most frequent pair, again and again.

    Of equally frequent pairs, the one whose parts were known first. The order of single bytes is that of GPT-2's
    characters for them.
    """
    words = {word: [bytes([byte]) for byte in word.encode()] for word in counts}
    order = [byte.to_bytes() for byte in sorted(range(256), key=lambda byte: module.characters_of(byte.to_bytes()))]
    for _ in range(n_pairs):
        frequencies: Counter[tuple[bytes, bytes]] = Counter()
        for word, parts in words.items():
            for pair in pairwise(parts):
                frequencies[pair] += counts[word]
        allowed = [pair for pair in frequencies if frequencies[pair] >= 2 and len(b"".join(pair)) <= MAX_TOKEN_BYTES]
        if not allowed:
            break
        best = min(allowed, key=lambda pair: (-frequencies[pair], order.index(pair[0]), order.index(pair[1])))
        joined = b"".join(best)
        if joined not in order:
            order.append(joined)
        for parts in words.values():
            i = 0
            while i < len(parts) - 1:
                if (parts[i], parts[i + 1]) == best:
                    parts[i : i + 2] = [joined]
                i += 1
    return order[256:]


@settings(max_examples=200)
@given(st.dictionaries(st.text(st.sampled_from("ab é"), min_size=1, max_size=9), st.integers(1, 9)), st.integers(0, 9))
def test_the_pairs_are_those_of_the_paper(counts: dict[str, int], n_pairs: int) -> None:
    learned = module.learn_byte_pairs(Counter(counts), n_pairs)
    assert learned == reference_pairs(Counter(counts), len(learned))
    assert len(learned) == min(n_pairs, len(module.learn_byte_pairs(Counter(counts), 1000)))


def test_the_order_of_the_words_makes_no_difference() -> None:
    counts = Counter(BPETokenizer.find_units(MERCY))
    backwards = Counter(dict(reversed(counts.items())))
    assert BPETokenizer.from_counts(counts, 300).state() == BPETokenizer.from_counts(backwards, 300).state()


def test_large_counts_are_scaled_down(monkeypatch: pytest.MonkeyPatch) -> None:
    few = Counter({" ab": 30, " bc": 20, " x": 1})
    monkeypatch.setattr(module, "MAX_WORDS", 60)
    many = Counter({word: 1000 * count for word, count in few.items()})
    assert module.learn_byte_pairs(many, 10) == module.learn_byte_pairs(few, 10)


@given(st.text())
def test_every_character_of_a_text_is_in_a_unit(text: str) -> None:
    assert "".join(BPETokenizer.find_units(text)) == text


@given(st.text() | st.text(st.characters(max_codepoint=0x9F)))
def test_any_text_comes_back_byte_for_byte(text: str) -> None:
    tokenizer = TRAINED
    ids = tokenizer.encode(text).tolist()
    assert tokenizer.decode_bytes(ids) == text.encode()
    assert tokenizer.decode(ids) == text
    assert tokenizer.end_of_text not in ids
    assert tokenizer.unknown(text).spelling_bits == 0


TRAINED = BPETokenizer.from_text(MERCY, 300)


def test_the_vocabulary_has_the_size_that_was_asked_for() -> None:
    assert TRAINED.vocab_size == 300
    assert TRAINED.end_of_text == 299
    assert TRAINED.decode([299]) == "<|endoftext|>"
    assert [TRAINED.decode_bytes([byte]) for byte in range(256)] == [bytes([byte]) for byte in range(256)]
    assert len(TRAINED.encode(MERCY)) < len(MERCY) / 2
    assert BPETokenizer.from_text(MERCY, 257).encode("né").tolist() == [*"né".encode()]
    assert load_tokenizer(TRAINED.state()).encode(MERCY).tolist() == TRAINED.encode(MERCY).tolist()


def test_more_symbols_than_the_text_gives_are_refused_with_the_number_that_it_gives() -> None:
    all_of_them = BPETokenizer.from_text(MERCY).vocab_size
    assert BPETokenizer.from_text(MERCY, all_of_them).vocab_size == all_of_them
    with pytest.raises(FolioError, match=rf"gives only {all_of_them} symbols.*tokenizer\.vocab_size={all_of_them} or"):
        BPETokenizer.from_text(MERCY, all_of_them + 1)


@pytest.mark.parametrize("text", ["aaaa", " " * 50, ""])
def test_a_text_of_one_symbol_is_refused(text: str) -> None:
    with pytest.raises(FolioError, match="there is nothing to learn"):
        BPETokenizer.from_text(text, 257)


def test_no_token_is_longer_than_its_limit() -> None:
    tokenizer = BPETokenizer.from_text("-" * 5000 + "\n" + "a" * 5000)
    assert 32 < max(map(len, tokenizer.ranks)) <= MAX_TOKEN_BYTES
    load_tokenizer(tokenizer.state())


def test_a_text_is_prepared_with_the_pairs_of_its_first_nine_tenths(tmp_path: Path) -> None:
    (tmp_path / "my.txt").write_text(MERCY + "zyx" * 10)
    small, large = (
        TextFile(tmp_path / "my.txt").prepare(choose_tokenizer("bpe", vocab_size=size), tmp_path / "data", print)
        for size in (270, 280)
    )
    assert [data.folder.name for data in (small, large)] == ["bpe-270", "bpe-280"]
    assert [data.tokenizer.vocab_size for data in (small, large)] == [270, 280]
    assert set(small.tokenizer.encode("zyx").tolist()) == set(b"zyx"), "these pairs are in the validation split alone"
    for data in (small, large):
        for split in (data.train, data.val):
            text = data.tokenizer.decode(split.tokens[:].tolist())
            assert len(text.encode()) == split.info.n_bytes
            assert split.info.spelling_bits == 0


def test_learned_pieces_are_those_of_the_whole_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "To be,  or\n\n not\tto be:\r\n  that is 12 \N{ROSE}\n" * 9
    (tmp_path / "my.txt").write_text(text, newline="")
    train = text[: int(0.9 * len(text))]
    monkeypatch.setattr("folio.data.corpora.text.CHUNK_BYTES", 7)
    source = TextFile(tmp_path / "my.txt")
    assert source.count_units(BPETokenizer, tmp_path / "data", print) == Counter(BPETokenizer.find_units(train))
