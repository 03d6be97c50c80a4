"""Run folders: where a new one lies, and which one a person means. Imports no torch."""

from datetime import datetime
from enum import StrEnum
from pathlib import Path

from folio.errors import FolioError


class Which(StrEnum):
    """Which checkpoint of a run folder."""

    BEST = "best"
    LAST = "last"


def new_run_folder(output_dir: Path, name: str, now: datetime | None = None) -> Path:
    """Make output_dir/<date>/<time>-<name>; where that is taken, -2, -3 ... follow. Returns the new folder.

    mkdir decides who was first, so two runs of one second never share a folder.
    """
    now = now or datetime.now()
    base = output_dir / f"{now:%Y-%m-%d}" / f"{now:%H-%M-%S}-{name}"
    folder, number = base, 1
    try:
        base.parent.mkdir(parents=True, exist_ok=True)  # apart: a link to nowhere "exists", and would forever
        while True:
            try:
                folder.mkdir()
                return folder
            except FileExistsError:
                number += 1
                folder = base.with_name(f"{base.name}-{number}")
    except OSError as error:
        raise FolioError(
            f"paths.output_dir={output_dir}: cannot make a run folder there ({error.strerror}); name another place"
        ) from None


def find_checkpoint(run: str, output_dir: Path, which: str = Which.BEST) -> Path:
    """The checkpoint that RUN means: a run folder's `which` one (else its last), a checkpoint file, or `latest`.

    Raises: FolioError where there is none.
    """
    path = latest_run(output_dir) if run == "latest" else Path(run)
    if path.is_file():
        return path
    candidates = [path / "checkpoints" / f"{stem}.ckpt" for stem in (which, "last")]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    problem = "has no checkpoint" if path.is_dir() else "does not exist"
    raise FolioError(f"RUN={run}: {path} {problem}; give a run folder, a checkpoint file, or 'latest'")


def find_run(run: str, output_dir: Path) -> Path:
    """The run folder that `latest` or a path means. Raises: FolioError where it is not one that can go on."""
    folder = latest_run(output_dir) if run == "latest" else Path(run)
    for needed in ("config.yaml", "checkpoints/last.ckpt"):
        if not (folder / needed).is_file():
            raise FolioError(f"resume={run}: {folder / needed} does not exist; give a run folder or 'latest'")
    return folder


def latest_run(output_dir: Path) -> Path:
    """The run folder below output_dir with the newest checkpoint. Raises: FolioError where there is none."""
    checkpoints = list(output_dir.glob("**/checkpoints/last.ckpt"))
    if not checkpoints:
        raise FolioError(f"latest: no run with a checkpoint below {output_dir}/; train one, or give its folder")
    return max(checkpoints, key=lambda path: path.stat().st_mtime_ns).parent.parent
