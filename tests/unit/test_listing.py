"""folio.runs lists run folders with their configs and metrics."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

import folio


def test_runs_are_listed_with_dotted_keys_in_the_order_of_their_folders(
    write_run: Callable[..., Path], tmp_path: Path
) -> None:
    write_run("b/seed=2", {"optimizer.learning_rate": 0.1, "seed": 2}, loss=1.25)
    write_run("a", status=None)
    write_run("c", {"dry_run": True}, status=None)
    listed = folio.runs(tmp_path)
    assert [run.folder.name for run in listed] == ["a", "seed=2", "c"]
    assert [run.status for run in listed] == ["unfinished", "finished", "dry run"]
    assert listed[1].config["optimizer.learning_rate"] == 0.1
    assert listed[1].metrics["val/loss_nats"] == 1.25
    assert listed[0].metrics == {}
    assert repr(listed[1:2]) == f"{tmp_path}/b/seed=2: finished, 1.2500 nats"
    assert Path(listed[0]) == tmp_path / "a"


def test_a_damaged_run_is_left_out_with_a_warning(write_run: Callable[..., Path], tmp_path: Path) -> None:
    (write_run("a") / "metrics.json").write_text('{"status": "fini')
    (write_run("b") / "config.yaml").write_text("- a list")
    write_run("c")
    with pytest.warns(UserWarning, match="left out") as warned:
        assert [run.folder.name for run in folio.runs(tmp_path)] == ["c"]
    assert len(warned) == 2


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(folio.FolioError, match="is not a folder"):
        folio.runs(tmp_path / "nowhere")
    assert repr(folio.runs(tmp_path)) == "no runs"


def test_a_table_has_a_row_for_each_run(
    write_run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_run("a", {"seed": 3}, versions={"torch": "2.13"})
    monkeypatch.setitem(sys.modules, "pandas", None)  # importing it raises ImportError
    with pytest.raises(folio.FolioError, match="pip install pandas"):
        folio.runs(tmp_path).to_pandas()
    pandas = SimpleNamespace(DataFrame=lambda rows, index: (rows, index), Index=lambda values, name: (name, values))
    monkeypatch.setitem(sys.modules, "pandas", pandas)
    rows, index = folio.runs(tmp_path).to_pandas()
    assert index == ("folder", [str(folder)])
    assert rows[0].items() >= {"status": "finished", "seed": 3, "val/loss_nats": 1.5, "versions.torch": "2.13"}.items()
