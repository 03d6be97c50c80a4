"""Every mistake on the command line of a script gives one line that names it, and nothing is written."""

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from folio.cli.scripts import run_script
from folio.config.run import RunConfig
from folio.data.tokenizers.char import CharTokenizer
from folio.data.tokenizers.state import state_to_json
from folio.models import build_model
from folio.runs.checkpoints import CheckpointMetadata, save_checkpoint
from folio.training.rank_state import get_rng_state

SCRIPTS = Path(__file__).parents[2] / "scripts"
TOKENIZER = CharTokenizer("\n :EMORabcdefg")
DIGITS = "9" * 5000
LONG = "x" * 5000

INVALID_RUNS: list[tuple[str, str]] = [
    # RUN, and a part of the error message
    ("nowhere", "RUN=nowhere: nowhere does not exist"),
    ("latest", "latest: no run"),
    ("", "RUN="),
    (".", "RUN=.: "),
    ("näht/木", "näht/木"),
    ("../..", "RUN=../.."),
    ("file", "file"),
    ("empty", "empty"),
    ("pipe", "pipe"),
    ("loop", "loop"),
    ("\x1b[31mred", r"\x1b[31mred"),
    (DIGITS, "File name too long"),
    (LONG, "File name too long"),
    ("file/under", "file/under"),
]
COMMON_MISTAKES: list[tuple[tuple[str, ...], str]] = [
    (("--bogus",), "--bogus"),
    (("--bogus=1",), "--bogus"),
    (("--checkpoit", "last"), "--checkpoit"),
    (("-z",), "-z"),
    (("--ünïcode", "1"), "--ünïcode"),
    (("one", "two", "three"), "two"),
    (("--checkpoint",), "--checkpoint"),
    (("--checkpoint", ""), "--checkpoint="),
    (("--checkpoint", "newest"), "--checkpoint=newest"),
    (("--checkpoint", "../../etc/passwd"), "--checkpoint=../../etc/passwd"),
    (("--checkpoint", "step=0"), "--checkpoint=step=0"),
    (("--checkpoint", f"step={DIGITS}"), "--checkpoint=step=9"),
    (("--output-dir",), "--output-dir"),
]
MISTAKES: dict[str, list[tuple[tuple[str, ...], str]]] = {
    "evaluate": [
        (("--split", "valid"), "--split"),
        (("--split", ""), "--split"),
        (("--split", "VAL"), "--split"),
        (("--context-length", "0"), "--context-length=0 must be 1 or more"),
        (("--context-length", "-5"), "--context-length=-5 must be 1 or more"),
        (("--context-length", "many"), "--context-length"),
        (("--context-length", "1.5"), "--context-length"),
        (("--context-length", ""), "--context-length"),
        (("--context-length", "9"), "--context-length=9: learned positions end at the 8"),
        (("--context-length", "1" + 30 * "0"), "--context-length=1000"),
        (("--context-length", DIGITS), "--context-length"),
        (("--quantize", "int4"), "--quantize"),
        (("--quantize", ""), "--quantize"),
        (("--json", "yes"), "yes"),
        (("--data-dir", "file"), "file"),
    ],
    "generate": [
        (("--device", "nonsense"), "--device"),
        (("--device", ""), "--device"),
        (("--device", "cuda:0"), "--device"),
        (("--device", "CPU"), "--device"),
        (("--temperature", "nan"), "temperature=nan"),
        (("--temperature", "inf"), "temperature=inf"),
        (("--temperature", "1e400"), "temperature=inf"),
        (("--temperature", "hot"), "--temperature"),
        (("--temperature", "-0.1"), "temperature=-0.1"),
        (("--temperature", ""), "--temperature"),
        (("--top-k", "0"), "top-k=0"),
        (("--top-k", "-1"), "top-k=-1"),
        (("--top-k", "1.5"), "--top-k"),
        (("--top-k", DIGITS), "--top-k"),
        (("--top-p", "1.1"), "top-p=1.1"),
        (("--top-p", "nan"), "top-p=nan"),
        (("--min-p", "2"), "min-p=2"),
        (("--min-p", "nan"), "min-p=nan"),
        (("--repetition-penalty", "0"), "repetition-penalty=0"),
        (("--repetition-penalty", "nan"), "repetition-penalty=nan"),
        (("--seed", "-1"), "--seed=-1"),
        (("--seed", "4294967296"), "--seed=4294967296"),
        (("--seed", DIGITS), "--seed"),
        (("--num-samples", "1" + 30 * "0"), "--num-samples=1000"),
        (("--max-new-tokens", "1" + 30 * "0"), "--max-new-tokens=1000"),
        (("--max-new-tokens", "1e3"), "--max-new-tokens"),
        (("--window", "0"), "window=0"),
        (("--window", "1" + 30 * "0"), "window=1000"),
        (("--prompt", "\N{GRINNING FACE}"), "U+1F600"),
        (("--prompt", "R\x1b[2J"), "U+001B"),
        (("--prompt", "木" * 1_000_000), "U+6728"),
        (("--prompt", ""), "prompt=''"),
        (("--prompt",), "--prompt"),
        (("--stop", ""), "--stop"),
        (("--prefix", "ROME"), "prefix='ROME'"),
        (("--quantize", "int7"), "--quantize"),
        (("--greedy=1",), "--greedy"),
    ],
    "export": [
        ((), "DEST"),
        (("file",), "DEST=file is a file"),
        (("full",), "DEST=full is not empty"),
        (("file/under",), "file/under"),
        ((LONG,), "File name too long"),
        (("new", "--force", "yes"), "yes"),
        (("new", "--force=yes"), "--force"),
        (("new", "--format", "pag"), "--format"),
        (("file", "--format", "page"), "DEST=file exists; name another file, or give --force"),
        (("full", "--format", "page"), "DEST=full is a folder"),
        (("file/under", "--format", "page"), "DEST=file: cannot write in file"),
        (("new", "--format", "page", "--checkpoints", "best,step=9"), "step=9: run has no such checkpoint"),
        (("new", "--format", "page", "--checkpoints", "best,"), "has no such checkpoint; it has best, last"),
        (("new", "--format", "page", "--checkpoint", "last", "--checkpoints", "best"), "exclude each other"),
        (("new", "--format", "page", "--beside", "none"), "RUN=none: none does not exist"),
        (("new", "--format", "page", "--weights", "int4"), "--weights"),
        (("new", "--checkpoints", "best,last"), "--checkpoints=best,last is for pages"),
        (("new", "--beside", "run"), "--beside=run is for pages"),
        (("new", "--weights", "int8"), "--weights=int8 is for pages"),
    ],
    "figures": [
        (("--layers", "7"), "--layers=7: the model has layers 0 to 1"),
        (("--layers", "-1"), "--layers=-1 is not a list of layers"),
        (("--layers", "1-0"), "--layers=1-0"),
        (("--layers", "zero"), "--layers=zero is not a list of layers"),
        (("--layers", ""), "--layers= is not a list of layers"),
        (("--layers", "0,,1"), "--layers=0,,1 is not a list of layers"),
        (("--layers", "٣"), "--layers=٣ is not a list of layers"),
        (("--layers", DIGITS), "--layers=999"),
        (("--layers", "999999999"), "--layers=999999999"),
        (("--heads", "2"), "--heads=2: the model has heads 0 to 1"),
        (("--heads", "1.0"), "--heads=1.0 is not a list of heads"),
        (("--heads", "0-" + DIGITS), "--heads=0-9"),
        (("--prompt", "\N{GRINNING FACE}"), "U+1F600"),
        (("--prompt", ""), "prompt=''"),
        (("--prefix", "ROME"), "prefix='ROME'"),
        (("--output", "file"), "--output=file: cannot write in file"),
        (("--output", "file/under"), "--output=file/under: cannot write in file"),
        (("--output", LONG), "File name too long"),
    ],
    "serve": [
        (("nowhere",), "RUN=nowhere: nowhere does not exist"),
        (("--port", "-1"), "--port=-1 must be at least 0"),
        (("--port", "65536"), "--port=65536 must be at least 0 and at most 65535"),
        (("--port", "http"), "--port"),
        (("--port", DIGITS), "--port"),
        (("--host", "nowhere.invalid"), "--host=nowhere.invalid"),
        (("--host", ""), "--host= "),
        (("--host", "\x1b[31m"), "--host="),
        (("--host", LONG), "--host="),
        (("--max-requests", "0"), "--max-requests=0"),
        (("--max-requests", "many"), "--max-requests"),
        (("--max-tokens", "0"), "--max-tokens=0"),
        (("--max-tokens", DIGITS), "--max-tokens"),
        (("--device", "cuda:0"), "--device"),
        (("--quantize", "int4"), "--quantize"),
        (("--allow-origin",), "--allow-origin"),
        (("--allow-origin", "evil.example"), "--allow-origin=evil.example is no origin"),
        (("--allow-origin", "https://class.example/"), "--allow-origin=https://class.example/ is no origin"),
    ],
}

REPORT_MISTAKES: list[tuple[tuple[str, ...], str]] = [
    ((), "FOLDER"),
    (("",), "FOLDER="),
    (("nowhere",), "nowhere"),
    (("empty",), "empty"),
    (("file",), "file"),
    (("pipe",), "pipe"),
    (("loop",), "loop"),
    ((DIGITS,), "File name too long"),
    ((LONG,), "File name too long"),
    (("run", "nowhere", "--output", "new"), "nowhere"),
    (("run", "run"), "--output is missing"),
    (("run", "--bogus"), "--bogus"),
    (("run", "--group-by"), "--group-by"),
    (("run", "--group-by", ""), "--group-by="),
    (("run", "--group-by", "optimiser"), "--group-by=optimiser"),
    (("run", "--output", "file"), "--output=file"),
    (("run", "--output", "file/under"), "file/under"),
    (("run", "--output", LONG), "File name too long"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, compose: Callable[..., RunConfig]) -> Path:
    """Return a folder that holds a run, and things that are not runs."""
    folder = tmp_path_factory.mktemp("place")
    config = compose("model=debug", "tokenizer=char", f"model.vocab_size={TOKENIZER.vocab_size}")
    assert config.model.vocab_size is not None
    model = build_model(config.transformer_config(config.model.vocab_size))
    state = {
        "state_dict": {f"model.{name}": tensor for name, tensor in model.state_dict().items()},
        "global_step": 7,
        "folio": {
            **CheckpointMetadata(config, model.config, TOKENIZER).to_dict(),
            "rng": get_rng_state(),
            "val": {},
        },
    }
    for name in ("best", "last"):
        save_checkpoint(state, folder / "run" / "checkpoints" / f"{name}.ckpt")
    (folder / "run" / "config.yaml").write_text(yaml.safe_dump(config.model_dump()))
    (folder / "run" / "tokenizer.json").write_bytes(state_to_json(TOKENIZER.state()))
    (folder / "file").write_text("no run")
    (folder / "empty").mkdir()
    (folder / "full").mkdir()
    (folder / "full" / "thesis.txt").write_text("years of work")
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to("loop")
    return folder


@pytest.fixture
def refused(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str, tuple[str, ...]], str]:
    """Return a function that gives the error message of a script for some arguments."""
    monkeypatch.chdir(place)

    def refused(name: str, arguments: tuple[str, ...]) -> str:
        before = contents(place)
        monkeypatch.setattr(sys, "argv", [f"scripts/{name}.py", *arguments])
        with pytest.raises(SystemExit) as ended:
            run_script(script(name).main)
        said = capsys.readouterr()
        assert ended.value.code == 2, said
        assert said.err.startswith("error: ")
        assert said.err.count("\n") == 1
        assert len(said.err) < 1000
        assert said.out == ""
        assert contents(place) == before
        return said.err

    return refused


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"script_{name}", SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def contents(folder: Path) -> dict[Path, int]:
    return {path: path.lstat().st_mtime_ns for path in folder.rglob("*")}


def named(case: object) -> str:
    return ascii(" ".join(case) if isinstance(case, tuple) else case)[:40]


@pytest.mark.parametrize(("arguments", "message"), REPORT_MISTAKES, ids=named)
def test_report_refuses_invalid_arguments(
    arguments: tuple[str, ...], message: str, refused: Callable[..., str]
) -> None:
    assert message in refused("report", arguments)


@pytest.mark.parametrize("name", MISTAKES)
@pytest.mark.parametrize(("run", "message"), INVALID_RUNS, ids=named)
def test_an_invalid_run_is_named(name: str, run: str, message: str, refused: Callable[..., str]) -> None:
    if name == "figures":  # which also draws a run without a checkpoint, and looks for its config.yaml
        message = message.replace("nowhere does not exist", "nowhere/config.yaml does not exist")
    assert message in refused(name, (run, "new") if name == "export" else (run,))


@pytest.mark.parametrize("name", MISTAKES)
def test_a_missing_run_is_reported(name: str, refused: Callable[..., str]) -> None:
    assert "RUN" in refused(name, ())


@pytest.mark.parametrize("name", MISTAKES)
@pytest.mark.parametrize(("arguments", "message"), COMMON_MISTAKES, ids=named)
def test_mistakes_that_any_script_can_receive_are_named(
    name: str, arguments: tuple[str, ...], message: str, refused: Callable[..., str]
) -> None:
    if name == "serve":  # which takes any number of runs
        message = message.replace("two", "RUN=one")
    assert message in refused(name, ("run", *(("new",) if name == "export" else ()), *arguments))


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [(name, arguments, message) for name, cases in MISTAKES.items() for arguments, message in cases],
    ids=named,
)
def test_an_invalid_option_is_named(
    name: str, arguments: tuple[str, ...], message: str, refused: Callable[..., str]
) -> None:
    assert message in refused(name, ("run", *arguments))


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("evaluate", "--context-length"),
        ("evaluate", "--split"),
        ("generate", "--top-k"),
        ("generate", "--num-samples"),
        ("generate", "--device"),
        ("figures", "--layers"),
        ("figures", "--heads"),
    ],
)
def test_any_other_text_for_a_number_or_a_choice_is_refused(
    name: str, option: str, refused: Callable[..., str]
) -> None:
    @settings(max_examples=15, suppress_health_check=list(HealthCheck))
    @given(st.text(max_size=20).filter(lambda text: not any(char.isdecimal() for char in text) and text not in CHOICES))
    def try_text(text: str) -> None:
        assert option in refused(name, ("run", f"{option}={text}"))

    try_text()


CHOICES = {"auto", "cpu", "gpu", "mps", "train", "val"}


def test_more_than_150_mistakes_are_tried() -> None:
    assert len(MISTAKES) * (len(INVALID_RUNS) + len(COMMON_MISTAKES) + 1) + sum(map(len, MISTAKES.values())) > 150


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("evaluate", ("run", "--context-length", "9"), "learned positions end at the 8"),
        ("export", ("run", "file"), "DEST=file"),
        ("export", ("run", "file/new"), "DEST=file/new: cannot write in file"),
        ("export", ("alibi", "new"), "positional_encoding=alibi"),
        ("figures", ("run", "--output", "file"), "--output=file: cannot write"),
        ("figures", ("run", "--layers", "9"), "--layers=9"),
    ],
)
def test_what_the_run_folder_answers_is_refused_before_the_checkpoint_is_read(
    name: str,
    arguments: tuple[str, ...],
    message: str,
    place: Path,
    refused: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Reading it would first import torch, which takes seconds."""
    if not (place / "alibi").exists():
        shutil.copytree(place / "run", place / "alibi")
        values = yaml.safe_load((place / "alibi" / "config.yaml").read_text())
        values["positional_encoding"] |= {"name": "alibi"}
        (place / "alibi" / "config.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.setattr("folio.runs.checkpoints.load_checkpoint", None)
    assert message in refused(name, arguments)
