"""repeat=RUN composes the config of a run, which other words change, and takes nothing from it but plain values."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import open_dict

from folio.cli.compose import load_config
from folio.cli.repeat import repeat_run
from folio.config.run import RunConfig
from folio.config.section import ConfigError
from folio.runtime.errors import FolioError

CONF = Path(__file__).parents[2] / "conf"
RECIPES = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))

Load = Callable[..., RunConfig]
Again = Callable[..., RunConfig]
MakeRun = Callable[..., Path]


@pytest.fixture(autouse=True)
def nothing_to_repeat() -> Iterator[None]:
    """Forget the run that a test repeats."""
    yield
    repeat_run([], CONF)


@pytest.fixture
def make_run(load: Load, tmp_path: Path) -> MakeRun:
    """Return a function that writes the config.yaml of a run: make_run("model=debug", changes={"name": "x"})."""

    def make(*words: str, changes: dict[str, Any] | None = None) -> Path:
        values = load(*words).model_dump()
        values["paths"] = {"data_dir": "/not/ours", "output_dir": "/not/ours"}
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(values | (changes or {})))
        return tmp_path

    return make


@pytest.fixture
def again(load: Load, tmp_path: Path) -> Again:
    """Return a function that loads the config of a command with repeat= and other words."""
    return lambda *words: load(*repeat_run([f"repeat={tmp_path}", *words], CONF))


@pytest.mark.parametrize(
    "words",
    [
        *([f"experiment={name}"] for name in RECIPES if name != "finetune_gpt2"),
        [
            "optimizer=muon",
            "schedule=wsd",
            "logger=csv",
            "trainer=ddp_cpu",
            "tokenizer=word",
            "positional_encoding=alibi",
        ],
        ["model=encoder_small", "objective=masked_lm", "data=text_files", "data.path=a/**/b.txt", "schedule=constant"],
        ["model=encoder_decoder_small", "objective=prefix_lm", "conditioning=cross_attention", "trainer=debug"],
        ["data=mixture", "data.parts={tiny_shakespeare: 1, x: {weight: 2, name: text_file, path: y}}", "seed=3"],
    ],
    ids=" ".join,
)
def test_a_run_is_repeated_with_its_config_and_the_paths_of_this_checkout(
    words: list[str], load: Load, make_run: MakeRun, again: Again
) -> None:
    make_run(*words)
    expected = load(*words)
    assert again().model_dump() == expected.model_dump()


@pytest.mark.parametrize(
    ("word", "changed"),
    [
        ("seed=2", {"seed": 2}),
        ("optimizer.momentum=0.5", {"optimizer.momentum": 0.5}),
        ("schedule.warmup_steps=1", {"schedule.warmup_steps": 1}),
        ("paths.data_dir=x", {"paths.data_dir": "x"}),
        ("tokenizer.max_vocab_size=50", {"tokenizer.max_vocab_size": 50, "model.vocab_size": None}),
        ("trainer=debug", {"trainer.detect_anomaly": True, "training.max_steps": 10, "schedule.warmup_steps": 2}),
        ("dry_run=true", {"dry_run": True}),
        ("callbacks.samples.prompt=x", {"callbacks.samples.prompt": "x"}),
    ],
)
def test_a_word_changes_what_it_names(word: str, changed: dict[str, Any], make_run: MakeRun, again: Again) -> None:
    make_run("model=debug", "optimizer=muon", "tokenizer=word", "trainer=cpu", "model.vocab_size=60")
    before, after = again().model_dump(), again(word).model_dump()
    for key, value in changed.items():
        section, _, name = key.partition(".")
        inner, _, last = name.partition(".")
        found = after[section] if not name else after[section][inner][last] if last else after[section][inner]
        assert found == value
    untouched = {key for key in before if key not in {name.partition(".")[0] for name in changed}} - {"training"}
    assert {key: before[key] for key in untouched} == {key: after[key] for key in untouched}


def test_an_option_replaces_its_whole_section(load: Load, make_run: MakeRun, again: Again) -> None:
    make_run("model=debug", "optimizer=muon", "optimizer.learning_rate=0.5", "training.max_steps=7")
    words = ["optimizer=sgd", "model=mini", "tokenizer=char"]
    expected = load(*words)
    changed = again(*words)
    assert (changed.optimizer, changed.model, changed.tokenizer) == (
        expected.optimizer,
        expected.model,
        expected.tokenizer,
    )
    assert changed.training.max_steps == 7


def test_latest_becomes_a_folder_that_all_jobs_of_a_sweep_read(make_run: MakeRun, tmp_path: Path) -> None:
    folder = tmp_path / "outputs" / "seed=1,a b"
    folder.mkdir(parents=True)
    make_run("model=debug", "seed=5")
    (tmp_path / "config.yaml").rename(folder / "config.yaml")
    words = ["-m", "repeat=latest", "seed=1,2", f"paths.output_dir={tmp_path}"]
    replaced = repeat_run(words, CONF)
    assert replaced == ["-m", f'repeat="{folder}"', *words[2:]]
    assert repeat_run(replaced, CONF) == replaced
    assert repeat_run([f"repeat={folder}"], CONF) == [replaced[1]]  # as a shell without quotes for Hydra gives it


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hydra": {"callbacks": {"x": {"_target_": "joblib.load"}}}}, "hydra is not a key"),
        ({"defaults": ["/model: ../../x"]}, "defaults is not a key"),
        ({"callbacks": {"samples": {"_target_": "os.system"}}}, "callbacks.samples"),
        ({"name": "${oc.env:HOME}"}, "name="),
        ({"seed": "${oc.env:HOME}"}, "seed="),
        ({"optimizer": 3}, "optimizer"),
        ({"data": {"name": "text_file", "path": "???", "window_order": "random"}}, "holds ???"),
    ],
)
def test_a_run_names_no_files_classes_or_variables(
    changes: dict[str, Any], message: str, make_run: MakeRun, tmp_path: Path
) -> None:
    make_run(changes=changes)
    with pytest.raises(ConfigError) as caught:
        repeat_run([f"repeat={tmp_path}"], CONF)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_interpolation_in_a_run_stays_text(make_run: MakeRun, again: Again) -> None:
    path = r"${oc.env:HOME}/\${now:%Y}"
    make_run(changes={"data": {"name": "text_file", "path": path, "window_order": "random"}})
    assert again().data.path == path


def test_a_config_that_is_no_file_of_plain_values_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("a: &a [1]\nb: [*a, *a]\n")
    with pytest.raises(FolioError, match="is not plain YAML"):
        repeat_run([f"repeat={tmp_path}"], CONF)
    (tmp_path / "config.yaml").unlink()
    os.mkfifo(tmp_path / "config.yaml")
    with pytest.raises(FolioError, match=r"config\.yaml does not exist"):
        repeat_run([f"repeat={tmp_path}"], CONF)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["repeat=nowhere"], "repeat=nowhere: nowhere/config.yaml does not exist"),
        (["repeat=latest", "paths.output_dir=nowhere"], "repeat=latest: no run below nowhere/"),
        (["repeat=x", "experiment=quickstart"], "each give a whole config"),
        (["repeat=x", "resume=x"], "each give a whole config"),
    ],
)
def test_a_command_that_cannot_be_repeated_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(FolioError, match=message):
        repeat_run(words, CONF)


def test_a_file_of_conf_cannot_ask_for_a_run(tmp_path: Path) -> None:
    shutil.copytree(CONF, tmp_path / "conf")
    (tmp_path / "conf" / "experiment" / "x.yaml").write_text("# @package _global_\nrepeat: x\n")
    with initialize_config_dir(str(tmp_path / "conf"), version_base="1.3"):
        cfg = compose("train", ["experiment=x"], return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        del cfg["hydra"]
    with pytest.raises(ConfigError, match="is for the command line"):
        load_config(cfg)
