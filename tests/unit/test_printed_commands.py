"""What Folio prints to be pasted reaches Hydra as it was meant, whatever names folders have."""

import subprocess
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from folio.runtime.commands import command, override, quote_for_hydra, quote_for_shell

NAMES = (
    "outputs/2026-11-30/00-00-00-a",
    "seed=1,model.dropout=0.0",
    "b c",
    "größe",
    "br [2020]",
    "{a: 1}",
    "it's",
    'say "so"',
    "~",
    "~/runs",
    "a\\",
    "a\\'\\\"b",
    "${oc.env:HOME}",
    "\\${a}",
    "\\\\${a}",
    "$HOME",
    "`id`",
    "1e3",
    "null",
    "True",
    "1_0",
    ".5",
    ".",
    "..",
    "-m",
    "a:b",
    "a@b",
    "#",
    "*",
    "a|b",
    "(a)",
    "",
    "日本語",
    "a\nb",
    "\x1b[31m",
)


def through_hydra(word: str) -> object:
    parsed = OverridesParser.create().parse_override(word)
    assert not parsed.is_sweep_override()
    return OmegaConf.to_container(OmegaConf.create({"value": parsed.value()}), resolve=True)["value"]  # type: ignore[call-overload, index]


def through_shell(words: str) -> list[str]:
    script = f"printf '%s\\0' {words}"
    result = subprocess.run(["bash", "-c", script], capture_output=True, check=True)
    return result.stdout.decode("utf-8", "surrogateescape").split("\0")[:-1]


@pytest.mark.parametrize("name", NAMES)
def test_an_override_reaches_hydra_through_the_shell_as_the_text_that_it_was(name: str) -> None:
    (word,) = through_shell(override("resume", name))
    assert through_hydra(word) == name


@settings(max_examples=300)
@given(
    st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0")) | st.text("\\'\"${}=,[]()~ ab:.\t")
)
@example('\\"')
@example("\\")
def test_any_text_is_a_value_that_hydra_reads_back(text: str) -> None:
    assert through_hydra(f"key={quote_for_hydra(text)}") == text


def test_a_command_line_is_shell_words_that_a_terminal_shows_as_they_are() -> None:
    odd = ["plain", "a b", "'", "\x1b]0;x\x07", "tab\t", "\\x41\x1c", "\udcff", "ü"]
    words = " ".join(map(quote_for_shell, odd))
    assert through_shell(words) == odd
    assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in words)


def test_a_command_runs_the_script_of_this_checkout_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(__file__).parents[2]
    monkeypatch.chdir(root)
    assert through_shell(command("train.py", override("resume", "a b")))[1:] == ["train.py", 'resume="a b"']
    monkeypatch.chdir(tmp_path)
    assert through_shell(command("scripts/generate.py"))[1] == str(root / "scripts" / "generate.py")
