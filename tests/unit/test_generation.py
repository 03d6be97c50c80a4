"""The next token is drawn as the options say, and text comes out whole."""

import math
from collections.abc import Iterator, Sequence
from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from folio.data.tokenizers import CharTokenizer
from folio.errors import FolioError
from folio.generation import decode_stream, generate_text, generate_tokens, token_probabilities, until_stop
from folio.models import GPT, GPTConfig
from folio.sampling import Sampling

CHARACTERS = "".join(map(chr, range(ord("0"), ord("0") + 60)))
CONTEXT = 12
GREEDY = Sampling(temperature=0.0)

# Eighths, so that no difference between them is rounded away.
logits_strategy = st.lists(st.integers(-160, 160).map(lambda n: n / 8), min_size=1, max_size=40)


class ByteTokenizer:
    """One id for each byte, so that most characters span several."""

    name = "bytes"
    vocab_size = 256

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        return bytes(ids)


@pytest.fixture
def tokenizer() -> CharTokenizer:
    return CharTokenizer(CHARACTERS)


@pytest.fixture
def model() -> GPT:
    """With rows for 4 ids that no character has, and weights large enough for a lively text."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=64, context_length=CONTEXT, n_layers=2, n_heads=2, d_model=16, tie_weights=False))
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.5)
    return model.eval()


def text_of(model: GPT, tokenizer: CharTokenizer, sampling: Sampling, seed: int = 0, stop: Sequence[str] = ()) -> str:
    pieces = generate_text(model, tokenizer, "ABBA", max_new_tokens=40, sampling=sampling, seed=seed, stop=stop)
    return "".join(pieces)


def probabilities_of(logits: Sequence[float], **options: float) -> Tensor:
    return token_probabilities(torch.tensor(logits), Sampling(**options))


def kept(logits: Sequence[float], **options: float) -> list[int]:
    return probabilities_of(logits, **options).nonzero().flatten().tolist()


@pytest.mark.parametrize("prompt_length", [1, CONTEXT, 3 * CONTEXT])
def test_greedy_takes_the_likeliest_token_of_a_window_that_slides(prompt_length: int, model: GPT) -> None:
    expected = [5] * prompt_length
    for _ in range(2 * CONTEXT):
        window = torch.tensor([expected[-CONTEXT:]])
        expected.append(int(model(window)[0, -1].argmax()))
    tokens = generate_tokens(model, [5] * prompt_length, 2 * CONTEXT, GREEDY, torch.Generator(), n_symbols=64)
    assert list(tokens) == expected[prompt_length:]
    assert len(set(expected)) > 5  # a model that says one thing would show nothing


def test_the_same_seed_writes_the_same_text_and_another_another(model: GPT, tokenizer: CharTokenizer) -> None:
    sampling = Sampling(temperature=0.8)
    first = text_of(model, tokenizer, sampling, seed=1)
    assert len(first) == 40
    assert text_of(model, tokenizer, sampling, seed=1) == first
    assert text_of(model, tokenizer, sampling, seed=2) != first


def test_generation_leaves_the_global_generator_as_it_was(model: GPT, tokenizer: CharTokenizer) -> None:
    before = torch.get_rng_state()
    text_of(model, tokenizer, Sampling())
    assert torch.equal(torch.get_rng_state(), before)


def test_text_comes_while_it_is_made(model: GPT, tokenizer: CharTokenizer) -> None:
    endless = generate_text(model, tokenizer, "A", max_new_tokens=10**12, sampling=GREEDY, seed=0)
    assert len(list(islice(endless, 3))) == 3


def test_ids_of_a_padded_vocabulary_are_never_drawn(model: GPT, tokenizer: CharTokenizer) -> None:
    with torch.no_grad():
        model.output.weight[60:] *= 20  # the likeliest of all, wherever one of the four logits is positive
    unlimited = generate_tokens(model, [1], 40, GREEDY, torch.Generator(), n_symbols=64)
    assert max(unlimited) >= 60
    for sampling in (GREEDY, Sampling(), Sampling(top_k=60), Sampling(top_p=0.99)):
        assert set(text_of(model, tokenizer, sampling)) <= set(CHARACTERS)


def test_a_prompt_without_tokens_is_refused(model: GPT, tokenizer: CharTokenizer) -> None:
    with pytest.raises(FolioError, match="prompt='' gives no tokens"):
        generate_text(model, tokenizer, "", max_new_tokens=1, sampling=GREEDY, seed=0)


def test_top_k_of_one_is_greedy(model: GPT, tokenizer: CharTokenizer) -> None:
    assert text_of(model, tokenizer, Sampling(top_k=1)) == text_of(model, tokenizer, GREEDY)


def test_draws_follow_the_probabilities(model: GPT) -> None:
    sampling = Sampling(temperature=0.7)
    generator = torch.Generator().manual_seed(0)
    n_draws = 1000
    drawn = torch.tensor(
        [next(generate_tokens(model, [1, 2], 1, sampling, generator, n_symbols=64)) for _ in range(n_draws)]
    )
    expected = (model(torch.tensor([[1, 2]]))[0, -1] / 0.7).softmax(dim=0)
    observed = drawn.bincount(minlength=64) / n_draws
    # A frequency has a standard error below 0.016.
    assert (observed - expected).abs().max() < 0.07


def test_temperature_sharpens_and_flattens() -> None:
    logits = [math.log(0.8), math.log(0.2)]
    assert probabilities_of(logits, temperature=1.0).tolist() == pytest.approx([0.8, 0.2])
    assert probabilities_of(logits, temperature=0.5).tolist() == pytest.approx([0.64 / 0.68, 0.04 / 0.68])
    assert probabilities_of(logits, temperature=2.0).tolist() == pytest.approx([2 / 3, 1 / 3])


@given(logits=logits_strategy, exponent=st.integers(-320, -3))
def test_a_temperature_towards_zero_is_greedy(logits: list[float], exponent: int) -> None:
    probabilities = probabilities_of(logits, temperature=10.0**exponent)
    best = torch.tensor(logits) == max(logits)
    torch.testing.assert_close(probabilities, best / best.sum())


@given(logits=logits_strategy, k=st.integers(1, 50))
def test_top_k_keeps_the_k_likeliest(logits: list[float], k: int) -> None:
    chosen = kept(logits, top_k=k)
    assert len(chosen) == min(k, len(logits))
    left_out = [value for index, value in enumerate(logits) if index not in chosen]
    assert min(logits[index] for index in chosen) >= max(left_out, default=-math.inf)


def test_top_k_keeps_exactly_k_of_equals() -> None:
    assert len(kept([1.0] * 10, top_k=3)) == 3


@pytest.mark.parametrize(("top_p", "n_kept"), [(0.01, 1), (0.5, 1), (0.51, 2), (0.7, 2), (0.8, 3), (0.9, 4)])
def test_top_p_keeps_the_likeliest_that_reach_p_by_hand(top_p: float, n_kept: int) -> None:
    logits = torch.tensor([0.25, 0.5, 0.125, 0.125]).log().tolist()
    assert len(kept(logits, top_p=top_p)) == n_kept
    assert 1 in kept(logits, top_p=top_p)


@given(logits=logits_strategy, top_p=st.floats(0.0, 1.0, exclude_min=True))
def test_top_p_keeps_the_smallest_set_that_reaches_p(logits: list[float], top_p: float) -> None:
    masses = probabilities_of(logits, top_p=top_p)
    chosen = masses[masses > 0]
    assert chosen.numel() >= 1
    assert chosen.sum() >= top_p - 1e-5
    assert chosen.sum() - chosen.min() < top_p + 1e-5


def test_top_p_counts_what_top_k_has_left() -> None:
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log().tolist()
    assert kept(logits, top_p=0.5) == [0, 1]
    assert kept(logits, top_p=0.5, top_k=2) == [0]  # 0.4 is 0.57 of what is left


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, "temperature=-0.1 must be 0"),
        ({"temperature": math.nan}, "temperature=nan must be 0"),
        ({"temperature": math.inf}, "temperature=inf must be 0"),
        ({"top_k": 0}, "top-k=0 must be 1 or more"),
        ({"top_k": -5}, "top-k=-5 must be 1 or more"),
        ({"top_p": 0.0}, "top-p=0.0 must be above 0 and at most 1"),
        ({"top_p": 1.5}, "top-p=1.5 must be above 0 and at most 1"),
        ({"top_p": math.nan}, "top-p=nan must be above 0 and at most 1"),
    ],
    ids=str,
)
def test_sampling_refuses_what_makes_no_sense(options: dict[str, float], message: str) -> None:
    with pytest.raises(FolioError, match=message):
        Sampling(**options)


def test_a_character_waits_for_the_last_of_its_bytes() -> None:
    pieces = list(decode_stream("a\N{ROSE}é!".encode(), ByteTokenizer()))
    assert pieces == ["a", "\N{ROSE}", "é", "!"]


def test_a_character_cut_off_at_the_end_is_shown_as_such() -> None:
    assert list(decode_stream("a\N{ROSE}".encode()[:-1], ByteTokenizer())) == ["a", "\N{REPLACEMENT CHARACTER}"]


@given(st.binary())
def test_streamed_text_is_what_decoding_at_once_gives(data: bytes) -> None:
    assert "".join(decode_stream(data, ByteTokenizer())) == data.decode(errors="replace")


def test_generation_ends_before_a_stop_string(model: GPT, tokenizer: CharTokenizer) -> None:
    text = text_of(model, tokenizer, Sampling(), seed=3)
    stop = text[10:13]
    assert text_of(model, tokenizer, Sampling(), seed=3, stop=[stop]) == text[: text.index(stop)]


@st.composite
def texts_in_pieces(draw: st.DrawFn) -> list[str]:
    return draw(st.lists(st.text("ab", max_size=5), max_size=8))


stops = st.text("ab", min_size=1, max_size=4)


@given(pieces=texts_in_pieces(), stop=stops)
def test_text_ends_before_its_first_stop_string_however_it_is_cut(pieces: list[str], stop: str) -> None:
    assert "".join(until_stop(pieces, [stop])) == "".join(pieces).split(stop)[0]


@given(pieces=texts_in_pieces(), stop=st.lists(stops, max_size=3))
def test_several_stop_strings_do_not_depend_on_how_the_text_is_cut(pieces: list[str], stop: list[str]) -> None:
    text = "".join(pieces)
    assert "".join(until_stop(pieces, stop)) == "".join(until_stop(text, stop)) == "".join(until_stop([text], stop))


def test_text_is_held_back_only_while_a_stop_string_could_begin() -> None:
    def pieces() -> Iterator[str]:
        yield "one "
        yield "<en"
        raise AssertionError("asked for more before passing on what was certain")

    assert next(until_stop(pieces(), ["<end>"])) == "one "
