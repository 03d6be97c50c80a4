"""Create run folders, find the one that the user means, and print how to resume it. Imports no torch."""

import os
import re
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from folio.runtime.commands import command, override, quote_for_shell
from folio.runtime.errors import FolioError
from folio.runtime.files import check_writable, expand_home
from folio.runtime.plain_yaml import read_yaml
from folio.runtime.untrusted import UntrustedFileError, read_json_object

COMPLETED = ("finished", "stopped_early")
"""Statuses of a run that ended as its config says: after its last step, or when a callback ended it."""


def create_run_folder(output_dir: Path, name: str, now: datetime | None = None) -> Path:
    """Create output_dir/<date>/<time>-<name>, with -2, -3 ... appended if several runs start in one second."""
    now = now or datetime.now()
    return create_folder(output_dir / f"{now:%Y-%m-%d}" / f"{now:%H-%M-%S}-{name}", output_dir)


def create_folder(base: Path, output_dir: Path) -> Path:
    """Create the folder `base`, or with -2, -3 ... appended if it exists, and return it.

    Raises: FolioError, which names paths.output_dir, if no folder can be created there.
    """
    folder, number = base, 1
    try:
        base.parent.mkdir(parents=True, exist_ok=True)  # before the loop: a dangling link "exists", and always would
        while True:
            try:
                folder.mkdir()  # decides which of several processes was first
                return folder
            except FileExistsError:
                number += 1
                folder = base.with_name(f"{base.name}-{number}")
    except OSError as error:
        raise FolioError(
            f"paths.output_dir={output_dir}: cannot create a run folder there ({error.strerror}); use another folder"
        ) from None


def read_config(folder: Path) -> dict[str, Any]:
    """Return the unchecked values of a run folder's config.yaml. No tag creates an object; nothing is interpolated.

    Raises: FolioError if it cannot be read.
    """
    file = folder / "config.yaml"
    try:
        values = read_yaml(file)
    except OSError as error:
        raise FolioError(f"{file} cannot be read ({error.strerror}); give another run, or restore the file") from None
    if not isinstance(values, dict):
        raise FolioError(f"{file} holds no config; give another run, or restore the file")
    return values


def read_status(folder: Path) -> str | None:
    """Return the status in a run folder's metrics.json; None if it has none, or none that can be read."""
    try:
        status = read_json_object(folder / "metrics.json").get("status")
    except (OSError, UntrustedFileError):
        return None
    return status if isinstance(status, str) else None


def find_checkpoint(run: str, output_dir: Path, which: str = "best") -> Path:
    """Return the checkpoint that RUN means: a checkpoint file, or the one named `which` of a run folder or `latest`.

    A run that was stopped before its first validation has no best checkpoint; its last one is used instead.
    Raises: FolioError if there is none.
    """
    path = latest_run(output_dir) if run == "latest" else Path(expand_home(run))
    if path.is_file():
        if which != "best":
            raise FolioError(f"--checkpoint={which}: {path} is a single checkpoint; give its run folder instead")
        return path
    names = list_checkpoints(path)
    if not names:
        problem = "has no checkpoint" if path.is_dir() else "does not exist"
        raise FolioError(f"RUN={run}: {path} {problem}; give a run folder, a checkpoint file, or 'latest'")
    name = "last" if which == "best" and "best" not in names else which
    if name not in names:
        raise FolioError(f"--checkpoint={which}: {path} has no such checkpoint; it has {', '.join(names)}")
    return path / "checkpoints" / f"{name}.ckpt"


def list_checkpoints(run_folder: Path) -> list[str]:
    """Return the names of a run's checkpoints: best, last, and the epochs and steps that callbacks.checkpoint kept."""
    folder = run_folder / "checkpoints"
    if not folder.is_dir():
        return []
    names = {path.stem for path in map(Path, os.listdir(folder)) if path.suffix == ".ckpt"}  # glob hides errors
    kept = [name for name in names if re.fullmatch(r"(epoch|step)=[1-9][0-9]{0,14}", name)]
    kept.sort(key=lambda name: (name.partition("=")[0], int(name.partition("=")[2])))
    return [name for name in ("best", "last") if name in names] + kept


def find_resumable_run(run: str, output_dir: Path) -> Path:
    """Return the run folder that `latest` or a path means. Raises: FolioError if it cannot be resumed."""
    folder = latest_run(output_dir) if run == "latest" else Path(expand_home(run))
    if missing := missing_for_resume(folder):
        raise FolioError(f"resume={run}: {missing[0]} does not exist; give a run folder or 'latest'")
    check_writable(folder)
    return folder


def missing_for_resume(folder: Path) -> list[Path]:
    """Return the missing files without which a run cannot be resumed."""
    needed = (folder / "config.yaml", folder / "checkpoints" / "last.ckpt")
    return [file for file in needed if not file.is_file()]


def latest_run(output_dir: Path) -> Path:
    """Return the run folder below output_dir with the newest checkpoint. Raises: FolioError if there is none."""
    checkpoints = list(output_dir.glob("**/checkpoints/last.ckpt"))
    if not checkpoints:
        raise FolioError(f"latest: no run with a checkpoint below {output_dir}/; train one, or give its folder")
    return max(checkpoints, key=lambda path: path.stat().st_mtime_ns).parent.parent


def find_started_run(run: str, output_dir: Path, option: str = "RUN") -> Path:
    """Return the folder of a run that may have no checkpoint, as after dry_run=true; `latest` is the last one changed.

    Raises: FolioError if there is none. It names the option in which the run was given.
    """
    if run != "latest":
        folder = Path(expand_home(run))
        if not (folder / "config.yaml").is_file():
            raise FolioError(f"{option}={run}: {folder / 'config.yaml'} does not exist; give a run folder or 'latest'")
        return folder
    files = [*output_dir.glob("**/config.yaml"), *output_dir.glob("**/checkpoints/last.ckpt")]
    if not files:
        raise FolioError(f"{option}=latest: no run below {output_dir}/; start one, or give its folder")
    newest = max(files, key=lambda path: path.stat().st_mtime_ns)
    return newest.parent if newest.name == "config.yaml" else newest.parent.parent


def resume_command(folder: Path, overrides: Iterable[str] = ()) -> str:
    """Return the command that resumes a run.

    A resumed run takes its `paths` from the command line, so those of this command's overrides are repeated.
    """
    places = (quote_for_shell(word) for word in overrides if word.startswith("paths."))
    return command("train.py", override("resume", folder), *places)


def resume_hint(step: int, folder: Path, overrides: Iterable[str] = ()) -> str:
    """Return the end of a sentence that says from which step a run can be resumed, and with which command."""
    return f"; last.ckpt has step {step}: resume with {resume_command(folder, overrides)}"
