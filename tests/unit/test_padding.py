"""Padding changes nothing: each row of a padded batch is read, and continued, as it would be alone."""

from functools import cache as memoized

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import OTHER_CHOICES, TINY, build, random_tokens
from torch import Tensor

from folio.models import GPT
from folio.models.blocks import DotProductAttention
from folio.models.masks import AttentionMask
from folio.models.positional import POSITIONAL_ENCODINGS

CONTEXT = TINY.context_length

each_encoding = pytest.mark.parametrize("encoding", POSITIONAL_ENCODINGS)
padding_of_rows = st.lists(
    st.lists(st.booleans(), min_size=CONTEXT, max_size=CONTEXT).filter(any), min_size=1, max_size=4
)
"""Padding anywhere: before, after and between the tokens of a row."""


@memoized
def model_of(encoding: str, norm_position: str = "pre") -> GPT:
    """Return a shared model in float64; a test must not change it."""
    changes = OTHER_CHOICES if norm_position == "post" else {}
    return build(GPT, positional_encoding=encoding, n_layers=2, tie_weights=False, **changes)


def padded(side: str, lengths: tuple[int, ...] = (3, CONTEXT, 1, 7)) -> tuple[Tensor, Tensor]:
    """Return random tokens (B, T), also as padding, and the padding mask of rows of these lengths."""
    columns = torch.arange(max(lengths))
    mask = columns < torch.tensor(lengths)[:, None]
    return random_tokens(len(lengths), max(lengths)), mask.flip(1) if side == "left" else mask


@torch.no_grad()
def assert_rows_are_read_as_alone(model: GPT, tokens: Tensor, padding_mask: Tensor) -> None:
    together = model(tokens, padding_mask)
    assert together.isfinite().all()
    for row, mask, logits in zip(tokens, padding_mask, together, strict=True):
        torch.testing.assert_close(logits[mask], model(row[mask][None])[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("norm_position", ["pre", "post"])
@pytest.mark.parametrize("side", ["left", "right"])
@each_encoding
def test_a_row_padded_at_either_end_has_the_logits_of_the_row_alone(
    encoding: str, side: str, norm_position: str
) -> None:
    assert_rows_are_read_as_alone(model_of(encoding, norm_position), *padded(side))


@each_encoding
@settings(max_examples=15)  # of each encoding
@given(rows=padding_of_rows)
def test_padding_may_stand_anywhere(encoding: str, rows: list[list[bool]]) -> None:
    assert_rows_are_read_as_alone(model_of(encoding), random_tokens(len(rows), CONTEXT), torch.tensor(rows))


@pytest.mark.parametrize("side", ["left", "right"])
@each_encoding
def test_the_gradients_of_a_padded_batch_are_those_of_its_rows(encoding: str, side: str) -> None:
    model, (tokens, mask) = model_of(encoding), padded(side)
    parameters = list(model.parameters())
    together = torch.autograd.grad(model(tokens, mask)[mask].square().sum(), parameters, allow_unused=True)
    alone = [model(row[own][None]).square().sum() for row, own in zip(tokens, mask, strict=True)]
    for one, other in zip(together, torch.autograd.grad(sum(alone), parameters, allow_unused=True), strict=True):
        torch.testing.assert_close(one, other)


def test_a_batch_without_padding_keeps_the_causal_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training passes no padding mask. A mask in a tensor would cost it the fastest kernel."""
    masks: list[AttentionMask] = []
    attend = DotProductAttention.forward
    monkeypatch.setattr(
        DotProductAttention, "forward", lambda self, q, k, v, mask: masks.append(mask) or attend(self, q, k, v, mask)
    )
    model_of("rotary")(random_tokens(2, 5))
    assert masks == [AttentionMask(is_causal=True)] * 2


def test_the_combined_mask_is_the_causal_and_the_padding_mask() -> None:
    tokens = random_tokens(2, 4)
    padding_mask = torch.tensor([[True, True, True, False], [False, False, True, True]])
    mask = model_of("learned").attention_mask(tokens, padding_mask)
    assert mask.shape == (2, 1, 4, 4)
    assert mask.int().tolist() == [
        [[[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 0]]],
        [[[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]],  # padding has nothing else to attend to
    ]
    assert torch.equal(model_of("learned").attention_mask(tokens), torch.ones(4, 4).tril().bool().expand(2, 1, 4, 4))


@pytest.mark.parametrize("side", ["left", "right"])
@each_encoding
def test_attention_maps_show_the_combined_mask_and_no_weight_outside_it(encoding: str, side: str) -> None:
    model, (tokens, padding_mask) = model_of(encoding), padded(side)
    combined = model.attention_mask(tokens, padding_mask)
    for layer in model.attention_maps(tokens, padding_mask):
        assert torch.equal(layer.mask, combined)
        assert (layer.weights[~combined.expand_as(layer.weights)] == 0).all()
        torch.testing.assert_close(layer.weights.sum(dim=-1), torch.ones(4, TINY.n_heads, CONTEXT).double())


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(2, 5), "is of type torch.float32, but must be torch.bool: True for a token"),
        (torch.ones(2, 5, dtype=torch.int64), "is of type torch.int64"),
        (torch.ones(2, 4, dtype=torch.bool), r"the shape \(2, 4\), but must have that of the tokens, \(2, 5\)"),
        (torch.ones(5, dtype=torch.bool), r"the shape \(5,\)"),
    ],
)
def test_another_kind_of_mask_is_refused(mask: Tensor, message: str) -> None:
    model, tokens = model_of("learned"), random_tokens(2, 5)
    for call in (model, model.attention_mask, model.attention_maps):
        with pytest.raises(ValueError, match=message):
            call(tokens, mask)
    with pytest.raises(ValueError, match=message):
        model.generate(tokens, 1, padding_mask=mask)


# generate


def rows_of(tokens: Tensor, mask: Tensor) -> list[Tensor]:
    return [row[own][None] for row, own in zip(tokens, mask, strict=True)]


@pytest.mark.parametrize("side", ["left", "right"])
@each_encoding
def test_prompts_of_different_lengths_are_continued_as_each_alone(encoding: str, side: str) -> None:
    """Past the context too, where the window slides."""
    model, (tokens, mask) = model_of(encoding), padded(side, (3, CONTEXT, 1, 7))
    n_new = CONTEXT + 3
    together = model.generate(tokens, n_new, temperature=0.0, padding_mask=mask)
    assert together.shape == (4, CONTEXT + n_new)
    for row, own, prompt in zip(together, mask, rows_of(tokens, mask), strict=True):
        (alone,) = model.generate(prompt, n_new, temperature=0.0)
        n_padding = int((~own).sum())
        first = n_padding if side == "left" else 0
        assert row[first : first + len(alone)].tolist() == alone.tolist()
    if side == "right":  # the padding of a row moves behind its new tokens
        assert together[2, 1 + n_new :].tolist() == tokens[2, 1:].tolist()


@torch.no_grad()
def test_greedy_tokens_are_the_largest_logits_of_a_forward_pass() -> None:
    model, tokens = model_of("learned"), random_tokens(2, 3)
    expected = tokens
    for _ in range(CONTEXT):
        logits = model(expected[:, -CONTEXT:])[:, -1]
        expected = torch.cat((expected, logits.argmax(dim=1, keepdim=True)), dim=1)
    assert torch.equal(model.generate(tokens, CONTEXT, temperature=0.0), expected)


def test_a_generator_repeats_a_text_and_none_is_torchs_own() -> None:
    model, tokens = model_of("rotary"), random_tokens(2, 3)
    one, two, other = (
        model.generate(tokens, 12, 1.5, 40, 0.9, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert torch.equal(one[:, :3], tokens)
    torch.manual_seed(1)
    assert torch.equal(model.generate(tokens, 12, temperature=1.5, top_k=40, top_p=0.9), one)


def test_a_temperature_top_k_and_top_p_act_as_in_generated_text() -> None:
    model, tokens = model_of("rotary"), random_tokens(1, 3)
    greedy = model.generate(tokens, 5, temperature=0.0)
    for options in ({"top_k": 1}, {"top_p": 1e-9}, {"temperature": 1e-9}):
        assert torch.equal(model.generate(tokens, 5, **options), greedy), options


def test_generating_keeps_the_mode_and_no_graph_and_its_result_can_be_trained_on() -> None:
    model = model_of("learned")
    tokens = model.generate(random_tokens(2, 3), 4)
    assert not model.training
    assert model(tokens).sum().requires_grad  # tokens of inference_mode would refuse
    assert torch.equal(model.generate(tokens, 0), tokens)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature=-1.0 must be 0"),
        ({"top_k": 0}, "top-k=0 must be 1 or more"),
        ({"top_p": 1.5}, "top-p=1.5 must be above 0"),
        ({"max_new_tokens": -1}, "max_new_tokens=-1 must be 0 or more"),
        ({"tokens": torch.zeros(3, dtype=torch.int64)}, r"a single text is tokens\[None\]"),
        ({"tokens": torch.zeros(1, 0, dtype=torch.int64)}, "at least one token in each row"),
        ({"tokens": torch.zeros(1, 3)}, "the type torch.float32"),
        ({"padding_mask": torch.tensor([[False] * 3])}, "has a row without tokens"),
    ],
)
def test_an_impossible_request_is_refused_in_one_line(options: dict[str, object], message: str) -> None:
    arguments = {"tokens": random_tokens(1, 3), "max_new_tokens": 2, **options}
    with pytest.raises(ValueError, match=message) as refused:
        model_of("learned").generate(**arguments)
    assert "\n" not in str(refused.value)


def test_a_model_counts_all_and_its_trainable_parameters() -> None:
    model = build(GPT)
    total = sum(parameter.numel() for parameter in model.parameters())
    model.token_embedding.weight.requires_grad_(False)
    assert (model.total_parameters, model.trainable_parameters) == (total, total - 61 * 32)
