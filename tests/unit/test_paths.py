"""`~` is the home folder in every path, typed or in conf/; no folder named `~` is ever created by accident."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from folio.cli.paths import PATH_KEYS, expand_paths, expand_word
from folio.cli.scripts import run_script
from folio.config.run import RunConfig
from folio.config.section import ConfigError
from folio.runs.folders import find_checkpoint, find_resumable_run, find_started_run
from folio.runtime.commands import override, tensorboard_command, typed_path

CONF = Path(__file__).parents[2] / "conf"
HOMES = ("/home/me", "/home/Jürgen Möller", "/home/a=b,c")


def parsed(word: str) -> Any:
    override = OverridesParser.create().parse_override(word)
    return [*override.sweep_iterator()] if override.is_sweep_override() else override.value()


@pytest.mark.parametrize("home", HOMES)
@pytest.mark.parametrize("key", PATH_KEYS)
def test_a_path_on_the_command_line_may_begin_with_the_home_folder(
    key: str, home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", home)
    for typed in (f"{key}=~/a/b.txt", f'{key}="~/a/b.txt"', f"{key}='~/a/b.txt'", f"+{key}=~/a/b.txt"):
        assert parsed(expand_word(typed)) == f"{home}/a/b.txt"
    assert parsed(expand_word(f"{key}=~")) == home
    assert [getattr(value, "text", value) for value in parsed(expand_word(f"{key}=~/a,~/b"))] == [
        f"{home}/a",
        f"{home}/b",
    ]
    assert parsed(expand_word(f"{key}=[~/a, ~/b]")) == [f"{home}/a", f"{home}/b"]


def test_paths_that_name_the_parts_of_a_mixture_are_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    typed = expand_word("data.parts={~/a.txt: 0.5, b: {weight: 1, name: text_file, path: ~/b.txt}}")
    assert parsed(typed) == {"/home/me/a.txt": 0.5, "b": {"weight": 1, "name": "text_file", "path": "/home/me/b.txt"}}


@pytest.mark.parametrize(
    "word",
    ["~optimizer.eps", "name=a~b", 'callbacks.samples.prompt="~ home"', "a='x,~/y'", 'a="x\\", ~"', "seed=1", "~"],
)
def test_other_words_stay_as_they_are(word: str) -> None:
    assert expand_word(word) == word


def test_paths_in_conf_are_expanded(load: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    values: dict[str, Any] = yaml.safe_load(
        "{paths: {data_dir: ~/d, output_dir: ~/o}, data: {path: ~/p}, init_from: ~/i, resume: ~/r, sweep: '~/s'}"
    )
    values["data"]["parts"] = {"~/a": 1.0, "b": {"weight": 1.0, "path": "~/c"}}
    expanded = expand_paths(values)
    assert "~" not in str(expanded)
    assert expanded["data"]["parts"] == {"/home/me/a": 1.0, "b": {"weight": 1.0, "path": "/home/me/c"}}
    assert load('paths.output_dir="~/o"').paths.output_dir == "/home/me/o"


def test_every_path_of_the_schema_is_expanded() -> None:
    """A new key whose description calls it a folder or a path must be added to PATH_KEYS."""
    found = {key for key, text in descriptions(RunConfig) if "older" in text.partition(".")[0] or key.endswith("path")}
    assert found - {"data.parts", "name"} <= set(PATH_KEYS)


def descriptions(section: Any, prefix: str = "") -> list[tuple[str, str]]:
    pairs = []
    for name, field in section.model_fields.items():
        pairs.append((f"{prefix}{name}", field.description or ""))
        members = [field.annotation, *get_args(field.annotation)]
        for member in members:
            if hasattr(member, "model_fields"):
                pairs += descriptions(member, f"{prefix}{name}.")
    return pairs


def test_an_unknown_user_is_refused_because_a_folder_named_so_would_be_created() -> None:
    with pytest.raises(ConfigError, match=r"^data.path=~nobody-here/x: ~nobody-here is no user"):
        expand_word("data.path=~nobody-here/x")
    with pytest.raises(ConfigError, match=r"^init_from=~nobody-here/x: ~nobody-here is no user"):
        expand_paths({"init_from": "~nobody-here/x"})


def test_a_name_that_is_not_utf8_is_refused_with_a_way_out() -> None:
    name = os.fsdecode(b"b\xff")
    for refused in (lambda: expand_word(f"data.path={name}"), lambda: expand_paths({"init_from": name})):
        with pytest.raises(ConfigError, match=r"not UTF-8.*rename"):
            refused()


def test_runs_are_found_below_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    for name in ("config.yaml", "checkpoints/last.ckpt"):
        (tmp_path / "run" / name).touch()
    assert find_checkpoint("~/run", Path()) == tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert find_started_run("~/run", Path()) == find_resumable_run("~/run", Path()) == tmp_path / "run"


def test_options_of_scripts_are_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    given: list[object] = []

    def main(
        folders: list[Path],
        output: Path | None = None,
        prompt: str = "",
        none: Path | None = None,
    ) -> None:
        given.extend([folders, output, prompt, none])

    monkeypatch.setattr("sys.argv", ["script", "~/a", "b", "--output=~/c", "--prompt", "~/d"])
    with pytest.raises(SystemExit):
        run_script(main)
    assert given == [[Path("/home/me/a"), Path("b")], Path("/home/me/c"), "~/d", None]


def test_a_folder_that_is_really_named_so_can_be_typed_again() -> None:
    assert typed_path(Path("./~/runs")) == "./~/runs"
    assert override("resume", Path("./~/runs")) == "'resume=\"./~/runs\"'"


def test_the_command_that_shows_curves_names_the_output_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CONF.parent)
    assert tensorboard_command(Path("outputs")) == "make tensorboard"
    assert tensorboard_command(Path("a b")).endswith("scripts/board.py --logdir 'a b'")
    monkeypatch.chdir(tmp_path)
    assert tensorboard_command(Path("outputs")).endswith("scripts/board.py --logdir outputs")
