"""The next token is drawn as the options say, for each text separately."""

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from folio.models.sampling import SamplingParams
from folio.models.token_sampler import TokenSampler, penalize_repetition, token_probabilities
from folio.runtime.errors import FolioError

# Eighths, so that no difference between them is rounded away.
logits_strategy = st.lists(st.integers(-160, 160).map(lambda n: n / 8), min_size=1, max_size=40)
options_strategy = st.fixed_dictionaries(
    {},
    optional={
        "repetition_penalty": st.floats(0.5, 2.0),
        "temperature": st.floats(0.0, 2.0),
        "top_k": st.integers(1, 10),
        "top_p": st.floats(0.1, 1.0),
        "min_p": st.floats(0.01, 1.0),
    },
)


def probabilities_of(logits: Sequence[float], **options: float) -> Tensor:
    return token_probabilities(torch.tensor(logits), SamplingParams(**options))


def kept(logits: Sequence[float], **options: float) -> list[int]:
    return probabilities_of(logits, **options).nonzero().flatten().tolist()


def chooser(
    texts: Sequence[Sequence[int]], n_symbols: int, seeds: Sequence[int] = (0,), **options: float
) -> TokenSampler:
    return TokenSampler(texts, sampling=SamplingParams(**options), seeds=seeds, n_symbols=n_symbols)


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


@pytest.mark.parametrize(("min_p", "n_kept"), [(0.1, 4), (0.25, 4), (0.26, 2), (0.5, 2), (0.51, 1), (1.0, 1)])
def test_min_p_keeps_what_is_nearly_as_likely_as_the_likeliest_by_hand(min_p: float, n_kept: int) -> None:
    logits = torch.tensor([0.25, 0.5, 0.125, 0.125]).log().tolist()
    assert len(kept(logits, min_p=min_p)) == n_kept
    assert 1 in kept(logits, min_p=min_p)


@given(logits=logits_strategy, min_p=st.floats(0.0, 1.0, exclude_min=True), temperature=st.floats(0.1, 3.0))
def test_min_p_keeps_all_that_are_likely_enough_and_no_other(
    logits: list[float], min_p: float, temperature: float
) -> None:
    ratios = ((torch.tensor(logits) - max(logits)) / temperature).exp()
    chosen = probabilities_of(logits, min_p=min_p, temperature=temperature) > 0
    assert (ratios[chosen] >= min_p * (1 - 1e-4)).all()
    assert (ratios[~chosen] <= min_p * (1 + 1e-4) + 1e-37).all()
    assert chosen[logits.index(max(logits))]


def test_min_p_uses_the_probabilities_after_temperature() -> None:
    logits = torch.tensor([0.8, 0.2]).log().tolist()
    assert kept(logits, min_p=0.2, temperature=0.5) == [0]  # 1/16 as likely
    assert kept(logits, min_p=0.2, temperature=1.0) == [0, 1]  # 1/4


@given(logits=logits_strategy, k=st.integers(1, 50), min_p=st.floats(0.01, 1.0))
def test_top_k_does_not_change_the_threshold_of_min_p(logits: list[float], k: int, min_p: float) -> None:
    both = probabilities_of(logits, top_k=k, min_p=min_p) > 0
    assert torch.equal(
        both, (probabilities_of(logits, top_k=k) > 0) & (probabilities_of(logits, min_p=min_p) > 0) & both
    )
    assert both.sum() == min(k, len(kept(logits, min_p=min_p)))


def test_a_repetition_penalty_divides_positive_logits_and_multiplies_negative_ones_by_hand() -> None:
    logits, seen = torch.tensor([[2.0, -2.0, 0.0, 3.0]]), torch.tensor([[True, True, True, False]])
    assert penalize_repetition(logits, seen, 2.0).tolist() == [[1.0, -4.0, 0.0, 3.0]]
    assert penalize_repetition(logits, seen, 0.5).tolist() == [[4.0, -1.0, 0.0, 3.0]]
    assert penalize_repetition(logits, seen, 1.0).tolist() == logits.tolist()
    assert penalize_repetition(logits, seen, 1e39).tolist()[0][2:] == [0.0, 3.0]  # infinite in float32


@given(logits=logits_strategy, penalty=st.floats(1e-40, 1e40), data=st.data())
def test_a_repetition_penalty_keeps_new_tokens_and_makes_old_ones_less_likely(
    logits: list[float], penalty: float, data: st.DataObject
) -> None:
    seen = torch.tensor(data.draw(st.lists(st.booleans(), min_size=len(logits), max_size=len(logits))))
    before = torch.tensor(logits)
    after = penalize_repetition(before, seen, penalty)
    assert after.isfinite().all()
    assert torch.equal(after[~seen], before[~seen])
    assert ((after <= before) if penalty >= 1 else (after >= before)).all()


def test_a_penalized_token_is_one_of_the_prompt_or_of_the_text_so_far() -> None:
    logits = torch.tensor([[4.0, 3.0, 2.5, 2.4]])
    greedy = chooser([[0]], 4, temperature=0.0, repetition_penalty=2.0)
    assert [greedy.sample(logits)[0] for _ in range(4)] == [1, 2, 3, 0]


def test_each_text_is_penalized_for_its_own_tokens() -> None:
    greedy = chooser([[0], [1]], 2, seeds=[0, 0], temperature=0.0, repetition_penalty=2.0)
    assert greedy.sample(torch.tensor([[4.0, 3.0]]).repeat(2, 1)) == [1, 0]


def test_an_id_without_a_symbol_in_the_text_is_ignored() -> None:
    assert chooser([[0, 5]], 2, temperature=0.0, repetition_penalty=2.0).sample(torch.tensor([[4.0, 3.0, 9.0]])) == [1]


@given(
    rows=st.lists(st.lists(st.integers(-40, 40), min_size=8, max_size=8), min_size=1, max_size=4),
    options=options_strategy,
)
def test_rows_of_a_batch_draw_what_each_draws_alone(rows: list[list[int]], options: dict[str, float]) -> None:
    seeds, texts = range(len(rows)), [[row % 8] for row in range(len(rows))]
    logits = torch.tensor(rows) / 8
    together, alone = (
        chooser(texts, 7, seeds, **options),
        [chooser([text], 7, [seed], **options) for seed, text in zip(seeds, texts, strict=True)],
    )
    for _ in range(3):
        chosen = together.sample(logits)
        assert chosen == [each.sample(logits[row : row + 1])[0] for row, each in enumerate(alone)]
        assert max(chosen) < 7


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
        ({"min_p": 0.0}, "min-p=0.0 must be above 0 and at most 1"),
        ({"min_p": 1.5}, "min-p=1.5 must be above 0 and at most 1"),
        ({"repetition_penalty": 0.0}, "repetition-penalty=0.0 must be above 0"),
        ({"repetition_penalty": -1.0}, "repetition-penalty=-1.0 must be above 0"),
        ({"repetition_penalty": math.nan}, "repetition-penalty=nan must be above 0"),
        ({"repetition_penalty": math.inf}, "repetition-penalty=inf must be above 0"),
    ],
    ids=str,
)
def test_invalid_sampling_options_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(FolioError, match=message):
        SamplingParams(**options)
