"""Check the command line of train.py before Hydra reads it, whose own parser answers mistakes in several lines."""

import re
from collections.abc import Sequence
from pathlib import Path

from folio.cli.explain import explain_name
from folio.cli.paths import expand_word
from folio.config.section import ConfigError
from folio.runtime.files import expand_home

WITH_VALUE = {
    *("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn"),
    *("--config-dir", "-cd", "--experimental-rerun"),
}
MULTIRUN = ("-m", "--multirun")
FLAGS = {"--help", "-h", "--hydra-help", "--version", "--resolve", "--run", "-r", "--multirun", "-m", "--info", "-i"}
COMPLETION = {"--shell-completion", "-sc"}


def order_arguments(arguments: Sequence[str], conf: Path) -> list[str]:
    """Return the arguments with the options last, where Hydra finds them. Raises: ConfigError."""
    words: list[str] = []
    options: list[str] = []
    waiting = list(arguments)
    while waiting:
        word = waiting.pop(0)
        name, equals, _ = word.partition("=")
        if not word.startswith("-"):
            words.append(expand_word(word))
        elif name in WITH_VALUE:
            if not equals and not waiting:
                raise ConfigError(f"{word} needs a value; `python train.py --hydra-help` lists the options")
            value = expand_home(word[len(name) + 1 :] if equals else waiting.pop(0))
            options += [f"{name}={value}"] if equals else [name, value]
        elif name in FLAGS:
            options.append(word)
            if name in ("--info", "-i") and waiting and re.fullmatch(r"[a-z-]+", waiting[0]):
                options.append(waiting.pop(0))
        elif name in COMPLETION:
            options.append(word)
        else:
            raise ConfigError(_unknown_option(word, waiting))
    _check(words, options, conf)
    # sweep.json records -m in front of the words. The others stay behind them: --info would take a word for its value.
    multirun = [option for option in options if option in MULTIRUN]
    return [*multirun, *words, *(option for option in options if option not in MULTIRUN)]


def _unknown_option(word: str, following: Sequence[str]) -> str:
    name, equals, value = word.lstrip("-").partition("=")
    name = name.replace("-", "_")
    if not equals and following and "=" not in following[0] and not following[0].startswith("-"):
        value = following[0]
    hint = explain_name(name)
    return f"{word}: keys have no dashes; " + (hint or f"write {name}={value or '...'}")


def _check(words: Sequence[str], options: Sequence[str], conf: Path) -> None:
    """Raises: ConfigError for what Hydra would answer with a traceback, or would silently ignore."""
    names = {option.partition("=")[0] for option in options}
    if "--resolve" in names and not names & {"--cfg", "-c"}:
        raise ConfigError("--resolve belongs to --cfg job; add it, or leave --resolve out")
    if names & COMPLETION and not any(re.match(r"(install|uninstall|query)=", word) for word in words):
        raise ConfigError("--shell-completion needs install=bash, install=zsh or install=fish")
    chosen: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if key == "hydra.job.chdir" and value.lower() == "true":
            raise ConfigError(f"{word}: runs have their own folders below paths.output_dir; leave it out")
        if equals and (conf / key).is_dir():
            if key in chosen:
                raise ConfigError(f"{chosen[key]} and {word}: {key} takes one option; leave one out")
            chosen[key] = word
            if value.startswith("["):
                raise ConfigError(f"{word} names a list, but {key} takes one option; write {key}=option")
