"""Run folders: where a new one lies, and which one a person means. Imports no torch."""

import os
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from folio.runtime.errors import FolioError


def create_run_folder(output_dir: Path, name: str, now: datetime | None = None) -> Path:
    """Make output_dir/<date>/<time>-<name>, or -2, -3 ...: two runs of one second never share a folder."""
    now = now or datetime.now()
    return create_folder(output_dir / f"{now:%Y-%m-%d}" / f"{now:%H-%M-%S}-{name}", output_dir)


def create_folder(base: Path, output_dir: Path) -> Path:
    """Make the folder `base`; where that is taken, -2, -3 ... follow. Returns the new folder.

    mkdir decides who was first. Raises: FolioError, which names paths.output_dir, where nothing can be made there.
    """
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


class _PlainLoader(yaml.SafeLoader):
    """Plain values alone, without references: of a few lines these make a value too large to be shown."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it holds a reference, which Folio does not write")
        return super().compose_node(parent, index)


def read_config(folder: Path) -> dict[str, Any]:
    """The values in a run folder's config.yaml, unchecked: no tag makes an object, and nothing is interpolated.

    Raises: FolioError where it cannot be read.
    """
    file = folder / "config.yaml"
    try:
        values = yaml.load(file.read_text(encoding="utf-8"), _PlainLoader)
    except (OSError, RecursionError, ValueError, yaml.YAMLError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise FolioError(f"{file} cannot be read ({reason}); give another run, or bring the file back") from None
    if not isinstance(values, dict):
        raise FolioError(f"{file} holds no config; give another run, or bring the file back")
    return values


def find_checkpoint(run: str, output_dir: Path, which: str = "best") -> Path:
    """The checkpoint that RUN means: a checkpoint file, or of a run folder or `latest` the one named `which`.

    A run that was stopped before its first validation has no best one; its last one stands in for it.
    Raises: FolioError where there is none.
    """
    path = latest_run(output_dir) if run == "latest" else Path(run)
    if path.is_file():
        if which != "best":
            raise FolioError(f"--checkpoint={which}: {path} is one checkpoint already; give its run folder instead")
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
    """The checkpoints that a run folder holds: best, last, and those of callbacks.checkpoint.keep_every_steps."""
    names = {path.stem for path in (run_folder / "checkpoints").glob("*.ckpt")}
    steps = sorted(int(match[1]) for name in names if (match := re.fullmatch(r"step=([1-9][0-9]*)", name)))
    return [name for name in ("best", "last") if name in names] + [f"step={step}" for step in steps]


def find_resumable_run(run: str, output_dir: Path) -> Path:
    """The run folder that `latest` or a path means. Raises: FolioError where it is not one that can go on."""
    folder = latest_run(output_dir) if run == "latest" else Path(run)
    if missing := missing_for_resume(folder):
        raise FolioError(f"resume={run}: {missing[0]} does not exist; give a run folder or 'latest'")
    check_links(folder)
    return folder


def missing_for_resume(folder: Path) -> list[Path]:
    """Of the files without which a run cannot be resumed those that are not there."""
    needed = (folder / "config.yaml", folder / "checkpoints" / "last.ckpt")
    return [file for file in needed if not file.is_file()]


def check_links(folder: Path) -> None:
    """Raises: FolioError where a link leads out of a run folder, or of a sweep's, in which Folio is about to write.

    What a stranger packed as samples.md could be anybody's file. To read through links is harmless.
    """
    home = os.path.realpath(folder)
    for path in sorted(folder.rglob("*")):
        target = os.path.realpath(path)
        if path.is_symlink() and os.path.commonpath([home, target]) != home:
            raise FolioError(
                f"{path} is a link to {target}, outside of the run folder, and would be written to; put what it leads "
                "to in its place"
            )


def latest_run(output_dir: Path) -> Path:
    """The run folder below output_dir with the newest checkpoint. Raises: FolioError where there is none."""
    checkpoints = list(output_dir.glob("**/checkpoints/last.ckpt"))
    if not checkpoints:
        raise FolioError(f"latest: no run with a checkpoint below {output_dir}/; train one, or give its folder")
    return max(checkpoints, key=lambda path: path.stat().st_mtime_ns).parent.parent


def find_started_run(run: str, output_dir: Path) -> Path:
    """The folder of a run that may have no checkpoint yet, as after dry_run=true; `latest` is the one last touched.

    Raises: FolioError where there is none.
    """
    if run != "latest":
        if not (Path(run) / "config.yaml").is_file():
            raise FolioError(f"RUN={run}: {Path(run) / 'config.yaml'} does not exist; give a run folder or 'latest'")
        return Path(run)
    signs = [*output_dir.glob("**/config.yaml"), *output_dir.glob("**/checkpoints/last.ckpt")]
    if not signs:
        raise FolioError(f"latest: no run below {output_dir}/; start one, or give its folder")
    newest = max(signs, key=lambda path: path.stat().st_mtime_ns)
    return newest.parent if newest.name == "config.yaml" else newest.parent.parent
