"""Every run has its own folder, and RUN finds it."""

import os
from datetime import datetime
from pathlib import Path

import pytest

from folio.runs.folders import (
    create_run_folder,
    find_checkpoint,
    find_resumable_run,
    find_started_run,
    list_checkpoints,
)
from folio.runtime.errors import FolioError

NOON = datetime(2025, 3, 1, 12, 0, 5)


def make_run(folder: Path, *names: str, saved_at: int = 0) -> Path:
    """Create a run folder with these files, saved at a time in seconds."""
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        os.utime(file, (saved_at, saved_at))
    return folder


def test_a_run_folder_is_named_after_its_time_and_run(tmp_path: Path) -> None:
    folder = create_run_folder(tmp_path / "outputs", "nano", NOON)
    assert folder == tmp_path / "outputs" / "2025-03-01" / "12-00-05-nano"
    assert folder.is_dir()


def test_runs_of_one_second_have_different_folders(tmp_path: Path) -> None:
    folders = [create_run_folder(tmp_path, "nano", NOON) for _ in range(3)]
    assert [folder.name for folder in folders] == ["12-00-05-nano", "12-00-05-nano-2", "12-00-05-nano-3"]


@pytest.mark.parametrize("kind", ["a file", "a link to nowhere"])
def test_an_output_dir_that_is_not_a_folder_is_one_line(kind: str, tmp_path: Path) -> None:
    output_dir = tmp_path / "outputs"
    if kind == "a file":
        output_dir.touch()
    else:
        output_dir.symlink_to(tmp_path / "not mounted")
    with pytest.raises(FolioError, match=r"^paths\.output_dir=.*cannot create a run folder .*use another folder$"):
        create_run_folder(output_dir, "nano", NOON)


def test_latest_is_the_run_with_the_newest_checkpoint(tmp_path: Path) -> None:
    make_run(tmp_path / "2025-03-01" / "b", "checkpoints/last.ckpt", saved_at=100)
    resumed = make_run(tmp_path / "2025-02-01" / "a", "checkpoints/last.ckpt", saved_at=200)
    make_run(tmp_path / "2025-04-01" / "c", "config.yaml", saved_at=300)  # not one checkpoint yet
    assert find_checkpoint("latest", tmp_path) == resumed / "checkpoints" / "last.ckpt"


def test_latest_includes_the_jobs_of_sweeps(tmp_path: Path) -> None:
    job = make_run(tmp_path / "multirun" / "2025-03-01" / "12-00-05" / "seed=2", "checkpoints/last.ckpt")
    assert find_checkpoint("latest", tmp_path) == job / "checkpoints" / "last.ckpt"


def test_a_run_folder_means_its_best_checkpoint_or_the_one_asked_for(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "checkpoints/best.ckpt", "checkpoints/last.ckpt")
    assert find_checkpoint(str(run), tmp_path).name == "best.ckpt"
    assert find_checkpoint(str(run), tmp_path, "last").name == "last.ckpt"


def test_a_run_stopped_before_its_first_validation_means_its_last_checkpoint(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "checkpoints/last.ckpt")
    assert find_checkpoint(str(run), tmp_path).name == "last.ckpt"


def test_a_kept_checkpoint_is_found_by_its_step(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "checkpoints/last.ckpt", "checkpoints/step=20.ckpt", "checkpoints/step=100.ckpt")
    assert find_checkpoint(str(run), tmp_path, "step=20") == run / "checkpoints" / "step=20.ckpt"
    assert find_checkpoint("latest", tmp_path, "step=100") == run / "checkpoints" / "step=100.ckpt"


def test_only_checkpoints_are_listed_and_in_the_order_of_their_steps(tmp_path: Path) -> None:
    names = ("step=1000", "last", "step=200", "epoch=12", "epoch=3", "best", "mine", "step=007", ".step=5.ckpt.123.tmp")
    run = make_run(tmp_path / "run", *(f"checkpoints/{name}.ckpt" for name in names))
    assert list_checkpoints(run) == ["best", "last", "epoch=3", "epoch=12", "step=200", "step=1000"]
    assert find_checkpoint(str(run), tmp_path, "epoch=3") == run / "checkpoints" / "epoch=3.ckpt"


@pytest.mark.parametrize("which", ["step=300", "step=0100", "step=", "newest", "last.ckpt", "../checkpoints/last", ""])
def test_a_missing_checkpoint_is_one_line_with_the_existing_ones(which: str, tmp_path: Path) -> None:
    names = ("best", "last", "step=100", "step=200")
    run = make_run(tmp_path / "run", *(f"checkpoints/{name}.ckpt" for name in names))
    with pytest.raises(FolioError) as caught:
        find_checkpoint(str(run), tmp_path, which)
    told = f"--checkpoint={which}: {run} has no such checkpoint; it has best, last, step=100, step=200"
    assert str(caught.value) == told


def test_only_a_missing_best_is_replaced_by_the_last(tmp_path: Path) -> None:
    with pytest.raises(FolioError, match=r"it has last$"):
        find_checkpoint(str(make_run(tmp_path / "begun", "checkpoints/last.ckpt")), tmp_path, "step=10")
    with pytest.raises(FolioError, match=r"it has best$"):
        find_checkpoint(str(make_run(tmp_path / "killed", "checkpoints/best.ckpt")), tmp_path, "last")


def test_a_checkpoint_of_a_checkpoint_file_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "shared.ckpt"
    file.touch()
    with pytest.raises(FolioError, match=r"^--checkpoint=last: .*shared\.ckpt is a single checkpoint"):
        find_checkpoint(str(file), tmp_path, "last")


def test_a_checkpoint_file_means_itself(tmp_path: Path) -> None:
    file = tmp_path / "shared.ckpt"
    file.touch()
    assert find_checkpoint(str(file), tmp_path) == file


def test_anything_but_a_run_is_one_line_with_the_reason(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(FolioError, match="empty has no checkpoint; give a run folder, a checkpoint file, or 'latest'"):
        find_checkpoint(str(empty), tmp_path)
    with pytest.raises(FolioError, match="RUN=lastest: lastest does not exist; give a run folder"):
        find_checkpoint("lastest", tmp_path)
    with pytest.raises(FolioError, match=r"latest: no run with a checkpoint below .*; train one"):
        find_checkpoint("latest", tmp_path)


def test_a_run_with_config_and_last_checkpoint_can_be_resumed(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "config.yaml", "checkpoints/last.ckpt")
    assert find_resumable_run(str(run), tmp_path) == run
    assert find_resumable_run("latest", tmp_path) == run


@pytest.mark.parametrize("missing", ["config.yaml", "checkpoints/last.ckpt"])
def test_a_run_that_cannot_be_resumed_is_one_line_with_the_missing_file(missing: str, tmp_path: Path) -> None:
    files = {"config.yaml", "checkpoints/last.ckpt"} - {missing}
    run = make_run(tmp_path / "run", *files)
    with pytest.raises(FolioError, match=f"^resume=.*{missing} does not exist; give a run folder or 'latest'"):
        find_resumable_run(str(run), tmp_path)


def test_a_run_with_a_config_has_started_and_the_latest_changed_last(tmp_path: Path) -> None:
    dry = make_run(tmp_path / "dry", "config.yaml")
    trained = make_run(tmp_path / "trained", "config.yaml", "checkpoints/last.ckpt")
    assert find_started_run(str(dry), tmp_path) == dry
    for folder, file, second in ((dry, "config.yaml", 2), (trained, "config.yaml", 1)):
        os.utime(folder / file, (second, second))
    os.utime(trained / "checkpoints" / "last.ckpt", (1, 1))
    assert find_started_run("latest", tmp_path) == dry
    os.utime(trained / "checkpoints" / "last.ckpt", (3, 3))
    assert find_started_run("latest", tmp_path) == trained


def test_a_folder_without_a_config_is_no_started_run(tmp_path: Path) -> None:
    with pytest.raises(FolioError, match=r"^RUN=nowhere: nowhere/config.yaml does not exist; give a run folder"):
        find_started_run("nowhere", tmp_path)
    with pytest.raises(FolioError, match=r"^RUN=latest: no run below .*; start one, or give its folder$"):
        find_started_run("latest", tmp_path)


@pytest.mark.parametrize("target", ["../elsewhere", "/etc/hostname", "../../nowhere"])
def test_a_run_with_a_link_out_of_its_folder_cannot_be_resumed(target: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "config.yaml", "checkpoints/last.ckpt")
    (run / "best").symlink_to("checkpoints")  # leads nowhere else
    assert find_resumable_run(str(run), tmp_path) == run
    (run / "samples.md").symlink_to(target)
    with pytest.raises(FolioError, match=r"samples\.md is a link to /.*, outside /"):
        find_resumable_run(str(run), tmp_path)
