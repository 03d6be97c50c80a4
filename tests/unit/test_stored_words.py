"""The words of a stored command say what to train, and nothing else: no paths, no code, no environment."""

import string
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from folio.config.stored_words import MAX_CHARACTERS, check_words, reason_not_to_read

CONF = Path(__file__).parents[2] / "conf"

HARMLESS = (
    "-m",
    "--multirun",
    "hydra/launcher=joblib",
    "hydra.launcher.n_jobs=-1",
    "model=debug",
    "model=debug,nano",
    "model=debug, nano",
    "optimizer=choice(adamw,sgd)",
    "model=sort(nano,debug)",
    "positional_encoding=glob(*)",
    "positional_encoding=glob([l*,r*],exclude=rotary)",
    "experiment=quickstart",
    "experiment=null",
    "~hparams_search",
    "hparams_search=optuna",
    "hparams_search.space=null",
    "hparams_search.n_trials=5",
    "data.path=hydra.txt",
    "data.path='../Bücher/größe, neu.txt'",
    "data.parts={a:1,b:2}",
    "+data.parts.a=2",
    "model.d_model=choice(4,6)",
    "optimizer.learning_rate=tag(log,interval(1e-4,1e-1))",
    "seed=range(1,4)",
    "++training.max_steps=5",
    "callbacks.samples.prompt='It costs $5'",
)

HOSTILE = (
    # A value that selects a file
    "experiment=../../evil/x",
    "experiment='../../evil/x'",
    'model="../../evil/x"',
    "model=/tmp/evil",
    "model=..",
    "model=evil/x",
    "model=debug,../../evil/x",
    "model=[debug,../../evil/x]",
    "model=[debug,nano]",
    "model={name:debug}",
    "model=choice(debug,../../evil/x)",
    "model=choice('debug',\"../../evil/x\")",
    "model=sort(debug,../../evil/x)",
    "model=shuffle(choice(debug,../../evil/x))",
    "model=str(../../evil/x)",
    "model=tag(a,choice(../../evil/x))",
    "model=extend_list(../../evil/x)",
    "model=glob(../../*)",
    "model=glob(*,exclude='..')",
    "model=..\\/..\\/evil",
    "model=debug\\,../../x",
    "model= ../../evil/x",
    "model=\t../../evil/x",
    "model=\uff44ebug",
    "model=debug\n../../evil/x",
    "model=debug.yaml",
    "+experiment=../../evil/x",
    "++experiment=../../evil/x",
    "experiment@_global_=quickstart",
    "experiment@:x=quickstart",
    "model@hydra=debug",
    "+model@hydra.callbacks=debug",
    "/model=debug",
    "conf/model=debug",
    # Hydra's own
    "+hydra.callbacks.x._target_=joblib.load",
    "++hydra.callbacks={x:{_target_:joblib.load}}",
    "hydra=x",
    "hydra/job_logging=x",
    "hydra/launcher=../../evil",
    "hydra/launcher=joblib,basic",
    "hydra.launcher._target_=x",
    "hydra.launcher.n_jobs=1,2",
    "hydra.launcher.n_jobs='1'",
    "hydra.searchpath=[file:///tmp]",
    "hydra@x=y",
    "~hydra.mode",
    "--config-dir=.",
    "--config-path",
    "-cd",
    "--experimental-rerun=x.pickle",
    "-c",
    # The environment, files, other keys
    "name=${oc.env:HOME}",
    "name='${oc.env:HOME}'",
    'name="${oc.env:HOME}"',
    "name=$\\{oc.env:HOME}",
    "name=\\${oc.env:HOME}",
    "name='$'{oc.env:HOME}",
    "name=a${oc.create:x}b",
    "name=[${oc.env:HOME}]",
    "data.parts={a:'${oc.env:HOME}'}",
    "training.max_steps=${oc.decode:${oc.env:X}}",
    "name=${hydra:runtime.cwd}",
    "${oc.env:HOME}=1",
    # Folders of the command, overrides within overrides
    "resume=latest",
    "+resume=/tmp/x",
    "sweep=latest",
    "repeat=/tmp/x",
    "hparams_search.space={hydra.x:1}",
    "+hparams_search.space.model='../../x'",
    # No key of the schema
    "nonsense=1",
    "+_target_=os.system",
    "callbacks._target_=os.system",
    "callbacks.x={_target_:os.system}",
    "model.__class__=1",
    "key with spaces=1",
    "",
    "=",
    "+",
    "model",
    "debug",
    # Exhausting Hydra's parser
    "data.parts=" + "[" * 5000,
    "data.parts=" + "{a:" * 300,
    "seed=" + "9" * 5000,
    "name=" + "a" * (MAX_CHARACTERS + 1),
)


@pytest.mark.parametrize("word", HARMLESS)
def test_words_that_say_what_to_train_are_read(word: str) -> None:
    assert reason_not_to_read(word) is None


@pytest.mark.parametrize("word", HOSTILE, ids=lambda word: word[:50])
def test_no_other_word_is_read(word: str) -> None:
    assert reason_not_to_read(word)
    problem = check_words(["model=debug", word])
    assert problem is not None
    assert len(problem) < 300


def test_a_command_has_a_limited_number_of_words() -> None:
    assert "its command has 501 words" in str(check_words(["seed=1"] * 501))


ALPHABET = st.sampled_from(["../", "$", "{", "}", "\\", "'", '"', "(", ")", "[", "]", ",", "=", "@", " ", ":", "/x"])
PIECES = st.sampled_from(
    ["model", "experiment", "debug", "nano", "choice", "glob", "*", "oc.env", "hydra", "name", "seed", "+", "~", "1"]
)


@given(st.lists(ALPHABET | PIECES | st.text(string.printable, max_size=3), max_size=12).map("".join))
def test_whatever_hydra_reads_from_an_accepted_word_selects_a_file_of_conf_and_refers_to_nothing(word: str) -> None:
    if reason_not_to_read(word) is not None or word.startswith("-"):
        return
    try:
        override = OverridesParser.create().parse_override(word)
    except HydraException:
        return
    assert override.package is None
    assert not override.is_hydra_override() or word.startswith(("hydra/launcher=", "hydra.launcher.n_jobs="))
    if override.is_delete() or override.is_interval_sweep():
        return
    if (CONF / override.key_or_group).is_dir():
        if override.is_sweep_override() and not isinstance(override.value(), (str, int)) and "glob" in word:
            return
        options = override.sweep_string_iterator() if override.is_sweep_override() else [override.get_value_string()]
        assert all(
            option == "null" or (CONF / override.key_or_group / f"{option}.yaml").is_file() for option in options
        )
    elif not override.is_sweep_override():
        container = OmegaConf.create({"value": override.value()})
        assert not OmegaConf.is_interpolation(container, "value")
