"""Figures show the given numbers, with every label complete and legible."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

from folio.figures.attention import MAX_MAPS, attention_figure, batch_attention_figure, visible
from folio.figures.attention_scaling import MAX_D_HEAD, measure_scaling, measure_width
from folio.figures.curves import Curve
from folio.figures.plots import loss_figure, pixels, positional_figure, scaling_figure, schedule_figure, spread
from folio.runtime.errors import FolioError

CURVES = {
    "train/loss_nats": Curve([10, 20], [6.0, 5.5]),
    "val/loss_nats": Curve([20], [5.75]),
    "train/learning_rate": Curve([10, 20], [0.5, 0.25]),
}
WORDS = ["The", " quick", "\n", "ROMEO", ":", " ", "$x$", " uncharacteristically", "\xe4\xb8", "é", "", "g"]
SWEEP = "model=gpt2_small,optimizer.learning_rate=0.0006,schedule.warmup_steps=2000,training.batch_size=480,seed=1"


def causal_weights(n_layers: int, n_heads: int, n_tokens: int) -> np.ndarray:
    weights = np.tril(np.random.default_rng(0).random((n_layers, n_heads, n_tokens, n_tokens)) + 0.01)
    normalised: np.ndarray = weights / weights.sum(axis=-1, keepdims=True)
    return normalised


def labels(n: int) -> list[str]:
    return [WORDS[index % len(WORDS)] for index in range(n)]


def attention(n_layers: int, n_heads: int, n_tokens: int, title: str = "a run: attention") -> Figure:
    tokens = labels(n_tokens)
    return attention_figure(causal_weights(n_layers, n_heads, n_tokens), tokens, tokens, title)


def crossed(n_rows: int, n_columns: int) -> Figure:
    return attention_figure(np.full((2, 3, n_rows, n_columns), 0.5), labels(n_rows), labels(n_columns), "prefixes")


def batch(n_texts: int, n_heads: int, n_tokens: int) -> Figure:
    tokens = [labels(n_tokens)[::-1] if row % 2 else labels(n_tokens) for row in range(n_texts)]
    return batch_attention_figure(causal_weights(n_texts, n_heads, n_tokens), tokens, "a batch")


def texts_of(figure: Figure) -> list[Text]:
    """Return the texts of a rendered figure that are visible."""
    found = figure.findobj(lambda artist: isinstance(artist, Text) and artist.get_visible() and artist.get_text() != "")
    # A tick outside the limits keeps its text, and is not drawn.
    ticks = {
        text
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
        for text in (tick.label1, tick.label2)
        if not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
    }
    return [text for text in found if isinstance(text, Text) and text not in ticks]


def extent(text: Text) -> Bbox:
    return Text.get_window_extent(text) if isinstance(text, Annotation) else text.get_window_extent()


FIGURES: dict[str, Callable[[], Figure]] = {
    "loss": lambda: loss_figure(CURVES, "a run"),
    "loss of a sweep": lambda: loss_figure(CURVES, SWEEP),
    "schedule": lambda: schedule_figure([0.001, 0.003, 0.002, 0.000123456], "a run"),
    "schedule that rises to its end": lambda: schedule_figure([0.001, 0.002, 0.003], "a run"),
    "schedule of one step": lambda: schedule_figure([0.001], "a run"),
    "schedule of many steps": lambda: schedule_figure(np.linspace(3e-4, 3e-5, 600_000).tolist(), "a run"),
    "learned": lambda: positional_figure(np.random.default_rng(0).normal(size=(64, 32)), "learned", "a run"),
    "sinusoidal": lambda: positional_figure(np.sin(np.arange(1024 * 768)).reshape(1024, 768), "sinusoidal", SWEEP),
    "rotary": lambda: positional_figure(np.cos(np.arange(64 * 16)).reshape(64, 16), "rotary", "a run"),
    "alibi": lambda: positional_figure(-np.outer(np.arange(512.0), [0.5, 0.25]), "alibi", "a run"),
    "attention 1 x 1 of 1 token": lambda: attention(1, 1, 1, SWEEP),
    "attention 1 x 1": lambda: attention(1, 1, 6),
    "attention 4 x 4 of 6 tokens": lambda: attention(4, 4, 6),
    "attention 4 x 4 of 20 tokens": lambda: attention(4, 4, 20),
    "attention 12 x 12 of 24 tokens": lambda: attention(12, 12, 24),
    "attention of 1 row": lambda: crossed(1, 24),
    "attention to 1 column": lambda: crossed(24, 1),
    "attention of a batch of 2": lambda: batch(2, 4, 9),
    "attention of a batch of 5, 1 head, 1 token": lambda: batch(5, 1, 1),
    "attention of a batch of 12 x 12": lambda: batch(12, 12, 24),
    "scaling": lambda: scaling_figure(measure_scaling(512), "a run"),
    "scaling of width 1": lambda: scaling_figure(measure_scaling(1), SWEEP),
    "curves of some dimensions": lambda: positional_figure(
        np.sin(np.arange(96 * 48)).reshape(96, 48), "sinusoidal", "a run", dimensions=[0, 1, 47], n_positions=16
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_is_cut_off(name: str) -> None:
    figure = FIGURES[name]()
    image = pixels(figure)
    assert image.std() > 0
    for text in texts_of(figure):
        box = extent(text)
        inside = box.x0 >= 0 and box.y0 >= 0 and box.x1 <= image.shape[1] and box.y1 <= image.shape[0]
        assert inside, f"{text.get_text()!r} at {box}"


@pytest.mark.parametrize("name", [name for name in FIGURES if name.startswith("attention")])
def test_no_label_covers_the_next(name: str) -> None:
    figure = FIGURES[name]()
    pixels(figure)
    titles = [axes.title for axes in figure.axes if axes.get_title()]
    for adjacent in (*([*axes.get_yticklabels()] for axes in figure.axes), titles):
        for one, next_one in pairwise(adjacent):
            assert not one.get_window_extent().overlaps(next_one.get_window_extent()), one.get_text()


def test_the_loss_figure_draws_both_losses_and_the_rate_and_names_its_axes() -> None:
    loss_axes, rate_axes = loss_figure(CURVES, title="a run").axes
    assert {line.get_label(): list(np.asarray(line.get_ydata())) for line in loss_axes.lines[:2]} == {
        "training, mean since the last point": [6.0, 5.5],
        "validation, whole split": [5.75],
    }
    assert [list(np.asarray(line.get_ydata())) for line in rate_axes.lines] == [[0.5, 0.25]]
    assert loss_axes.get_title() == "a run"
    assert loss_axes.get_ylabel() == "loss (nats per token)"
    assert rate_axes.get_xlabel() == "optimizer step"


@pytest.mark.parametrize("tag", ["train/loss_nats", "val/loss_nats"])
def test_a_run_that_stopped_early_shows_the_loss_that_it_has(tag: str) -> None:
    loss_axes, _ = loss_figure({tag: Curve([10, 20], [6.0, 5.5])}, title="a run").axes
    assert list(np.asarray(loss_axes.lines[0].get_ydata())) == [6.0, 5.5]


def test_a_run_without_any_loss_is_refused() -> None:
    with pytest.raises(FolioError, match="no loss is logged yet"):
        loss_figure({"train/learning_rate": Curve([1], [0.5])}, title="a run")


def test_the_schedule_counts_steps_from_one_and_names_its_peak_and_its_end() -> None:
    (axes,) = schedule_figure([0.001, 0.003, 0.002, 0.0001], "a run").axes
    assert list(np.asarray(axes.lines[0].get_xdata())) == [1, 2, 3, 4]
    assert list(np.asarray(axes.lines[0].get_ydata())) == [0.001, 0.003, 0.002, 0.0001]
    assert [text.get_text() for text in axes.texts] == ["0.003 at step 2", "0.0001\nat step 4"]


def test_a_rate_that_never_falls_is_named_once() -> None:
    (axes,) = schedule_figure([0.001, 0.003, 0.003], "a run").axes
    assert [text.get_text() for text in axes.texts] == ["0.003 at step 2"]


@pytest.mark.parametrize(
    ("encoding", "column", "row", "value"),
    [
        ("learned", "dimension", "position", "value"),
        ("rotary", "pair of dimensions", "position", "cosine of the angle"),
        ("alibi", "head", "distance", "added to the score"),
        ("one's own", "column", "position", "value"),
    ],
)
def test_positions_are_a_heat_map_over_curves_with_labels_that_suit_the_encoding(
    encoding: str, column: str, row: str, value: str
) -> None:
    table = np.random.default_rng(0).normal(size=(20, 31))
    figure = positional_figure(table, encoding, "a run")
    map_axes, curve_axes, _ = figure.axes
    np.testing.assert_array_equal(map_axes.images[0].get_array(), table.T)
    assert map_axes.get_ylabel() == column
    assert (curve_axes.get_xlabel(), curve_axes.get_ylabel()) == (row, value)
    shown = [str(line.get_label()) for line in curve_axes.lines]
    assert (shown[0], shown[-1]) == ("0", "30")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == shown
    for line in curve_axes.lines:
        np.testing.assert_array_equal(line.get_ydata(), table[:, int(str(line.get_label()))])


def test_attention_has_a_map_for_each_layer_and_head_and_one_color_bar() -> None:
    weights = causal_weights(2, 3, 5)
    *maps, bar = attention_figure(weights, list("abcde"), list("vwxyz"), "a run").axes
    assert [axes.get_title() for axes in maps] == [
        f"layer {layer}, head {head}" for layer in (0, 1) for head in range(3)
    ]
    for axes, expected in zip(maps, weights.reshape(6, 5, 5), strict=True):
        image = axes.images[0].get_array()
        assert isinstance(image, np.ma.MaskedArray)
        np.testing.assert_array_equal(image.filled(0.0), expected)
        np.testing.assert_array_equal(image.mask, expected == 0.0)  # masked weights are white
        assert axes.images[0].get_clim() == (0.0, 1.0)
    assert bar.get_ylim() == (0.0, 1.0)


def test_tokens_label_only_the_left_and_the_bottom() -> None:
    *maps, _ = attention_figure(causal_weights(2, 2, 2), ["a", " b"], ["\n", "$"], "a run").axes
    rows = [[label.get_text() for label in axes.get_yticklabels()] for axes in maps]
    columns = [[label.get_text() for label in axes.get_xticklabels()] for axes in maps]
    assert rows == [["a", "␣b"], [], ["a", "␣b"], []]
    assert columns == [[], [], ["↵", r"\$"], ["↵", r"\$"]]


def test_layers_and_heads_can_be_selected() -> None:
    *maps, _ = attention_figure(causal_weights(12, 4, 2), list("ab"), list("ab"), "a", layers=[11, 0], heads=[2]).axes
    assert [axes.get_title() for axes in maps] == ["layer 11, head 2", "layer 0, head 2"]


def test_a_legible_number_of_maps_of_a_large_model_is_drawn_from_first_to_last_layer() -> None:
    *maps, _ = attention_figure(causal_weights(48, 1, 1), ["a"], ["a"], "a run").axes
    assert len(maps) == MAX_MAPS
    assert (maps[0].get_title(), maps[-1].get_title()) == ("layer 0, head 0", "layer 47, head 0")


def test_a_line_separates_the_prefix_from_the_text() -> None:
    axes, _ = attention_figure(np.ones((1, 1, 2, 5)) / 5, list("ab"), list("xyzab"), "a run", divider=3).axes
    assert list(np.asarray(axes.lines[0].get_xdata())) == [2.5, 2.5]


@pytest.mark.parametrize(
    ("label", "shown"),
    [
        (" the", "␣the"),
        ("\n\n", "↵↵"),
        ("\t", "⇥"),
        ("", "∅"),
        ("é", "é"),
        ("中", "U+4E2D"),
        ("\x00", "U+0000"),
        ("$a$", r"\$a\$"),
        ("incomprehensible", "incomprehensi…"),
    ],
)
def test_labels_make_invisible_characters_visible(label: str, shown: str) -> None:
    assert visible(label) == shown


@pytest.mark.parametrize(
    ("n", "at_most", "numbers"), [(1, 6, [0]), (4, 6, [0, 1, 2, 3]), (11, 6, [0, 2, 4, 6, 8, 10]), (100, 2, [0, 99])]
)
def test_a_few_numbers_are_spread_from_the_first_to_the_last(n: int, at_most: int, numbers: list[int]) -> None:
    assert spread(n, at_most) == numbers


def test_a_batch_has_a_row_of_maps_for_each_text_with_its_own_labels() -> None:
    weights = causal_weights(2, 3, 2)
    *maps, _ = batch_attention_figure(weights, [["", "a"], ["b", "c"]], "a batch").axes
    assert [axes.get_title() for axes in maps] == [
        f"sequence {row}, head {head}" for row in (0, 1) for head in range(3)
    ]
    for axes, expected in zip(maps, weights.reshape(6, 2, 2), strict=True):
        np.testing.assert_array_equal(np.ma.filled(axes.images[0].get_array(), 0.0), expected)
    rows = [[label.get_text() for label in axes.get_yticklabels()] for axes in maps]
    columns = [[label.get_text() for label in axes.get_xticklabels()] for axes in maps]
    assert rows == [["∅", "a"], [], [], ["b", "c"], [], []]  # ∅ is padding
    assert columns == 3 * [["∅", "a"]] + 3 * [["b", "c"]]


def test_curves_are_the_given_dimensions_over_the_first_positions() -> None:
    table = np.sin(np.arange(96.0 * 48)).reshape(96, 48)
    figure = positional_figure(table, "sinusoidal", "a run", dimensions=[0, 3, 47], n_positions=16)
    map_axes, curve_axes, _ = figure.axes
    np.testing.assert_array_equal(np.asarray(map_axes.images[0].get_array()), table.T)
    assert [line.get_label() for line in curve_axes.lines] == ["0", "3", "47"]
    for line, dimension in zip(curve_axes.lines, (0, 3, 47), strict=True):
        np.testing.assert_array_equal(line.get_ydata(), table[:16, dimension])


def test_products_of_queries_and_keys_have_the_variance_of_their_width_and_scaled_that_of_one() -> None:
    measured = measure_scaling(512)
    assert [row.d_head for row in measured] == [8, 16, 32, 64, 128, 256, 512]
    for row in measured:
        assert row.variance == pytest.approx(row.d_head, rel=0.02)
        assert row.scaled_variance == pytest.approx(1.0, rel=0.02)
        assert row.scaled_variance == pytest.approx(row.variance / row.d_head, rel=1e-4)
    assert measured[-1].variance == pytest.approx(512.0, abs=1.0)
    assert round(measured[-1].scaled_variance, 2) == 1.00


def test_without_scaling_a_wide_head_chooses_one_key_and_with_it_the_width_does_not_matter() -> None:
    narrow, *_, wide = measure_scaling(512)
    assert wide.largest_weight > 0.9 > 0.6 > narrow.largest_weight
    assert wide.scaled_largest_weight == pytest.approx(narrow.scaled_largest_weight, abs=0.01)
    for weights in (wide.weights, wide.scaled_weights):
        assert weights.sum() == pytest.approx(1.0)


@pytest.mark.parametrize(("d_head", "widths"), [(1, [1]), (6, [1, 3, 6]), (48, [1, 3, 6, 12, 24, 48])])
def test_any_width_can_be_measured(d_head: int, widths: list[int]) -> None:
    assert [row.d_head for row in measure_scaling(d_head)] == widths


def test_the_widest_head_needs_no_more_memory_than_others() -> None:
    assert measure_width(MAX_D_HEAD).scaled_variance == pytest.approx(1.0, rel=0.5)


def test_the_scaling_figure_draws_what_was_measured() -> None:
    measured = measure_scaling(64)
    axes, unscaled, scaled = scaling_figure(measured, "a run").axes
    assert [list(np.asarray(line.get_ydata())) for line in axes.lines] == [
        [row.variance for row in measured],
        [row.scaled_variance for row in measured],
    ]
    for panel, weights in ((unscaled, measured[-1].weights), (scaled, measured[-1].scaled_weights)):
        assert [bar.get_height() for bar in panel.patches] == pytest.approx(weights.tolist())


def test_the_end_of_a_schedule_does_not_cover_the_numbers_of_its_axis() -> None:
    figure = schedule_figure([1e-3 * (1 - step / 6000) for step in range(6000)], "a run")
    pixels(figure)
    (axes,) = figure.axes
    last = next(text for text in axes.texts if "6,000" in text.get_text())
    ticks = [label.get_window_extent() for label in axes.get_xticklabels() if label.get_text()]
    assert not any(last.get_window_extent().overlaps(tick) for tick in ticks)
