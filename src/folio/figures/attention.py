"""Draw attention weights as a grid of heat maps: one row of maps per layer or per sequence, one column per head.

Imports no torch. Everything is placed in inches, computed from the size of the labels: matplotlib's layout engine would
take minutes for the maps of a large model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font

from folio.figures.plots import spread, title_lines

MAX_MAPS = 12
"""Number of layers, and of heads, that are drawn by default: what is still legible."""

MAX_LABEL_CHARACTERS = 14
LABEL_POINTS = 7.0
TITLE_POINTS = 8.0
HEADLINE_POINTS = 11.0
POINTS_PER_INCH = 72

MIN_CELL_INCHES, MAX_CELL_INCHES = 0.125, 0.34
"""Side of the square of one weight; the smallest has room for the label of its row."""

MAPS_INCHES = 7.0
"""Width of all maps together, if the limits of a cell allow it."""

MIN_MAP_INCHES = 1.15
"""Width that a map needs for its title."""

MAX_PIXELS = 4000
"""Limit for each side of the image; a larger figure gets fewer pixels per inch."""

VISIBLE = {"\n": "↵", " ": "␣", "\t": "⇥", "": "∅"}


def attention_figure(
    weights: np.ndarray,
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    title: str,
    *,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    divider: int = 0,
) -> Figure:
    """Draw one map for each layer and head. They share the colors, and the labels at the edges, the texts of tokens.

    layers and heads select maps; if they are None, as many as are legible are drawn, spread over the model. Masked
    weights are white. A line before column `divider` separates the prefix from the text.

    Shapes: weights (L, H, T, S); T row labels and S column labels.
    """
    n_layers, n_heads, n_rows, n_columns = weights.shape
    assert (len(row_labels), len(column_labels)) == (n_rows, n_columns)
    layers = spread(n_layers, MAX_MAPS) if layers is None else layers
    heads = spread(n_heads, MAX_MAPS) if heads is None else heads
    rows, columns = [visible(label) for label in row_labels], [visible(label) for label in column_labels]
    grid = GridLayout.fit(len(layers), len(heads), rows, columns, title)
    figure = _empty_figure(grid)
    for down, layer in enumerate(layers):
        for across, head in enumerate(heads):
            axes = _add_map(figure, grid, down, across, weights[layer, head], f"layer {layer}, head {head}")
            _add_labels(axes, rows if across == 0 else [], columns if down == len(layers) - 1 else [])
            if divider:
                axes.axvline(divider - 0.5, color="tab:red", linewidth=1)
    _add_frame(figure, grid)
    return figure


def batch_attention_figure(
    weights: np.ndarray, labels: Sequence[Sequence[str]], title: str, *, heads: Sequence[int] | None = None
) -> Figure:
    """Draw the attention of one layer over a batch: one row of maps per sequence, one column per head.

    Each sequence has labels of its own; an empty one stands for padding.

    Shapes: weights (B, H, T, T); B times T labels.
    """
    n_rows, n_heads, n_tokens, _ = weights.shape
    assert [len(row) for row in labels] == [n_tokens] * n_rows
    shown = spread(n_rows, MAX_MAPS)
    heads = spread(n_heads, MAX_MAPS) if heads is None else heads
    texts = [[visible(label) for label in row] for row in labels]
    widest = [max((texts[row][token] for row in shown), key=text_inches) for token in range(n_tokens)]
    grid = GridLayout.fit(len(shown), len(heads), widest, widest, title)
    grid = replace(grid, row_gap=grid.row_gap + max(text_inches(label) for label in widest))
    figure = _empty_figure(grid)
    for down, row in enumerate(shown):
        for across, head in enumerate(heads):
            axes = _add_map(figure, grid, down, across, weights[row, head], f"sequence {row}, head {head}")
            _add_labels(axes, texts[row] if across == 0 else [], texts[row])
    _add_frame(figure, grid)
    return figure


def _empty_figure(grid: "GridLayout") -> Figure:
    return Figure(figsize=(grid.width, grid.height), dpi=min(150, MAX_PIXELS / max(grid.width, grid.height)))


def _add_map(figure: Figure, grid: "GridLayout", down: int, across: int, weights: np.ndarray, title: str) -> Axes:
    """Draw weights (T, S); masked ones are white."""
    axes = figure.add_axes(grid.map_box(down, across))
    unmasked = np.ma.masked_equal(weights, 0.0)
    axes.imshow(unmasked, vmin=0.0, vmax=1.0, aspect="auto", interpolation="nearest")
    axes.set_title(title, fontsize=TITLE_POINTS, pad=3)
    return axes


@dataclass(frozen=True)
class GridLayout:
    """Positions and sizes in inches, from the left and from the top."""

    n_down: int
    n_across: int
    map_width: float
    map_height: float
    left: float
    """Room for the row labels and their name."""
    bottom: float
    headline: str
    column_gap: float
    row_gap: float = 0.28
    right: float = 0.85
    """Room for the color bar."""

    @classmethod
    def fit(cls, n_down: int, n_across: int, rows: Sequence[str], columns: Sequence[str], title: str) -> "GridLayout":
        """Choose a layout that has room for all labels and the title."""
        cell = MAPS_INCHES / (n_across * max(len(rows), len(columns)))
        cell = float(np.clip(cell, MIN_CELL_INCHES, MAX_CELL_INCHES))
        map_width = cell * len(columns)
        gap = max(0.12, MIN_MAP_INCHES - map_width)
        left = 0.42 + max(text_inches(label) for label in rows)
        width = left + n_across * (map_width + gap) + cls.right
        return cls(
            n_down=n_down,
            n_across=n_across,
            map_width=map_width,
            map_height=cell * len(rows),
            left=left,
            bottom=0.42 + max(text_inches(label) for label in columns),
            headline=title_lines(title, width=max(20, int(width * POINTS_PER_INCH / (0.62 * HEADLINE_POINTS)))),
            column_gap=gap,
        )

    @property
    def top(self) -> float:
        return 0.15 + (self.headline.count("\n") + 1) * 1.35 * HEADLINE_POINTS / POINTS_PER_INCH

    @property
    def width(self) -> float:
        return self.left + self.n_across * (self.map_width + self.column_gap) + self.right

    @property
    def height(self) -> float:
        return self.top + self.n_down * (self.row_gap + self.map_height) + self.bottom

    def map_box(self, down: int, across: int) -> tuple[float, float, float, float]:
        """Return left, bottom, width and height of a map as fractions of the figure."""
        x = self.left + across * (self.map_width + self.column_gap)
        y = self.top + (down + 1) * (self.row_gap + self.map_height)
        return self.fractions(x, y, self.map_width, self.map_height)

    def fractions(self, x: float, y: float, width: float, height: float) -> tuple[float, float, float, float]:
        """Convert a box in inches whose lower left corner is x from the left and y from the top."""
        return x / self.width, 1.0 - y / self.height, width / self.width, height / self.height


def visible(label: str) -> str:
    """Return a token's text with visible white space, and with numbers for characters that the font lacks."""
    label = label if len(label) <= MAX_LABEL_CHARACTERS else f"{label[: MAX_LABEL_CHARACTERS - 1]}…"
    shown = VISIBLE.get(label) or "".join(VISIBLE.get(character) or _in_font(character) for character in label)
    return shown.replace("$", r"\$")  # else it would start a formula


def _in_font(character: str) -> str:
    """Return the character, or its number, as U+4E2D, if the labels' font lacks it."""
    has_glyph = character.isprintable() and get_font(_font_file()).get_char_index(ord(character))
    return character if has_glyph else f"U+{ord(character):04X}"


@cache
def _font_file() -> str:
    return findfont(FontProperties())


def text_inches(label: str) -> float:
    """Return the width of a label as it will be drawn."""
    renderer = FigureCanvasAgg(Figure(dpi=POINTS_PER_INCH)).get_renderer()
    width, _, _ = renderer.get_text_width_height_descent(label, FontProperties(size=LABEL_POINTS), ismath=False)
    return float(width) / POINTS_PER_INCH


def _add_labels(axes: Axes, rows: Sequence[str], columns: Sequence[str]) -> None:
    """Add labels at the left and at the bottom of a map; inner maps have none."""
    axes.set_yticks(range(len(rows)), rows, fontsize=LABEL_POINTS)
    axes.set_xticks(range(len(columns)), columns, fontsize=LABEL_POINTS, rotation=90)
    axes.tick_params(length=0, pad=2)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _add_frame(figure: Figure, grid: GridLayout) -> None:
    """Add the headline, the names of rows and columns, and the color bar."""
    figure.text(0.5, 1 - 0.1 / grid.height, grid.headline, ha="center", va="top", fontsize=HEADLINE_POINTS)
    bottom_of_maps = grid.height - grid.bottom
    middle_x = (grid.left + (grid.width - grid.right)) / 2 / grid.width
    middle_y = 1 - (grid.top + bottom_of_maps) / 2 / grid.height
    figure.text(middle_x, 0.08 / grid.height, "is attended to", ha="center", va="bottom", fontsize=TITLE_POINTS)
    figure.text(0.08 / grid.width, middle_y, "attends", ha="left", va="center", rotation=90, fontsize=TITLE_POINTS)
    length = min(grid.n_down * (grid.row_gap + grid.map_height) - grid.row_gap, 4.0)
    bar_axes = figure.add_axes(grid.fractions(grid.width - 0.7, bottom_of_maps, 0.12, length))
    bar = figure.colorbar(ScalarMappable(Normalize(0.0, 1.0)), cax=bar_axes, label="weight")
    bar.ax.tick_params(labelsize=LABEL_POINTS)
    bar.ax.yaxis.label.set_fontsize(TITLE_POINTS)
