"""Words, punctuation and exceptional white space become ids; all but unknown units of a text are reproduced."""

import math
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from folio.data.tokenizers.word import JOIN, SPACE, UNKNOWN, WordTokenizer

MERCY = "The quality of mercy is not strain'd,\nIt droppeth as the gentle rain: o'er the place, the place!\n"

# Words, apostrophes, signs of every rule, white space of every kind, and what Unicode has beside.
CHARACTERS = "ab'’-,.([)$ \n\t\r\N{NO-BREAK SPACE}é\N{ROSE}\N{COMBINING DIAERESIS}_7"  # noqa: RUF001
texts = st.text(st.sampled_from(CHARACTERS)) | st.text()


def pieces(tokenizer: WordTokenizer, text: str) -> list[str]:
    """Return the text of each id, with + for JOIN."""
    return [tokenizer.decode([token]) if token != JOIN else "+" for token in tokenizer.encode(text).tolist()]


def knowing(text: str) -> WordTokenizer:
    return WordTokenizer.from_text(text, None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mercy is not strain'd, sir.", ["mercy", "is", "not", "strain'd", ",", "sir", "."]),
        ("o'er rock'n'roll naïve x_1 l’été", ["o'er", "rock'n'roll", "naïve", "x_1", "l’été"]),  # noqa: RUF001
        ("well-known--so (I hear)", ["well", "-", "known", "-", "-", "so", "(", "I", "hear", ")"]),
        ("two\nlines:\n\n\tthree", ["two", "\n", "lines", ":", "\n", "\n", "\t", "three"]),
        ("a  b", ["a", " ", " ", "b"]),
        ("a - b", ["a", " ", "-", " ", "b"]),
        ("a ,b", ["a", " ", ",", "+", "b"]),
        ("a*b", ["a", "+", "*", "+", "b"]),
        (" a ", [" ", "a", " "]),
        ("lords' 'tis", ["lords", "'", " ", "'", "tis"]),
        ("", []),
    ],
)
def test_only_exceptional_white_space_has_ids(text: str, expected: list[str]) -> None:
    assert pieces(knowing(text), text) == expected


@given(texts)
def test_text_whose_units_are_known_is_reproduced_exactly(text: str) -> None:
    tokenizer = knowing(text)
    ids = tokenizer.encode(text)
    assert UNKNOWN not in ids
    assert tokenizer.decode(ids.tolist()) == text


@given(known=texts, text=texts)
def test_text_is_reproduced_except_for_its_unknown_units(known: str, text: str) -> None:
    tokenizer = knowing(known)
    ids = tokenizer.encode(text)
    # Independently of the tokenizer: the text between the unknown units must stand there literally.
    between = [re.escape(part) for part in tokenizer.decode(ids.tolist()).split("<unk>")]
    anything = r"(?:\w+(?:['’]\w+)*|[^\w\s]|\s)"  # noqa: RUF001
    assert re.fullmatch(anything.join(between), text)
    assert tokenizer.unknown(text).n_tokens == np.count_nonzero(ids == UNKNOWN) == len(between) - 1


@given(st.lists(st.integers(0, 6)))
def test_any_ids_are_a_text(ids: list[int]) -> None:
    tokenizer = WordTokenizer(["a", ",", "-", "\n"])
    assert len(tokenizer.decode(ids)) >= len(ids) - ids.count(JOIN)


def test_the_commonest_units_have_the_lowest_ids_and_ties_are_in_alphabetical_order() -> None:
    units = WordTokenizer.from_text("c b a b , , , ,d\nd", None).state()["units"]
    assert units == [",", "b", "d", "\n", "a", "c"]


@given(texts, st.integers(4, 12))
def test_a_vocabulary_is_no_larger_than_its_limit(text: str, size: int) -> None:
    whole, cut = WordTokenizer.from_text(text, None), WordTokenizer.from_text(text, size)
    assert cut.vocab_size == min(size, whole.vocab_size)
    assert cut.state()["units"] == whole.state()["units"][: size - 3]


@given(texts)
def test_units_are_counted_as_they_are_written(text: str) -> None:
    tokenizer = knowing(text)
    counts = Counter(tokenizer.encode(text).tolist())
    written = [(-counts[token], tokenizer.decode([token])) for token in range(SPACE + 1, tokenizer.vocab_size)]
    assert written == sorted(written)


def test_no_space_is_written_before_a_comma_whatever_the_model_samples() -> None:
    tokenizer = WordTokenizer(["well", ",", "my", "lord", "(", ")"])
    ids = [tokenizer.encode(word)[0] for word in ("well", ",", "my", "lord", "(", "my", ")", "lord", ",")]
    assert tokenizer.decode(ids) == "well, my lord (my) lord,"


def test_the_space_to_the_word_before_comes_with_the_word_after() -> None:
    tokenizer = knowing(MERCY)
    after = tokenizer.encode("The quality").tolist()
    new = tokenizer.encode("of mercy,\nIt").tolist()
    assert list(tokenizer.decode_stream(new, after)) == [" of", " mercy", ",", "\n", "It"]
    assert list(tokenizer.decode_stream(new)) == ["of", " mercy", ",", "\n", "It"]


def test_an_unknown_unit_is_shown_as_such_with_the_space_of_a_word() -> None:
    tokenizer = knowing(MERCY)
    assert tokenizer.decode(tokenizer.encode("The brother of mercy, (the place)").tolist()) == (
        "The <unk> of mercy, <unk>the place<unk>"
    )


def test_text_that_looks_like_the_unknown_is_ordinary_text() -> None:
    tokenizer = knowing("a <unk> b")
    assert UNKNOWN not in tokenizer.encode("<unk>")
    assert tokenizer.decode(tokenizer.encode("<unk>").tolist()) == "<unk>"


def test_spelling_costs_what_a_code_by_hand_does() -> None:
    # Symbols a, a, b, END, END of the units, and one of each of the 257: 3, 2 and 3 of 262.
    tokenizer = WordTokenizer(["aa", "b"])
    a, b, other, end = math.log2(262 / 3), math.log2(262 / 2), math.log2(262), math.log2(262 / 3)
    unknown = tokenizer.unknown("aa abc b é")
    assert unknown.n_tokens == 2
    assert unknown.spelling_bits == pytest.approx((a + b + other + end) + (2 * other + end))


@given(texts)
def test_a_smaller_vocabulary_never_hides_less(text: str) -> None:
    hidden = [WordTokenizer.from_text(text, size).unknown(text).n_tokens for size in (4, 6, 9, None)]
    assert hidden == sorted(hidden, reverse=True)
    assert hidden[-1] == 0


def test_a_crowd_of_apostrophes_is_split_in_linear_time() -> None:
    text = "a'" * 500_000
    tokenizer = WordTokenizer(["a", "'"])
    assert tokenizer.decode(tokenizer.encode(text).tolist()) == "<unk>'"
