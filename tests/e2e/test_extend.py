"""docs/extend.md, applied literally: its files and changes in a copy of the project, and its commands run there."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from pages import blocks
from workspace import ROOT, Finished, Run, Workspace

PAGE = (ROOT / "docs" / "extend.md").read_text(encoding="utf-8")
SMALL = (
    "model=debug",
    "trainer=cpu",
    "training.max_steps=4",
    "training.validate_every_steps=2",
    "training.checkpoint_every_steps=2",
    "training.log_every_steps=1",
)
TEXT = ("data=text_file", "data.path=tiny.txt", "tokenizer=char")
"""Overrides that a dataset or a tokenizer replaces with its own."""

MOST_FILES = 4
"""Most files, new and changed, that an addition may touch."""


@dataclass(frozen=True)
class Extension:
    """A section of the page: new files, changes to existing files, and a command."""

    title: str
    files: dict[str, str]
    changes: list[tuple[str, str]]
    """(path, diff)."""
    commands: list[str]

    def apply(self, project: Path) -> None:
        """Do what the section says. Fails if a change does not fit the file."""
        for path, text in self.files.items():
            assert not (project / path).exists(), f"{path} exists already"
            (project / path).write_text(text, encoding="utf-8")
        for path, diff in self.changes:
            lines = diff.splitlines()
            before = "".join(f"{line[1:]}\n" for line in lines if not line.startswith("+"))
            after = "".join(f"{line[1:]}\n" for line in lines if not line.startswith("-"))
            source = (project / path).read_text(encoding="utf-8")
            assert source.count(before) == 1, f"{path} must contain once what the page changes:\n{before}"
            (project / path).write_text(source.replace(before, after), encoding="utf-8")

    @property
    def touched(self) -> set[str]:
        return {*self.files, *(path for path, _ in self.changes)}


def extensions() -> dict[str, Extension]:
    """Return the sections with files or changes by their titles."""
    found = {}
    for section in PAGE.split("\n## ")[1:]:
        title, _, body = section.partition("\n")
        files = dict(re.findall(r"^`([^`\n]+)`\n```(?:python|yaml)\n(.*?)^```$", body, re.S | re.M))
        changes = [
            (path, diff)
            for path, diffs in re.findall(r"^In `([^`]+)`,[^\n]*:\n((?:```diff\n.*?^```\n)+)", body, re.S | re.M)
            for diff in re.findall(r"```diff\n(.*?)^```\n", diffs, re.S | re.M)
        ]
        commands = [line for block in blocks(body) if not block.language for line in block.text.splitlines()]
        if files or changes:
            found[title] = Extension(title, files, changes, commands)
    return found


EXTENSIONS = extensions()
each_extension = pytest.mark.parametrize("title", EXTENSIONS)


@dataclass(frozen=True)
class ExtendedProject:
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
        """Return overrides for a run of a second that leave the extension's own group alone."""
        groups = {word.split("=")[0] for word in self.command()}
        if "data" in groups:
            return SMALL
        return (*SMALL, *(word for word in TEXT if word.split("=")[0] not in groups))

    def command(self) -> list[str]:
        """Return the overrides of the section's command."""
        (command,) = self.extension.commands
        python, script, *words = shlex.split(command)
        assert (python, script) == ("python", "train.py")
        return words

    def runs(self) -> list[Run]:
        return [Run(folder) for folder in self.workspace.runs()]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project."""
    project = tmp_path / "project"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("src", "conf", "tests", "docs", "scripts", "benchmarks", "notebooks"):
        shutil.copytree(ROOT / name, project / name, ignore=ignored)
    for name in ("train.py", "pyproject.toml", "README.md", "CHANGELOG.md"):
        shutil.copy(ROOT / name, project / name)
    return project


@pytest.fixture
def extended(title: str, workspace: Workspace, project: Path) -> ExtendedProject:
    EXTENSIONS[title].apply(project)
    return ExtendedProject(project, workspace, EXTENSIONS[title])


def test_the_page_adds_one_of_each_kind() -> None:
    assert tuple(EXTENSIONS) == (
        "An architecture option",
        "A positional encoding",
        "An optimizer",
        "A schedule",
        "A tokenizer",
        "A dataset",
        "An objective",
        "A callback of Lightning",
        "A callback of your own",
        "A logger",
    )


@each_extension
def test_an_extension_touches_few_files_and_changes_at_most_one_module_outside_the_models(title: str) -> None:
    extension = EXTENSIONS[title]
    assert len(extension.touched) <= MOST_FILES
    changed = {path for path, _ in extension.changes}
    assert len(changed) <= 1 or title == "An architecture option"
    assert all((ROOT / path).parent.is_dir() for path in extension.files)


@pytest.mark.parametrize("command", ["ruff check", "ruff format --check", pytest.param("mypy", marks=pytest.mark.slow)])
def test_all_extensions_together_pass_lint_and_types(command: str, project: Path) -> None:
    for extension in EXTENSIONS.values():
        extension.apply(project)
    checked = subprocess.run(
        [sys.executable, "-m", *command.split()],
        cwd=project,
        env=os.environ | {"PYTHONPATH": str(project / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout


@each_extension
def test_the_command_of_the_page_runs(extended: ExtendedProject) -> None:
    words = extended.command()
    extended.must_train(*words, *extended.small())
    runs = extended.runs()
    assert len(runs) == (6 if "-m" in words else 1)
    assert all(run.metrics["status"] == "finished" and run.metrics["step"] == 4 for run in runs)
    check_effect(extended.extension.title, runs)


def check_effect(title: str, runs: list[Run]) -> None:
    """Check that the new code has run, and not only that its config was accepted."""
    if title == "A positional encoding":
        own = [run for run in runs if run.config["positional_encoding"]["name"] == "kerple"]
        assert len(own) == 3
        weights = own[0].weights()
        assert any(name.endswith("positional_encoding.logarithms") and bool(w.any()) for name, w in weights.items())
        return
    (run,) = runs
    if title == "An architecture option":
        assert run.config["model"]["parallel"] is True
    elif title == "An optimizer":
        states = run.checkpoint()["optimizer_states"][0]["state"]
        assert {key for state in states.values() for key in state} == {"momentum"}
    elif title == "A schedule":
        rates = [rate for _, rate in run.curve("train/learning_rate")]
        assert rates == pytest.approx([1e-3, 2e-3, 3e-3, 1.5e-3])
    elif title == "A tokenizer":
        assert run.config["model"]["vocab_size"] == 128
    elif title == "A dataset":
        assert run.config["data"]["name"] == "sums"
        assert "12+30=" in run.samples
    elif title == "An objective":
        assert run.config["objective"] == {"name": "smoothed_lm", "smoothing": 0.05}
        assert "val/bits_per_byte" in run.metrics
    elif title == "A callback of Lightning":
        assert run.config["callbacks"]["keep_best"]["save_top_k"] == 2
        assert len(list(run.folder.rglob("step=*.ckpt"))) == 2
    elif title == "A callback of your own":
        assert run.config["callbacks"]["weight_norms"] == {"every_steps": 50}
        assert "weight_norms" in run.checkpoint()["callbacks"]
    else:
        rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
        assert [row["step"] for row in rows if "val/loss_nats" in row] == [2, 4]
        assert (run.folder / "tensorboard").exists()


@pytest.mark.parametrize("title", ["An architecture option"])
def test_the_architecture_option_changes_the_model_but_not_its_parameters(extended: ExtendedProject) -> None:
    code = """
import torch
from folio.models import GPT, GPTConfig
def build(**options):
    torch.manual_seed(0)
    return GPT(GPTConfig(vocab_size=9, context_length=8, n_layers=2, n_heads=2, d_model=8, **options)).eval()
plain, parallel = build(), build(parallel=True)
tokens = torch.arange(8)[None]
assert plain.state_dict().keys() == parallel.state_dict().keys()
assert not torch.allclose(plain(tokens), parallel(tokens))
"""
    finished = extended.run("-c", code)
    assert finished.code == 0, finished.stderr


@pytest.mark.parametrize("title", ["An architecture option"])
def test_a_format_that_cannot_hold_the_new_option_refuses_it(extended: ExtendedProject) -> None:
    extended.must_train(*extended.command(), *extended.small())
    exported = extended.run(str(extended.project / "scripts" / "export.py"), "latest", "gpt2")
    assert "parallel" in exported.error_line()


@pytest.mark.parametrize("title", ["A callback of your own"])
def test_the_callback_logs_its_curves(extended: ExtendedProject) -> None:
    extended.must_train(*extended.small(), "callbacks.weight_norms.every_steps=2")
    (run,) = extended.runs()
    assert [step for step, _ in run.curve("weight_norm/blocks")] == [2, 4]


@pytest.mark.slow
@pytest.mark.parametrize("title", ["A callback of your own"])
def test_a_callback_can_be_added_when_a_run_resumes(extended: ExtendedProject) -> None:
    extended.must_train(*extended.small())
    (run,) = extended.runs()
    extended.must_train("resume=latest", "training.max_steps=6", "callbacks.weight_norms.every_steps=2")
    assert run.config["callbacks"]["weight_norms"] == {"every_steps": 2}
    assert [step for step, _ in run.curve("weight_norm/blocks")] == [6]


@pytest.mark.parametrize("title", ["A logger"])
def test_a_resumed_run_logs_each_step_once(extended: ExtendedProject) -> None:
    extended.must_train("logger=jsonl", *extended.small(), "training.checkpoint_every_steps=4")
    (run,) = extended.runs()
    file = run.folder / "metrics.jsonl"
    whole = file.read_text()
    file.write_text(whole + json.dumps({"step": 5, "train/loss_nats": 1.0}) + "\n")
    extended.must_train("resume=latest", "training.max_steps=6")
    steps = [json.loads(line)["step"] for line in file.read_text().splitlines()]
    assert file.read_text().startswith(whole)
    assert steps == sorted(steps)
    assert steps[-1] == 6


@pytest.mark.parametrize(
    ("title", "typed", "message"),
    [
        ("An architecture option", ("model.paralel=true",), "did you mean model.parallel?"),
        (
            "An architecture option",
            ("model.parallel=true", "model.norm_position=post"),
            "needs model.norm_position=pre",
        ),
        (
            "An optimizer",
            ("optimizer=lion", "optimizer.momentum=0.9"),
            "optimizer.momentum is a key of another optimizer",
        ),
        ("An optimizer", ("optimizer=lyon",), "did you mean lion?"),
        ("An optimizer", ("optimizer=lion", "optimizer.learning_rate=-1"), "optimizer.learning_rate=-1"),
        ("A schedule", ("schedule=linear", "schedule.warmup_steps=4"), "schedule.warmup_steps=4 must be below"),
        ("A tokenizer", ("tokenizer=asci",), "did you mean ascii?"),
        ("A dataset", ("data=sums", "data.name=sum"), "tiny_shakespeare_dev, sums, text_file, "),
        ("An objective", ("objective=smoothed_lm", "objective.smothing=0.1"), "did you mean objective.smoothing?"),
        ("An objective", ("objective=smoothed_lm", "objective.smoothing=2"), "objective.smoothing=2"),
        (
            "A callback of your own",
            ("callbacks.weight_norms.every=1",),
            "WeightNorms takes no every; did you mean every_steps?",
        ),
        ("A positional encoding", ("positional_encoding=kerpel",), "did you mean kerple?"),
        ("A callback of your own", ("callbacks=[default,weight_norm]",), "did you mean weight_norms?"),
        ("A logger", ("logger=json",), "did you mean jsonl?"),
    ],
)
def test_mistakes_in_an_extension_get_the_usual_errors(
    extended: ExtendedProject, typed: tuple[str, ...], message: str
) -> None:
    assert message in extended.train(*extended.small(), *typed).error_line()


@pytest.mark.parametrize("title", ["A tokenizer"])
def test_a_text_that_the_tokenizer_cannot_encode_gets_one_line(extended: ExtendedProject) -> None:
    (extended.workspace.folder / "tiny.txt").write_text("Où est la bibliothèque? " * 40, encoding="utf-8")
    assert "tokenizer=ascii has no id for 'ù'" in extended.train(*extended.small(), "tokenizer=ascii").error_line()


def test_a_positional_encoding_without_an_entry_is_named(workspace: Workspace, tmp_path: Path) -> None:
    """The YAML file is there, but the line in POSITIONAL_ENCODINGS was forgotten."""
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
    error = Finished(result.returncode, result.stdout, result.stderr).error_line()
    assert "mine.yaml has no class in POSITIONAL_ENCODINGS" in error


@pytest.mark.slow
@each_extension
def test_an_extended_run_resumes_is_evaluated_and_passes_the_tests(extended: ExtendedProject) -> None:
    words = [word for word in extended.command() if word != "-m" and not word.startswith("seed=")]
    words = [word.replace("learned,", "") for word in words]
    extended.must_train(*words, *extended.small())
    (run,) = extended.runs()
    extended.must_train("resume=latest", "training.max_steps=6")
    assert run.metrics["step"] == 6
    measured = extended.run(str(extended.project / "scripts" / "evaluate.py"), "latest", "--checkpoint", "last")
    assert measured.code == 0, measured.stderr
    assert f"loss             {run.metrics['val/loss_nats']:.6f} nats" in measured.stdout
    tests = [str(extended.project / "tests" / "unit" / f"test_{name}.py") for name in ("imports", "config")]
    tested = extended.run("-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(extended.project), *tests)
    assert tested.code == 0, tested.stdout


@pytest.mark.parametrize("title", ["An optimizer"])
def test_a_run_with_a_new_optimizer_resumes_in_the_same_bits(extended: ExtendedProject) -> None:
    words = (*extended.command(), *extended.small(), "schedule=constant")  # does not depend on the end of the run
    extended.must_train(*words, "training.max_steps=2", "name=resumed")
    extended.must_train("resume=latest", "training.max_steps=4")
    extended.must_train(*words, "name=uninterrupted")
    resumed, uninterrupted = sorted(extended.runs(), key=lambda run: run.folder.name.endswith("uninterrupted"))
    assert resumed.metrics["step"] == uninterrupted.metrics["step"] == 4
    assert resumed.equals(uninterrupted)
