"""scripts/figures.py without a run: positional encodings, attention of an untrained model, the scaling of scores."""

import math
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread
from tiny_models import TINY, build

from folio.figures.inspection import batch_attention_weights, computed_table
from folio.models import GPT, TransformerConfig
from folio.runtime.errors import FolioError

Script = Callable[..., None]


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    """The functions of the script."""
    return runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "figures.py"))


@pytest.fixture
def draw(names: dict[str, Any], tmp_path: Path) -> Script:
    """Return the script as a function, which draws into tmp_path."""
    return lambda **options: names["main"](**({"output": tmp_path / "pictures"} | options))


@pytest.fixture
def drawn(names: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """Return the figures by name that the script saves from now on."""
    figures: dict[str, Figure] = {}
    monkeypatch.setattr(names["FigureWriter"], "save", lambda self, name, figure: figures.update({name: figure}))
    return figures


def table_of(encoding: str, **changes: Any) -> np.ndarray:
    sizes = {"vocab_size": 1, "context_length": 6, "n_layers": 1, "n_heads": 1, "d_model": 4, **changes}
    table = computed_table(TransformerConfig(positional_encoding=encoding, **sizes))
    assert table is not None
    return table


def test_the_sinusoidal_table_has_the_golden_rows() -> None:
    table = table_of("sinusoidal")
    np.testing.assert_allclose(table[0], [0, 1, 0, 1], atol=1e-7)
    np.testing.assert_allclose(table[1], [math.sin(1), math.cos(1), math.sin(0.01), math.cos(0.01)], atol=1e-7)


def test_the_command_of_the_docs_draws_the_table_and_the_curves(draw: Script, drawn: dict[str, Figure]) -> None:
    draw(positional_encoding="sinusoidal", d_model=48, context_length=96, dimensions="0,1,2,3", positions=16)
    map_axes, curve_axes, _ = drawn["positional_encoding_sinusoidal"].axes
    table = table_of("sinusoidal", d_model=48, context_length=96)
    np.testing.assert_array_equal(np.asarray(map_axes.images[0].get_array()), table.T)
    assert len(curve_axes.lines) == 4
    for dimension, line in enumerate(curve_axes.lines):
        np.testing.assert_array_equal(line.get_ydata(), table[:16, dimension])


@pytest.mark.parametrize(("encoding", "n_columns"), [("rotary", 8), ("alibi", 4)])
def test_other_encodings_that_are_computed_are_drawn(
    encoding: str, n_columns: int, draw: Script, drawn: dict[str, Figure]
) -> None:
    draw(positional_encoding=encoding, d_model=64, n_heads=4, context_length=10)
    (figure,) = drawn.values()
    assert np.asarray(figure.axes[0].images[0].get_array()).shape == (n_columns, 10)


def test_scaling_prints_a_table_and_writes_a_picture(
    draw: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(scaling=True, d_head=512)
    headings, *rows, note, file = capsys.readouterr().out.splitlines()
    assert "variance of q k  of q k / sqrt(d_head)" in headings
    assert [row.split()[0] for row in rows] == ["8", "16", "32", "64", "128", "256", "512"]
    _, variance, scaled, largest, scaled_largest = map(float, rows[-1].split())
    assert (variance, scaled) == (pytest.approx(512.0, abs=1.0), 1.0)
    assert largest > 0.9 > 0.3 > scaled_largest
    assert "16 keys" in note
    assert Path(file) == tmp_path / "pictures" / "scaling.png"
    assert imread(file).std() > 0


def test_the_coordinate_check_prints_and_draws_how_changes_grow_with_the_width(
    draw: Script, drawn: dict[str, Figure], capsys: pytest.CaptureFixture[str]
) -> None:
    draw(coordinate_check=True, optimizer="muon", d_model=64)
    headings, *rows = capsys.readouterr().out.splitlines()
    assert "parametrization=standard  parametrization=mup" in headings
    assert [row.split()[0] for row in rows] == ["embeddings", "attention", "feed-forward", "logits"]
    panels = drawn["coordinate_check_muon"].axes
    assert [panel.get_title() for panel in panels] == ["parametrization=standard", "parametrization=mup"]
    for panel in panels:
        assert len(panel.lines) == 4 * 4  # parts, steps
        assert list(panel.lines[-1].get_xdata()) == [8, 16, 32, 64]


def test_the_attention_of_an_untrained_model_is_a_grid_of_texts_and_heads(
    draw: Script, drawn: dict[str, Figure]
) -> None:
    draw(attention=True, prompt=["abcd", "ab"], n_heads=2, d_model=8)
    *maps, _ = drawn["attention_untrained"].axes
    assert [axes.get_title() for axes in maps] == [f"sequence {row}, head {head}" for row in (0, 1) for head in (0, 1)]
    padded = np.ma.filled(maps[2].images[0].get_array(), 0.0)
    assert (padded[:2] == 0).all()
    assert (padded[:, :2] == 0).all()
    np.testing.assert_allclose(padded[2:].sum(axis=1), 1.0, rtol=1e-6)


def test_the_weights_of_a_text_in_a_batch_are_those_of_the_text_alone() -> None:
    model, texts = build(GPT, positional_encoding="rotary"), [[1, 2, 3, 4, 5], [6, 7], [8]]
    weights = batch_attention_weights(model, texts)
    assert weights.shape == (TINY.n_layers, 3, TINY.n_heads, 5, 5)
    for row, text in enumerate(texts):
        alone = model.attention_maps(torch.tensor([text]))
        for layer, expected in enumerate(alone):
            np.testing.assert_allclose(
                weights[layer, row, :, -len(text) :, -len(text) :], expected.weights[0].detach().numpy(), atol=1e-6
            )


REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {},
        "there is nothing to draw; give one of RUN, --positional-encoding, --attention, --scaling and --coordinate-c",
    ),
    ({"scaling": True, "attention": True}, "--attention and --scaling are separate figures"),
    ({"run": "latest", "scaling": True}, "RUN and --scaling are separate figures"),
    ({"run": "latest", "d_model": 3}, "--d-model has no effect with RUN, which has --heads, "),
    ({"scaling": True, "d_model": 3}, "--d-model has no effect with --scaling, which has --d-head, --output"),
    ({"attention": True, "layers": "0"}, "--layers has no effect with --attention"),
    ({"positional_encoding": "rotary", "prompt": ["a"]}, "--prompt has no effect with --positional-encoding"),
    ({"scaling": True, "d_head": 0}, "--d-head=0 must be from 1 to 65,536"),
    ({"scaling": True, "d_head": 10**30}, "must be from 1 to 65,536"),
    ({"positional_encoding": "sinusiodal"}, "did you mean sinusoidal?"),
    ({"positional_encoding": "../../x"}, "is not one of alibi, "),
    ({"positional_encoding": "sinusoidal", "d_model": 49}, "--d-model=49 must be even"),
    ({"positional_encoding": "sinusoidal", "d_model": 0}, "--d-model=0 must be 1 or more"),
    ({"positional_encoding": "alibi", "n_heads": 5}, "--d-model=64 must be divisible by --n-heads=5"),
    ({"positional_encoding": "sinusoidal", "context_length": -1}, "--context-length=-1 must be 1 or more"),
    ({"positional_encoding": "sinusoidal", "context_length": 10**7}, "more than the 4,194,304 values"),
    ({"positional_encoding": "sinusoidal", "dimensions": "64"}, "the encoding has dimensions 0 to 63"),
    ({"positional_encoding": "rotary", "dimensions": "9", "n_heads": 4}, "the encoding has dimensions 0 to 7"),
    ({"positional_encoding": "sinusoidal", "dimensions": "a"}, "is not a list of dimensions"),
    ({"positional_encoding": "sinusoidal", "positions": 0}, "--positions=0 must be from 1 to"),
    ({"positional_encoding": "learned"}, "give the RUN of a model that has it"),
    ({"positional_encoding": "none"}, "give the RUN of a model that has it"),
    ({"attention": True, "prompt": ["a", ""]}, "--prompt= gives no tokens"),
    ({"attention": True, "heads": "9"}, "the model has heads 0 to 3"),
    ({"coordinate_check": True, "d_model": 100}, "--d-model=100 must be a multiple of 32 from 64 to 2,048"),
    ({"coordinate_check": True, "optimizer": "moun"}, "--optimizer=moun is not one of adam, adamw, muon, which follow"),
    ({"scaling": True, "optimizer": "muon"}, "--optimizer has no effect with --scaling"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_a_mistake_is_refused_in_one_line_and_leaves_no_folder(
    options: dict[str, Any], message: str, draw: Script, tmp_path: Path
) -> None:
    with pytest.raises(FolioError) as refused:
        draw(**options)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "pictures").exists()
