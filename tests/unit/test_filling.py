"""An encoder fills the blanks of a text one after the other and keeps the rest as typed."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import build

from folio.data.tokenizers.base import Tokenizer
from folio.data.tokenizers.byte import ByteTokenizer
from folio.data.tokenizers.char import CharTokenizer
from folio.data.tokenizers.word import WordTokenizer
from folio.generation.filling import fill_tokens
from folio.generation.generate import generate, generate_text
from folio.generation.prompts import MASK, encode_masked
from folio.models import Encoder
from folio.models.sampling import SamplingParams
from folio.runtime.errors import FolioError

TOKENIZER = CharTokenizer("".join(map(chr, range(ord("0"), ord("0") + 60))))
"""All symbols of the model except the mask."""

WORDS = WordTokenizer(["to", "be", "or", "not", ",", "\n", "("])
GREEDY = SamplingParams(temperature=0.0)


def encoder(tokenizer: Tokenizer = TOKENIZER, **changes: Any) -> Encoder:
    return build(Encoder, **{"vocab_size": tokenizer.vocab_size + 1, "n_layers": 2, **changes})


def filled(prompt: str, tokenizer: Tokenizer = TOKENIZER, **options: Any) -> str:
    defaults = {"max_new_tokens": 1, "sampling": GREEDY, "seed": 0}
    return "".join(generate_text(encoder(tokenizer), tokenizer, prompt, **(defaults | options)))


@torch.no_grad()
def test_blanks_are_filled_from_left_to_right_and_each_is_read_for_the_next() -> None:
    model, tokens = encoder(), torch.tensor([[3, 60, 5, 60, 60]])
    expected = []
    for position in (1, 3, 4):
        tokens[0, position] = model(tokens)[0, position, :60].argmax()
        expected.append(int(tokens[0, position]))
    assert list(fill_tokens(model, [3, 60, 5, 60, 60], sampling=GREEDY, seed=0, n_symbols=60)) == expected
    assert filled(f"3{MASK}5{MASK}{MASK}") == TOKENIZER.decode(tokens[0].tolist())


@pytest.mark.parametrize(
    "sampling", [GREEDY, SamplingParams(), SamplingParams(top_p=0.99), SamplingParams(min_p=1e-6)], ids=str
)
def test_the_mask_itself_is_never_drawn(sampling: SamplingParams) -> None:
    model = encoder(vocab_size=64, tie_weights=False)
    with torch.no_grad():
        model.output.weight[60:] *= 20  # the likeliest of all, whenever one of the four logits is positive
    ids = [60] * 16
    assert max(fill_tokens(model, ids, sampling=GREEDY, seed=0, n_symbols=60)) < 60
    assert any(model(torch.tensor([ids]))[0].argmax(dim=1) >= 60)


def test_the_same_seed_fills_the_same_and_another_seed_otherwise() -> None:
    prompt = f"A{MASK * 8}"
    first = filled(prompt, sampling=SamplingParams(), seed=1)
    assert filled(prompt, sampling=SamplingParams(), seed=1) == first
    assert filled(prompt, sampling=SamplingParams(), seed=2) != first


def test_a_repetition_penalty_counts_the_given_and_the_filled_tokens() -> None:
    text = filled(f"AB{MASK * 14}", sampling=SamplingParams(temperature=0.0, repetition_penalty=1e6))
    assert len(set(text)) == 16


def test_a_batch_is_filled_like_each_text_alone() -> None:
    prompts = [f"A{MASK}", f"{MASK}BCD{MASK}", "E" + MASK * 5]
    texts = generate(encoder(), TOKENIZER, prompts, max_new_tokens=1, sampling=SamplingParams(), seeds=[4, 5, 6])
    alone = [filled(prompt, sampling=SamplingParams(), seed=seed) for seed, prompt in enumerate(prompts, 4)]
    assert ["".join(pieces) for pieces in texts] == alone


def test_text_is_yielded_up_to_the_next_blank_when_one_is_filled() -> None:
    model, n_passes = encoder(), []
    model.final_norm.register_forward_hook(lambda *_: n_passes.append(1))
    prompt = f"AB{MASK}CD{MASK}"
    pieces = generate_text(model, TOKENIZER, prompt, max_new_tokens=1, sampling=GREEDY, seed=0)
    assert next(pieces) == "AB"
    assert not n_passes
    assert next(pieces)[1:] == "CD"
    assert len(n_passes) == 1
    assert len("".join(pieces)) == 1


@given(pieces=st.lists(st.text("AB", max_size=3), min_size=2, max_size=4))
def test_nothing_but_the_blanks_changes(pieces: list[str]) -> None:
    text = filled(MASK.join(pieces))
    assert len(text) == sum(map(len, pieces)) + len(pieces) - 1
    assert text.startswith(pieces[0])
    assert text.endswith(pieces[-1])


def test_bytes_of_one_character_are_shown_together() -> None:
    tokenizer = ByteTokenizer()
    model, said = encoder(tokenizer), iter("é".encode())
    model.output.register_forward_hook(lambda *_: torch.eye(257)[[next(said)]])
    pieces = generate_text(model, tokenizer, f"a{MASK}{MASK}b", max_new_tokens=1, sampling=GREEDY, seed=0)
    assert list(pieces) == ["a", "éb"]


@pytest.mark.parametrize(
    ("prompt", "as_if"),
    [
        (f"to be or not to {MASK}", "to be or not to be"),
        (f"{MASK} be, or not", "to be, or not"),
        (f"to {MASK}, or not", "to be, or not"),
        (f"to ({MASK} or", "to (be or"),
        (f"to {MASK} {MASK} not", "to be or not"),
        (f"to\n{MASK} or", "to\nbe or"),
    ],
)
def test_words_around_a_blank_are_the_tokens_that_training_has_there(prompt: str, as_if: str) -> None:
    """A space that any word would have on that side is not a separate token."""
    ids, hidden = encode_masked(prompt, WORDS).ids, WORDS.encode(as_if).tolist()
    assert len(ids) == len(hidden)
    assert all(token in (other, WORDS.vocab_size) for token, other in zip(ids, hidden, strict=True))
    assert ids.count(WORDS.vocab_size) == prompt.count(MASK)


def test_the_text_around_a_blank_is_shown_as_typed() -> None:
    """Including words that the tokenizer does not know, and unusual spaces."""
    text = filled(f"Zounds  to {MASK} , zounds", WORDS)
    assert text.startswith("Zounds  to ")
    assert text.endswith(" , zounds")
    assert text != "Zounds  to  , zounds"


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ("To be", {}, r"prompt='To be' has no \[MASK\], and the model is an encoder.* write one, as in "),
        ("", {}, r"prompt='' has no \[MASK\]"),
        (f"A{MASK}", {"prefix": "B"}, "prefix='B' is for an encoder-decoder"),
        (f"A{MASK}", {"stop": ["B"]}, "stop has no effect with an encoder"),
        (f"A{MASK}", {"window": 8}, "window has no effect with an encoder"),
        ("A" * 16 + MASK, {}, "a prompt of 17 tokens is longer than the model's context_length=16"),
    ],
)
def test_a_text_that_an_encoder_cannot_fill_is_refused(prompt: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(FolioError, match=message):
        filled(prompt, **options)


def test_a_text_can_be_longer_than_the_context_if_positions_have_no_end() -> None:
    model = encoder(positional_encoding="alibi")
    pieces = generate_text(model, TOKENIZER, "A" * 40 + MASK, max_new_tokens=1, sampling=GREEDY, seed=0)
    assert len("".join(pieces)) == 41


def test_a_tokenizer_that_leaves_no_id_for_the_mask_is_refused() -> None:
    with pytest.raises(FolioError, match="tokenizer=char has 61 symbols, but the model was trained with 60"):
        generate_text(encoder(vocab_size=60), TOKENIZER, MASK, max_new_tokens=1, sampling=GREEDY, seed=0)
