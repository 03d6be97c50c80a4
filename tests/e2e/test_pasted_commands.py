"""Every command that Folio prints can be pasted into bash, whatever the folders are called."""

import re
import subprocess
from collections.abc import Callable

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from workspace import TINY, TINY_TEXT, Finished, Workspace

from folio.runtime.commands import override, python_command

HOSTILE = 'größe [2020] {a} (b) it\'s "so" ~ $HOME ${x} `id` a=b,c\\d #*? 日本'
OUTPUT_DIR = f"./~{HOSTILE}"


@pytest.fixture(scope="module")
def swept(make_workspace: Callable[[], Workspace]) -> tuple[Workspace, Finished]:
    """Run a sweep in a folder with a hostile name. One of its two jobs has an impossible width."""
    outer = make_workspace()
    inner = Workspace(outer.folder / HOSTILE, outer.environment)
    inner.folder.mkdir()
    (inner.folder / "tiny.txt").write_text(TINY_TEXT)
    prompt = 'callbacks.samples.prompt="it\'s"'
    return inner, inner.run("train.py", "-m", *TINY, prompt, "model.d_model=4,5", hostile_place(inner))


def hostile_place(workspace: Workspace) -> str:
    """Return a word that gives the folder of runs a hostile name, too."""
    return paste(workspace, f"printf %s {override('paths.output_dir', OUTPUT_DIR)}").stdout


def paste(workspace: Workspace, command: str) -> Finished:
    """Type a line into bash."""
    result = subprocess.run(
        ["bash", "-c", command],
        cwd=workspace.folder,
        env=workspace.environment,
        capture_output=True,
        check=False,
        encoding="utf-8",
    )
    return Finished(result.returncode, result.stdout, result.stderr)


def printed_commands(workspace: Workspace, output: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the commands in what a process printed."""
    monkeypatch.chdir(workspace.folder)
    return re.findall(rf"(?:^|\s)({re.escape(python_command())} .*)$", output, re.MULTILINE)


def hydras_value(word: str) -> object:
    """Return the value of a word of the command line, as Hydra and OmegaConf read it."""
    parsed = OverridesParser.create().parse_override(word)
    assert not parsed.is_sweep_override()
    return OmegaConf.to_container(OmegaConf.create({"value": parsed.value()}), resolve=True)["value"]  # type: ignore[call-overload, index]


def test_every_command_that_a_sweep_prints_names_its_folder_to_bash_and_hydra(
    swept: tuple[Workspace, Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, finished = swept
    assert finished.code == 2, finished.stderr
    logs = "\n".join(file.read_text() for file in workspace.folder.rglob("train.log"))  # of the jobs
    commands = printed_commands(workspace, f"{finished.stdout}\n{logs}", monkeypatch)
    seen = set()
    for command in commands:
        words = paste(workspace, f"printf '%s\\0' {command}").stdout.split("\0")[:-1]
        script = workspace.folder / words[1]
        assert script.is_file()
        if words[2] == "--logdir":  # of scripts/board.py
            assert (workspace.folder / words[3]).is_dir()
            continue
        named = {key: word for word in words[2:] for key in ("resume", "sweep") if word.startswith(f"{key}=")}
        if words[2] == "-m" and not named:  # "try next": a new sweep
            continue
        key, folder = next(((key, hydras_value(word)) for key, word in named.items()), (script.stem, words[2]))
        assert (workspace.folder / str(folder)).is_dir(), command
        seen.add(key)
    assert seen >= {"generate", "evaluate", "figures", "resume", "sweep"}
    (resume_sweep,) = [command for command in commands if " -m " in command and "sweep=" in command]
    assert "dry_run=true: 1 of 2 jobs in " in paste(workspace, f"{resume_sweep} dry_run=true").stdout


@pytest.mark.slow
def test_every_command_that_a_sweep_prints_runs(
    swept: tuple[Workspace, Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, finished = swept
    single = workspace.must("train.py", *TINY, hostile_place(workspace))
    for command in printed_commands(workspace, finished.stdout + single, monkeypatch):
        pasted = paste(workspace, command)
        assert pasted.code == (2 if " -m " in command and "sweep=" in command else 0), pasted.stdout + pasted.stderr
        assert "Traceback" not in pasted.stdout + pasted.stderr
