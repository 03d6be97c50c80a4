"""Every command that README.md and docs/ show is valid (fast tests) and runs (slow tests).

A new command of train.py or scripts/ needs no entry here: it is run with the sizes of `SMALL`. A command that cannot
run, or that needs something first, needs an entry in `NOT_RUN`, `RUN_KINDS` or `REPLACED`; unknown commands fail.
"""

import importlib.util
import math
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep
from pages import PAGES, commands_of
from test_corpora_e2e import write_files
from test_extend import EXTENSIONS
from workspace import FAMILIES, ROOT, TINY, TINY_TEXT, Workspace

from folio.cli.debug import fit_schedule
from folio.config.checks import check_config

BENCHMARK = "takes minutes: tests/e2e/test_benchmark.py runs parts of it with small models"
SERVER = "does not end: tests/e2e/test_tensorboard.py starts it and reads its pages"
ITSELF = "would run this test: tests/e2e/test_make.py does a dry run"

NOT_RUN: dict[str, str] = {
    # beginning of a command: why it is not run, and which test covers it
    "make setup": "installs from the network: tests/e2e/test_make.py does a dry run",
    "make test": ITSELF,
    "make check": ITSELF,
    "make docs-serve": "does not end: mkdocs serves what tests/e2e/test_docs.py builds",
    "make docs": "tests/e2e/test_docs.py builds the site",
    "make schema": "tests/unit/test_config_page.py writes the same files elsewhere",
    "make tensorboard": SERVER,
    "make page": "tests/e2e/test_page.py writes pages, tests/e2e/test_make.py does a dry run",
    "tensorboard ": SERVER,
    "python scripts/board.py": "does not end: tests/e2e/test_tensorboard_sweep.py starts it and uses it",
    "python scripts/serve.py": "does not end: tests/e2e/test_serve.py starts it and uses it",
    "make bench": BENCHMARK,
    "make soak": "takes an hour: tests/e2e/test_soak.py runs five minutes of it",
    "python train.py -m sweep=": "resumes a sweep: tests/e2e/test_sweeps.py starts one first",
    "python train.py sweep=": "the same",
    "python train.py -m positional_encoding=learned,rotary seed=1,2,3,4 sweep=latest": "the same",
    "python scripts/extrapolate.py": "measures a sweep: tests/e2e/test_studies.py runs one first",
    "python scripts/scaling.py": "the same",
    "python scripts/record.py": "writes into docs/: tests/unit/test_records.py writes elsewhere",
    "python scripts/results_page.py": "the same",
    "python scripts/report.py outputs/multirun/<date>/<time> --against": "tests/unit/test_records.py",
    "python scripts/export.py latest my_model.gguf": "refuses a GPT-2: tests/unit/test_export.py writes a Llama",
    "python -m benchmarks": BENCHMARK,
    "python scripts/gpu_check.py": "takes minutes: tests/e2e/test_gpu_check.py rehearses it",
    "python train.py -m hydra/launcher=submitit_slurm": "no SLURM here: test_many_processes.py has submitit_local",
    "python scripts/evaluate.py latest --split test": "needs a test split: tests/e2e/test_generate_evaluate.py has one",
    "python scripts/evaluate.py RUN --split test": "the same",
    "python scripts/report.py outputs --test": "the same",
    "python scripts/report.py FOLDER --test": "the same",
    "python scripts/prepare_data.py data=text_files data.path='/shared": "a cluster's: tests/unit/test_parts.py",
    "python scripts/prepare_data.py -m data=text_files data.path='/shared": "the same: tests/e2e/test_corpora_e2e.py",
    **{command: "tests/e2e/test_extend.py" for extension in EXTENSIONS.values() for command in extension.commands},
}

REFUSED: dict[str, str] = {
    # command: part of its error message
    "python train.py model.n_layer=3": "did you mean model.n_layers?",
    "python train.py optimizer.lr=0.001": "did you mean optimizer.learning_rate?",
    "python train.py trainer=ddp_cpu trainer.devices=3": "must be a multiple of the 3 processes of trainer.devices=3",
}

REPLACED: dict[str, str] = {
    # placeholder, or something that only another machine has: what the test uses instead
    "tokenizer=...": "tokenizer=char",
    "outputs/multirun/<date>/<time>": "outputs",
    "trainer=gpu": "trainer=cpu",
    "trainer=ddp trainer.devices=8": "trainer=ddp_cpu trainer.devices=2",
    "trainer=fsdp trainer.devices=8": "trainer=ddp_cpu trainer.devices=2",
    "trainer=mps": "trainer=cpu",
}

RUN_KINDS: dict[str, str] = {
    # part of a command that reads RUN: the kind of run that it needs, unless a decoder
    "[MASK]": "masked_lm",
    "--prefix": "hidden_cache",
    "--context-length": "rotary",  # learned positions end with the context
}

SMALL = (
    "training.max_steps=2",
    "training.validate_every_steps=2",
    "training.checkpoint_every_steps=2",
    "training.batch_size=32",
    "training.micro_batch_size=null",
    "schedule.warmup_steps=0",
    "callbacks.samples.max_new_tokens=4",
)
SMALL_MODEL = ("model.n_layers=1", "model.n_heads=2", "model.d_model=16", "model.d_ff=16", "model.context_length=32")

PROMPTED = "ROMEO: But soft! To be, or not to be.\n" * 20
"""Text with the characters of all prompts on the pages."""

N_STEPS = 200
"""Steps of the run that commands read, which has the checkpoint that `--checkpoint step=200` needs."""

N_TRIALS = 2
"""Trials of a search."""

SHOWS_ONLY = ("--help", "--cfg")


def all_commands() -> dict[str, str]:
    """Return each command once, with the page that shows it first."""
    found: dict[str, str] = {}
    for page in PAGES:
        for command in commands_of(page):
            found.setdefault(command, page.name)
    return found


COMMANDS = all_commands()


def reason_not_to_run(command: str) -> str | None:
    return next((why for start, why in NOT_RUN.items() if command.startswith(start)), None)


def words_of(command: str) -> list[str]:
    """Split a command like a shell, with `make train ARGS=...` replaced by the command that it runs."""
    for placeholder, value in REPLACED.items():
        command = command.replace(placeholder, value)
    words = shlex.split(command)
    if words[:2] == ["make", "train"]:
        given = dict(word.split("=", 1) for word in words[2:]).get("ARGS") or "experiment=quickstart"
        words = ["python", "train.py", *shlex.split(given)]
    return words


RUNNABLE = [command for command in COMMANDS if reason_not_to_run(command) is None and command not in REFUSED]
COMPOSED = [command for command in RUNNABLE if words_of(command)[1] in ("train.py", "scripts/prepare_data.py")]
OTHER_OPTIONS = ("scripts/prepare_data.py", "scripts/plan.py", "scripts/board.py")
"""Scripts that take overrides of train.py, or TensorBoard's options."""
SCRIPTS = [
    command
    for command in COMMANDS
    if command.startswith(("python scripts/", "python -m benchmarks")) and words_of(command)[1] not in OTHER_OPTIONS
]


def test_there_are_commands_to_run() -> None:
    assert "python train.py model=gpt2_small trainer=gpu" in RUNNABLE
    assert "python scripts/evaluate.py latest --split val" in RUNNABLE
    assert set(REFUSED) <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_either_run_or_excused(command: str) -> None:
    if reason_not_to_run(command) or command in REFUSED:
        return
    words = words_of(command)
    assert words[0] == "python", f"{COMMANDS[command]} shows {command}, which no test runs: see the tables above"
    assert (ROOT / words[1]).is_file(), f"{COMMANDS[command]} shows {command}, but there is no {words[1]}"


def combinations(words: list[str]) -> Iterator[list[str]]:
    """Yield overrides with each value of a sweep once, combined with the first values of the other keys."""
    overrides = [word for word in words if not word.startswith("-")]
    if not {"-m", "--multirun"}.intersection(words):
        yield overrides
        return
    choices = []
    for parsed in OverridesParser.create().parse_overrides(overrides):
        key = parsed.get_key_element()
        value = parsed.value()
        if isinstance(value, IntervalSweep):
            values = [str(value.start), str(value.end)]
        elif parsed.is_sweep_override():
            values = list(parsed.sweep_string_iterator())
        else:
            values = [parsed.get_value_element_as_str()]
        choices.append([f"{key}={value}" for value in values])
    firsts = [values[0] for values in choices]
    for place, values in enumerate(choices):
        for value in values[place > 0 :]:
            yield [*firsts[:place], value, *firsts[place + 1 :]]


@pytest.mark.parametrize("command", COMPOSED)
def test_the_overrides_compose_and_pass_the_checks(command: str, compose: Callable[..., Any]) -> None:
    words = words_of(command)[2:]
    if "--cfg" in words:
        words = words[words.index("--cfg") + 2 :]
    for overrides in combinations(words):
        config = fit_schedule(compose(*overrides), is_typed=False, log=lambda line: None)
        if config.init_from is None:  # otherwise the folder determines the size
            check_config(config)


@pytest.mark.parametrize("command", SCRIPTS)
def test_a_script_accepts_its_options(command: str) -> None:
    words = words_of(command)
    files = {"benchmarks": "benchmarks/__main__.py", "benchmarks.serving": "benchmarks/serving.py"}
    script, arguments = (files[words[2]], words[3:]) if words[1] == "-m" else (words[1], words[2:])
    spec = importlib.util.spec_from_file_location("shown_script", ROOT / script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    app = typer.Typer()
    app.command()(module.main)
    typer.main.get_command(app).make_context(script, arguments)  # raises UsageError


def shorten(words: list[str], runs: dict[str, Path]) -> list[str]:
    """Return the script and its arguments, changed to run for a second. `runs` are the run folders by kind."""
    script, *rest = words[1:]
    kind = next((run for part, run in RUN_KINDS.items() if any(part in word for word in rest)), "decoder")
    rest = [str(runs[kind]) if word == "RUN" else word for word in rest]
    if script == "scripts/plain_pytorch.py":
        return [script, *rest, "--steps", "2"]
    if script != "train.py" or any(word in rest for word in SHOWS_ONLY):
        return [script, *rest]
    if any(word.startswith("resume=") for word in rest):
        return [script, *rest, f"training.max_steps={N_STEPS + 2}"]
    if any(word.startswith("init_from=") for word in rest):
        return [script, *rest, *SMALL]
    trials = [f"hparams_search.n_trials={N_TRIALS}"] if any("hparams_search=" in word for word in rest) else []
    small = [word for word in (*SMALL, *SMALL_MODEL) if word.split("=")[0] not in swept(rest)]
    return [script, *rest, *small, *trials]


def swept(words: list[str]) -> dict[str, int]:
    """Return the number of values of each key in a sweep. An interval of a search does not count."""
    if "-m" not in words:
        return {}
    overrides = OverridesParser.create().parse_overrides([word for word in words if not word.startswith("-")])
    discrete = [override for override in overrides if override.is_discrete_sweep()]
    return {override.get_key_element(): len(list(override.sweep_string_iterator())) for override in discrete}


@pytest.fixture(scope="module")
def furnished(make_workspace: Callable[[], Workspace]) -> tuple[Workspace, dict[str, Path]]:
    """A workspace with what the commands need: a text, a GPT-2 folder, a run of each family."""
    workspace = make_workspace()
    (workspace.folder / "my.txt").write_text(TINY_TEXT + PROMPTED)
    for kind in ("txt", "jsonl.zst"):
        write_files(workspace.folder / "corpus", kind, [f"{number}: {PROMPTED}" for number in range(20)])
    workspace.train("model=debug", "trainer=cpu", "model.bias=true", "name=gpt2", *SMALL, "model.context_length=256")
    workspace.must("scripts/export.py", "latest", "gpt2_folder")
    shutil.rmtree(workspace.folder / "outputs")
    # As wide as int8 requires, with room for the prompts.
    own = (*TINY, "data.path=my.txt", "model.d_model=16", "model.context_length=32")
    runs = {name: workspace.train(*own, *FAMILIES[name]).folder for name in ("masked_lm", "hidden_cache")}
    runs["rotary"] = workspace.train(*own, "positional_encoding=rotary").folder
    steps = (f"training.max_steps={N_STEPS}", f"callbacks.checkpoint.keep_every_steps={N_STEPS}")
    # A GPT-2, so that it can be exported; trained last, so that it is `latest`.
    runs["decoder"] = workspace.train(*own, *steps).folder
    return workspace, {name: folder.relative_to(workspace.folder) for name, folder in runs.items()}


@pytest.mark.slow
@pytest.mark.parametrize("command", RUNNABLE)
def test_the_command_runs(command: str, furnished: tuple[Workspace, dict[str, Path]], tmp_path: Path) -> None:
    source, runs = furnished
    folder = tmp_path / "workspace"
    shutil.copytree(source.folder, folder, symlinks=True)
    workspace = Workspace(folder, source.environment)
    words = words_of(command)
    for word in words:
        if match := re.fullmatch(r"init_from=(\w+)", word):
            (folder / "gpt2_folder").rename(folder / match[1])
    script, *rest = shorten(words, runs)
    finished = workspace.run(script, *rest)
    assert finished.code == 0, finished.stdout + finished.stderr
    assert finished.stdout
    if script == "train.py" and "resume" not in command and not any(word in rest for word in SHOWS_ONLY):
        is_search = any("hparams_search=" in word for word in rest)
        expected = N_TRIALS if is_search else math.prod(swept(words[2:]).values())
        assert len(workspace.runs()) == len(runs) + expected


@pytest.mark.parametrize("command", REFUSED)
def test_a_command_shown_as_a_mistake_is_refused(command: str, workspace: Workspace) -> None:
    _, script, *words = words_of(command)
    assert REFUSED[command] in workspace.run(script, *words).error_line()
