"""docs/extend.md, followed literally: its files and changes in a copy of the project, and its commands run there."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from pages import blocks
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from workspace import ROOT, Finished, Run, Workspace

PAGE = (ROOT / "docs" / "extend.md").read_text(encoding="utf-8")
SMALL = (
    "model=debug",
    "trainer=cpu",
    "training.max_steps=4",
    "training.validate_every_steps=2",
    "training.checkpoint_every_steps=2",
    "training.log_every_steps=1",
    "logger=tensorboard",
)
TEXT = ("data=text_file", "data.path=tiny.txt", "tokenizer=char")
"""But for the dataset, whose text is its own."""


@dataclass(frozen=True)
class Extension:
    """A section of the page: whole files, changes to files of ours, and commands."""

    title: str
    files: dict[str, str]
    changes: list[tuple[str, str]]
    """(path, diff)."""
    commands: list[str]

    def apply(self, project: Path) -> None:
        """Do what the page says. Fails where a change does not fit the file as it is."""
        for path, text in self.files.items():
            assert not (project / path).exists(), f"{path} is there already"
            (project / path).write_text(text, encoding="utf-8")
        for path, diff in self.changes:
            lines = diff.splitlines()
            before = "".join(f"{line[1:]}\n" for line in lines if not line.startswith("+"))
            after = "".join(f"{line[1:]}\n" for line in lines if not line.startswith("-"))
            source = (project / path).read_text(encoding="utf-8")
            assert source.count(before) == 1, f"{path} does not hold once what the page changes:\n{before}"
            (project / path).write_text(source.replace(before, after), encoding="utf-8")


def extensions() -> dict[str, Extension]:
    """By their titles; sections without files, such as the last, are none."""
    found = {}
    for section in PAGE.split("\n## ")[1:]:
        title, _, body = section.partition("\n")
        files = dict(re.findall(r"^`([^`\n]+)`\n```(?:python|yaml)\n(.*?)^```$", body, re.S | re.M))
        changes = [
            (path, diff)
            for path, blocks in re.findall(r"^In `([^`]+)`,[^\n]*:\n((?:```diff\n.*?^```\n)+)", body, re.S | re.M)
            for diff in re.findall(r"```diff\n(.*?)^```\n", blocks, re.S | re.M)
        ]
        commands = [line for block in blocks(body) if not block.language for line in block.text.splitlines()]
        if files:
            found[title] = Extension(title, files, changes, commands)
    return found


EXTENSIONS = extensions()
each_extension = pytest.mark.parametrize("title", EXTENSIONS)


@dataclass(frozen=True)
class Extended:
    """A copy of the project with one extension in it, and the folder of a user who works with it."""

    project: Path
    workspace: Workspace
    extension: Extension

    def run(self, *args: str) -> Finished:
        result = subprocess.run(
            [sys.executable, *args],
            cwd=self.workspace.folder,
            env=self.workspace.environment | {"PYTHONPATH": str(self.project / "src")},
            capture_output=True,
            text=True,
            check=False,
        )
        return Finished(result.returncode, result.stdout, result.stderr)

    def train(self, *args: str) -> Finished:
        return self.run(str(self.project / "train.py"), *args)

    def must_train(self, *args: str) -> None:
        finished = self.train(*args)
        assert finished.code == 0, finished.stdout + finished.stderr

    def small(self) -> tuple[str, ...]:
        small = SMALL if self.extension.title == "A dataset" else (*SMALL, *TEXT)
        return small if self.extension.title != "A logger" else tuple(word for word in small if "logger=" not in word)

    def command(self) -> list[str]:
        """The words of the page's command after `python train.py`."""
        (command,) = self.extension.commands
        python, script, *words = shlex.split(command)
        assert (python, script) == ("python", "train.py")
        return words

    def runs(self) -> list[Run]:
        return [Run(folder) for folder in self.workspace.runs()]


@pytest.fixture
def extended(title: str, workspace: Workspace, tmp_path: Path) -> Extended:
    project = tmp_path / "project"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("src", "conf", "tests", "docs", "scripts"):
        shutil.copytree(ROOT / name, project / name, ignore=ignored)
    for name in ("train.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, project / name)
    EXTENSIONS[title].apply(project)
    return Extended(project, workspace, EXTENSIONS[title])


def test_the_page_adds_one_of_each_kind() -> None:
    kinds = ("A positional encoding", "An optimizer", "A dataset", "An objective", "A callback", "A logger")
    assert tuple(EXTENSIONS) == kinds


@each_extension
def test_an_extension_is_two_files_and_an_entry_in_one_of_ours(title: str) -> None:
    extension = EXTENSIONS[title]
    code, option = extension.files
    assert (ROOT / code).parent.is_dir()
    assert code.endswith(".py")
    assert option.startswith("conf/")
    assert {path for path, _ in extension.changes} <= {
        "src/folio/models/positional.py",
        "src/folio/data/corpora/named_texts.py",
        *(f"src/folio/config/{name}.py" for name in ("optimizer", "objective", "callbacks", "logger")),
    }
    assert len({path for path, _ in extension.changes}) == 1


@each_extension
def test_the_command_of_the_page_runs(extended: Extended) -> None:
    words = extended.command()
    extended.must_train(*words, *extended.small())
    runs = extended.runs()
    assert len(runs) == (6 if "-m" in words else 1)
    assert all(run.metrics["status"] == "finished" and run.metrics["step"] == 4 for run in runs)
    shows(extended.extension.title, runs)


def shows(title: str, runs: list[Run]) -> None:
    """What is new has happened: not only the words were understood."""
    if title == "A positional encoding":
        mine = [run for run in runs if run.config["positional_encoding"]["name"] == "kerple"]
        assert len(mine) == 3
        weights = mine[0].weights()
        assert any(name.endswith("positional_encoding.logarithms") and bool(w.any()) for name, w in weights.items())
        return
    (run,) = runs
    if title == "An optimizer":
        states = run.checkpoint()["optimizer_states"][0]["state"]
        assert {key for state in states.values() for key in state} == {"momentum"}
    elif title == "A dataset":
        assert run.config["data"]["name"] == "sums"
        assert "12+30=" in run.samples
    elif title == "An objective":
        assert run.config["objective"] == {"name": "smoothed_lm", "smoothing": 0.05}
        assert "val/bits_per_byte" in run.metrics
    elif title == "A logger":
        lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
        assert {line["step"] for line in lines if "train/loss_nats" in line} == {1, 2, 3, 4}
    else:
        assert run.config["callbacks"]["weight_norms"] == {"every_steps": 50}
        assert run.checkpoint()["callbacks"].keys() == {"metrics", "weight_norms", "checkpoints", "throughput"}


@pytest.mark.parametrize("title", ["A callback"])
def test_the_callback_draws_its_curves(extended: Extended) -> None:
    extended.must_train(*extended.small(), "callbacks=weight_norms", "callbacks.weight_norms.every_steps=2")
    (run,) = extended.runs()
    events = EventAccumulator(str(run.folder / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("weight_norm/blocks")] == [2, 4]


@pytest.mark.slow
@pytest.mark.parametrize("title", ["A callback"])
def test_a_callback_can_come_when_a_run_goes_on(extended: Extended) -> None:
    extended.must_train(*extended.small())
    (run,) = extended.runs()
    extended.must_train("resume=latest", "training.max_steps=6", "+callbacks.weight_norms.every_steps=2")
    assert run.config["callbacks"]["weight_norms"] == {"every_steps": 2}
    events = EventAccumulator(str(run.folder / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("weight_norm/blocks")] == [6]


@pytest.mark.parametrize(
    ("title", "typed", "said"),
    [
        (
            "An optimizer",
            ("optimizer=lion", "optimizer.momentum=0.9"),
            "optimizer.momentum is a key of another optimizer",
        ),
        ("An optimizer", ("optimizer=lyon",), "did you mean lion?"),
        ("An optimizer", ("optimizer=lion", "optimizer.learning_rate=-1"), "optimizer.learning_rate=-1"),
        ("A dataset", ("data=sums", "data.name=sum"), "is not one of tiny_shakespeare, sums, text_file, "),
        ("An objective", ("objective=smoothed_lm", "objective.smothing=0.1"), "did you mean objective.smoothing?"),
        ("An objective", ("objective=smoothed_lm", "objective.smoothing=2"), "objective.smoothing=2"),
        (
            "A callback",
            ("callbacks=weight_norms", "callbacks.weight_norms.every=1"),
            "callbacks.weight_norms.every_steps?",
        ),
        ("A positional encoding", ("positional_encoding=kerpel",), "did you mean kerple?"),
    ],
)
def test_mistakes_in_what_is_new_are_answered_like_others(
    extended: Extended, typed: tuple[str, ...], said: str
) -> None:
    assert said in extended.train(*extended.small(), *typed).error_line()


def test_an_encoding_that_was_not_entered_is_named(workspace: Workspace, tmp_path: Path) -> None:
    """The YAML file is there and the line in POSITIONAL_ENCODINGS was forgotten."""
    conf = tmp_path / "conf"
    shutil.copytree(ROOT / "conf", conf)
    (conf / "positional_encoding" / "mine.yaml").write_text("name: mine\n")
    shutil.copy(ROOT / "train.py", tmp_path / "train.py")
    result = subprocess.run(
        [sys.executable, str(tmp_path / "train.py"), *SMALL, *TEXT, "positional_encoding=mine"],
        cwd=workspace.folder,
        env=workspace.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    said = Finished(result.returncode, result.stdout, result.stderr).error_line()
    assert "positional_encoding=mine is not one of learned, sinusoidal" in said


@pytest.mark.slow
@each_extension
def test_an_extended_run_goes_on_is_measured_again_and_passes_our_tests(extended: Extended) -> None:
    words = [word for word in extended.command() if word != "-m" and not word.startswith("seed=")]
    words = [word.replace("learned,", "") for word in words]
    extended.must_train(*words, *extended.small())
    (whole,) = extended.runs()
    extended.must_train("resume=latest", "training.max_steps=6")
    assert whole.metrics["step"] == 6
    measured = extended.run(str(extended.project / "scripts" / "evaluate.py"), "latest", "--checkpoint", "last")
    assert measured.code == 0, measured.stderr
    assert f"loss             {whole.metrics['val/loss_nats']:.6f} nats" in measured.stdout
    tests = [str(extended.project / "tests" / "unit" / f"test_{name}.py") for name in ("imports", "config")]
    tested = extended.run("-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(extended.project), *tests)
    assert tested.code == 0, tested.stdout


@pytest.mark.parametrize("title", ["An optimizer"])
def test_a_run_with_a_new_optimizer_that_goes_on_ends_in_the_same_bits(extended: Extended) -> None:
    words = (*extended.command(), *extended.small(), "schedule=constant")  # which does not know where the run ends
    extended.must_train(*words, "training.max_steps=2", "name=begun")
    extended.must_train("resume=latest", "training.max_steps=4")
    extended.must_train(*words, "name=at_once")
    begun, at_once = sorted(extended.runs(), key=lambda run: run.folder.name.endswith("at_once"))
    assert begun.metrics["step"] == at_once.metrics["step"] == 4
    assert begun.equals(at_once)
