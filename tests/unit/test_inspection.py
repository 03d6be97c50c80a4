"""Inspection shows what a model computes, and changes nothing."""

from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import CONDITIONINGS, TINY, build

from folio.figures.inspection import attention_weights, has_trained_positions, positional_tables
from folio.figures.labeled_prompt import LabeledPrompt
from folio.models import GPT, Encoder, EncoderDecoder, Model


def prompt_of(tokens: list[int], prefix: list[int] | None = None) -> LabeledPrompt:
    return LabeledPrompt(tokens, prefix or [], [], [], 0, "")


def every_family() -> list[tuple[Model, LabeledPrompt, int]]:
    """Return each family with a prompt of four tokens, and the number of columns that these attend to."""
    return [
        (build(GPT), prompt_of([1, 2, 3, 4]), 4),
        (build(Encoder), prompt_of([1, 2, 3, 4]), 4),
        (build(EncoderDecoder, conditioning="cross_attention"), prompt_of([7, 2, 3, 4], [5, 6, 7]), 3),
        (build(EncoderDecoder, conditioning="hidden_cache"), prompt_of([7, 2, 3, 4], [5, 6, 7]), 7),
    ]


@pytest.mark.parametrize(("model", "prompt", "n_columns"), every_family())
def test_attention_weights_sum_to_1_for_each_layer_head_and_row(
    model: Model, prompt: LabeledPrompt, n_columns: int
) -> None:
    weights = attention_weights(model, prompt)
    assert weights.shape == (TINY.n_layers, TINY.n_heads, 4, n_columns)
    np.testing.assert_allclose(weights.sum(axis=-1), 1.0, rtol=1e-6)


def test_a_decoder_gives_no_weight_to_later_tokens() -> None:
    weights = attention_weights(build(GPT), prompt_of([1, 2, 3, 4]))
    assert (weights[..., ~np.tri(4, dtype=bool)] == 0.0).all()


@pytest.mark.parametrize(("model", "prompt", "n_columns"), every_family())
def test_inspection_does_not_use_the_random_numbers_of_training(
    model: Model, prompt: LabeledPrompt, n_columns: int
) -> None:
    before = torch.get_rng_state()
    attention_weights(model, prompt)
    positional_tables(model)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("name", "n_columns", "trained"),
    [("learned", 32, True), ("sinusoidal", 32, False), ("rotary", 4, False), ("alibi", 4, False)],
)
def test_each_encoding_has_a_table_of_all_positions(name: str, n_columns: int, trained: bool) -> None:
    model = build(GPT, positional_encoding=name)
    tables = positional_tables(model)
    assert {part: table.shape for part, table in tables.items()} == {"": (TINY.context_length, n_columns)}
    assert has_trained_positions(model) is trained


def test_without_a_positional_encoding_there_is_no_table() -> None:
    assert positional_tables(build(GPT, positional_encoding="none")) == {}


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
@pytest.mark.parametrize(("name", "parts"), [("learned", {"encoder", "decoder"}), ("rotary", {""})])
def test_an_encoder_decoder_has_two_tables_if_it_trains_two(conditioning: str, name: str, parts: set[str]) -> None:
    choices: dict[str, Any] = {"conditioning": conditioning, "positional_encoding": name}
    assert set(positional_tables(build(EncoderDecoder, **choices))) == parts
