"""A fault in a file of conf/, or a misplaced word on the command line, is answered in one line that names it."""

import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

import folio.cli.compose  # noqa: F401  (installs the reader)
from folio.cli.arguments import order_arguments
from folio.cli.config_files import read_config_file, read_keys
from folio.config.section import ConfigError

CONF = Path(__file__).parents[2] / "conf"
PACKAGE = "# @package _global_\n"
BOMB = "a0: &a0 [1, 1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))

FAULTS: list[tuple[str | bytes, str]] = [
    (f"{PACKAGE}name: café\n".encode("latin-1"), "line 2: this is not UTF-8"),
    (PACKAGE.encode("utf-16"), "line 1: this is not UTF-8"),
    ("", "must begin with the line"),
    ("# words\nseed: 1\n", "must begin with the line"),
    ("# @package global\nseed: 1\n", "must begin with the line"),
    (f"{PACKAGE}optimizer:\n", "line 2, column 1: `optimizer:` is empty"),
    (f"{PACKAGE}hydra: null\n", "`hydra:` is empty"),
    (f"{PACKAGE}model: debug\n", "write `- override /model: debug`"),
    (f"{PACKAGE}training.max_steps: 20\n", "must be nested"),
    (f"{PACKAGE}defaults:\n  - model: debug\n", "line 3, column 5: write `override /model: debug`"),
    (f"{PACKAGE}defaults:\n  - override model: debug\n", "write `override /model: debug`"),
    *((f"{PACKAGE}defaults: {value}\n", "must be a list") for value in ("{a: b}", "text", "null", "3")),
    (f"{PACKAGE}defaults: [3]\n", "an entry of `defaults:`"),
    (f"{PACKAGE}seed: {'9' * 5000}\n", "a number of 5,000 digits"),
    (f"{PACKAGE}a: &a [*a]\n", "an anchor contains itself"),
    (PACKAGE + BOMB, "its aliases stand for"),
    (f"{PACKAGE}a: {'[' * 200}{']' * 200}\n", "the nesting is deeper"),
    (f"{PACKAGE}null: 1\n", "a key must be a word"),
    (f"{PACKAGE}name: '${{a'\n", "is not an interpolation"),
    (f"{PACKAGE}name: !!set {{a}}\n", "!!set is not a value"),
    (f"{PACKAGE}a: [\n", "line 3"),
    (f"{PACKAGE}- a\n", "a config file holds keys"),
]


@pytest.mark.parametrize(("content", "message"), FAULTS, ids=range(len(FAULTS)))
def test_a_fault_names_file_and_line(content: str | bytes, message: str, tmp_path: Path) -> None:
    for group in CONF.iterdir():
        if group.is_dir():
            (tmp_path / group.name).mkdir()
    file = tmp_path / "experiment" / "x.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError) as caught:
        read_config_file(file, "experiment")
    assert message in str(caught.value)
    assert "x.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("start", [f"# words\n{PACKAGE}", f"---\n{PACKAGE}", f"\ufeff{PACKAGE}"])
def test_the_package_line_may_follow_comments_and_a_byte_order_mark(start: str, tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(f"{start}training: &t {{max_steps: 3}}\nother: *t\n", encoding="utf-8")
    content, package = read_config_file(file, "experiment")
    assert package == "_global_"
    assert content == {"training": {"max_steps": 3}, "other": {"max_steps": 3}}


@pytest.mark.parametrize("content", [b"", b"# words\n", b"caf\xe9: 1\n", b"a: [\n", b"- 1\n", BOMB.encode()])
def test_a_file_that_nobody_selected_does_no_harm(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(content)
    assert read_keys(tmp_path / "x.yaml") == {}


def test_options_may_stand_between_words() -> None:
    assert order_arguments(["model=debug", "-m", "seed=1,2"], CONF) == ["-m", "model=debug", "seed=1,2"]
    assert order_arguments(["--cfg", "job", "seed=1"], CONF) == ["seed=1", "--cfg", "job"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--device=cpu", "write trainer=cpu, trainer=gpu or trainer=mps"),
        ("--n_layer=3", "did you mean model.n_layers?"),
        ("--resume latest", "write resume=latest"),
        ("--resolve", "--resolve belongs to --cfg job"),
        ("--shell-completion", "install=bash"),
        ("hydra.job.chdir=true", "paths.output_dir"),
        ("model=nano model=mini", "model takes one option"),
        ("experiment=[null]", "experiment takes one option"),
        ("--cfg", "needs a value"),
        ("--cfg bogus", "--cfg=bogus is not one of job, hydra, all"),
        ("--info bogus", "--info bogus is not one of all, config"),
        ("--cfg job -m", "-m and --cfg cannot be combined"),
        ("--run -m", "--run and -m cannot be combined"),
        ("--package x", "--package belongs to --cfg job"),
        ("--multirun=3", "--multirun takes no value"),
        ("-mseed=1", "write -m seed=1"),
        ("--", "write key=value"),
        ("=3", "=3 has no key"),
        ("hydra.job.chdir=1", "paths.output_dir"),
        ("--config-name nope", "--config-name=nope is not a file of conf/"),
        ("--config-name=../x", "--config-name=../x is not a file of conf/"),
        ("data.parts={a:1,a:2}", "a is given twice"),
        ("data.parts={'a,b':{x:1},c:{x:1,x:2}}", "x is given twice"),
        (f"seed={'[' * 3000}", "nested more than 100 levels"),
        ("--config-dir x", "--config-dir: Folio composes the files of its own conf/ alone"),
        ("--config-path=x", "--config-path=x: Folio composes"),
        ("-cd x", "-cd: Folio composes"),
        ("--experimental-rerun x", "would run code from the file; repeat=RUN"),
        ("hydra.searchpath=[bogus://x]", "hydra.searchpath=[bogus://x]: Folio composes"),
        ("experiment=../../x", "experiment=../../x: Folio composes"),
        ("model=nano,/tmp/x", "model=nano,/tmp/x: Folio composes"),
        ("+/tmp/x=x", "Folio composes"),
        ("+model/../../x@_global_=x", "Folio composes"),
        ("hydra/launcher=../x", "Folio composes"),
        ("+hydra.callbacks.x={_target_:joblib.load}", "classes are named in files alone"),
        ("hydra.launcher._target_=joblib.load", "classes are named in files alone"),
    ],
)
def test_a_misplaced_word_is_named(words: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        order_arguments(words.split(), CONF)


@pytest.mark.parametrize(
    "words", ["data.parts={a:{x:1},b:{x:1}}", "x={a:[b,c,b],d:'{a:1,a:2}'}", "name=a:b,a:b", "y={"]
)
def test_a_key_that_is_given_once_in_each_brace_is_accepted(words: str) -> None:
    assert order_arguments([words], CONF) == [words]


@pytest.mark.parametrize("script", ["scripts/prepare_data.py", "scripts/plan.py"])
def test_a_script_that_runs_no_sweep_says_so(script: str) -> None:
    with pytest.raises(ConfigError, match=f"^-m.*{script}"):
        order_arguments(["-m", "seed=1,2"], CONF, script)


def test_only_parts_of_a_corpus_are_prepared_by_several_jobs() -> None:
    words = ["-m", "data=text_files", "part=1/2,2/2"]
    assert order_arguments(words, CONF, "scripts/prepare_data.py") == words
    with pytest.raises(ConfigError, match=r"^-m: scripts/plan.py takes"):
        order_arguments(words, CONF, "scripts/plan.py")


def test_a_group_that_is_empty_by_default_may_be_given_as_null() -> None:
    assert order_arguments(["experiment=null", "seed=1"], CONF) == ["seed=1"]


def test_no_file_outside_of_conf_is_composed(tmp_path: Path) -> None:
    """Whatever the command line or a defaults list says: the reader itself refuses it."""
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "train.yaml").write_text("defaults:\n  - model: nano\n")
    (tmp_path / "conf" / "model" / "nano.yaml").write_text("x: 1\n")
    (tmp_path / "model").mkdir()
    for folder in (tmp_path, tmp_path / "model"):
        (folder / "evil.yaml").write_text("x: 2\n")
    with initialize_config_dir(str(tmp_path / "conf"), version_base="1.3"):
        assert compose("train").model.x == 1
        for words in (
            ["model=../../evil"],
            [f"hydra.searchpath=[file://{tmp_path}]", "model=evil"],
        ):
            with pytest.raises(ConfigError, match=r"evil\.yaml is not in conf/"):
                compose("train", words)


def test_hydra_itself_reads_the_files_this_way(tmp_path: Path) -> None:
    """Hydra loads its own copy of the class that reads files, so calling our function alone proves nothing."""
    (tmp_path / "train.yaml").write_bytes(b"seed: 1\nname: caf\xe9\n")
    with initialize_config_dir(str(tmp_path), version_base="1.3"), pytest.raises(ConfigError, match=r"yaml, line 2"):
        compose("train")
