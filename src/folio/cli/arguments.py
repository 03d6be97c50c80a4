"""Check a command line before Hydra reads it, whose own parser answers mistakes in several lines.

Folio composes the files of this checkout's conf/ and no others: they may name classes to create and read the
environment, so what they say is trusted. No flag, option or path leads to files elsewhere.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from folio.cli.config_files import option_names
from folio.cli.explain import explain_name
from folio.cli.paths import expand_word
from folio.config.callbacks import CallbacksConfig
from folio.config.section import PLUGIN_GROUPS, ConfigError
from folio.runtime.terminal import did_you_mean
from folio.runtime.untrusted import MAX_DEPTH

WITH_VALUE = {
    "--cfg": ("job", "hydra", "all"),
    "-c": ("job", "hydra", "all"),
    "--package": None,
    "-p": None,
    "--config-name": None,
    "-cn": None,
}
"""Options with a value, and the values that they may have; None if these are not listed."""
INFOS = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
"""Values that may follow --info."""
MULTIRUN = ("-m", "--multirun")
FLAGS = {"--help", "-h", "--hydra-help", "--version", "--resolve", "--run", "-r", "--info", "-i", *MULTIRUN}
COMPLETION = ("--shell-completion", "-sc")
MODES = (("--run", "-r"), MULTIRUN, ("--cfg", "-c"), ("--info", "-i"), COMPLETION)
"""Things that Hydra does, one at a time."""

PLAN = "scripts/plan.py"
"""The script that composes a config by itself, and takes none of these options."""

PREPARE = "scripts/prepare_data.py"
"""The script whose jobs, with -m, are parts of one corpus."""

FOREIGN = "Folio composes the files of its own conf/ alone: copy or link your options there"
REFUSED = {
    **dict.fromkeys(("--config-dir", "-cd"), f"{FOREIGN}; repeat=RUN takes the config of a run"),
    **dict.fromkeys(("--config-path", "-cp"), f"{FOREIGN}; repeat=RUN takes the config of a run"),
    "--experimental-rerun": "it would run code from the file; repeat=RUN takes the config of a run",
}


def order_arguments(arguments: Sequence[str], conf: Path, script: str = "train.py") -> list[str]:
    """Return the arguments with the options last, where Hydra finds them. Raises: ConfigError.

    A group that is empty unless it is given, as in experiment=null, is left out.
    """
    words: list[str] = []
    options: list[str] = []
    waiting = list(arguments)
    while waiting:
        word = waiting.pop(0)
        name, equals, _ = word.partition("=")
        if not word.startswith("-"):
            words.append(_as_new_key(expand_word(word)))
        elif name in REFUSED:
            raise ConfigError(f"{word}: {REFUSED[name]}")
        elif name in WITH_VALUE:
            if not equals and not waiting:
                raise ConfigError(f"{word} needs a value; `python train.py --hydra-help` lists the options")
            value = word.partition("=")[2] if equals else waiting.pop(0)
            _check_value(name, value, conf)
            options += [word] if equals else [word, value]
        elif word in FLAGS or word in COMPLETION:
            options.append(word)
            if name in ("--info", "-i") and waiting and "=" not in waiting[0] and waiting[0][:1] != "-":
                options.append(waiting.pop(0))
                if options[-1] not in INFOS:
                    raise ConfigError(f"{name} {options[-1]} is not one of {', '.join(INFOS)}; write {name} alone")
        elif name in (*FLAGS, *COMPLETION):
            raise ConfigError(f"{word}: {name} takes no value; write {name} alone")
        else:
            raise ConfigError(_explain_unknown_option(word, waiting))
    _check_options({option.partition("=")[0] for option in options}, words, script)
    words = [word for word in words if word not in ("experiment=null", "hparams_search=null", "debug=null")]
    check_words(words, conf)
    _check_groups_once(words, conf)
    # sweep.json records -m in front of the words. The others stay behind them: --info would take a word for its value.
    multirun = [option for option in options if option in MULTIRUN]
    return [*multirun, *words, *(option for option in options if option not in MULTIRUN)]


def _as_new_key(word: str) -> str:
    """Return a word with ++ if it sets an optional callback or logger, which the composed config may not have yet."""
    group, _, rest = word.partition(".")
    name = re.split(r"[.=]", rest, maxsplit=1)[0]
    is_option = group in PLUGIN_GROUPS and name and name not in CallbacksConfig.model_fields
    return f"++{word}" if is_option else word


def _check_value(name: str, value: str, conf: Path) -> None:
    allowed = WITH_VALUE[name]
    if allowed is not None and value not in allowed:
        raise ConfigError(f"{name}={value} is not one of {', '.join(allowed)}; write {name} {allowed[0]}")
    if name in ("--config-name", "-cn") and not (
        re.fullmatch(r"[\w-]+(\.yaml)?", value) and (conf / f"{value.removesuffix('.yaml')}.yaml").is_file()
    ):
        raise ConfigError(f"{name}={value} is not a file of conf/; leave {name} out, which means train")


def _explain_unknown_option(word: str, following: Sequence[str]) -> str:
    name, equals, value = word.lstrip("-").partition("=")
    if not name.strip():
        return f"{word} is not an option; write key=value"
    if word.startswith("-m") and "=" in word and not word.startswith("--"):
        return f"{word}: write -m {word[2:]}"
    name = name.replace("-", "_")
    if not equals and following and "=" not in following[0] and not following[0].startswith("-"):
        value = following[0]
    return f"{word}: keys have no dashes; " + (explain_name(name) or f"write {name}={value or '...'}")


def _check_options(names: set[str], words: Sequence[str], script: str) -> None:
    """Raises: ConfigError for combinations that Hydra would answer with a traceback, or silently ignore."""
    if script == PLAN and names:
        raise ConfigError(f"{min(names)}: {PLAN} takes key=value and group=option alone; leave it out")
    in_parts = script == PREPARE and any(word.startswith("part=") for word in words)
    if script != "train.py" and names & set(MULTIRUN) and not in_parts:
        raise ConfigError(f"-m is for train.py, whose jobs prepare their own data; run {script} once for each value")
    modes = [mode for mode in MODES if names & set(mode)]
    if len(modes) > 1:
        first, second = (mode[0] for mode in modes[:2])
        raise ConfigError(f"{first} and {second} cannot be combined; leave one out")
    for name in ("--resolve", "--package", "-p"):
        if name in names and not names & {"--cfg", "-c"}:
            raise ConfigError(f"{name} belongs to --cfg job; add it, or leave {name} out")
    if names & set(COMPLETION) and not any(re.match(r"(install|uninstall|query)=", word) for word in words):
        raise ConfigError("--shell-completion needs install=bash, install=zsh or install=fish")


def check_words(words: Sequence[str], conf: Path) -> None:
    """Check each override for what Hydra would answer with a traceback, silently ignore, or compose from elsewhere.

    Raises: ConfigError.
    """
    for word in words:
        key, equals, value = word.partition("=")
        group = key.lstrip("+~").partition("@")[0]
        if equals and not group:
            raise ConfigError(f"{word} has no key; write key=value")
        is_group = "/" in group or bool(group and (conf / group).is_dir())
        if _leads_elsewhere(group) or (is_group and equals and _leads_elsewhere(value)):
            raise ConfigError(f"{word}: {FOREIGN}")
        if value.startswith("[") and group in PLUGIN_GROUPS:
            _check_choices(word, group, value, conf)
        elif is_group and value.startswith("["):
            raise ConfigError(f"{word} names a list, but {group} takes one option; write {group}=option")
        if group == "hydra.searchpath":
            raise ConfigError(f"{word}: {FOREIGN}")
        if group.startswith("hydra.") and (group.startswith("hydra.callbacks") or "_target_" in word):
            raise ConfigError(f"{word}: classes are named in files alone; write it in conf/train.yaml")
        if group == "hydra.job.chdir" and value.lower() not in ("false", "null"):
            raise ConfigError(f"{word}: runs have their own folders below paths.output_dir; leave it out")
        if repeated := _repeated_key(word):
            raise ConfigError(f"{word}: {repeated} is given twice; leave one out")


def _leads_elsewhere(path: str) -> bool:
    """Return whether the name of a group or an option, or one of several, is a path out of conf/."""
    return any(part.startswith("/") or ".." in part.split("/") for part in re.split(r"[,()\[\]\s'\"]", path))


def _check_groups_once(words: Sequence[str], conf: Path) -> None:
    """Raises: ConfigError for two options of one group, of which Hydra would take the last."""
    chosen: dict[str, str] = {}
    for word in words:
        key, equals, _ = word.partition("=")
        if equals and (conf / key).is_dir():
            if key in chosen:
                raise ConfigError(f"{chosen[key]} and {word}: {key} takes one option; leave one out")
            chosen[key] = word


def _repeated_key(word: str) -> str | None:
    """Return a key that a `{key: value}` of Hydra's grammar gives twice; None if there is none.

    Raises: ConfigError if the brackets are nested too deeply for Hydra's parser.
    """
    value = word.partition("=")[2]
    tokens = re.findall(r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"|[{}\[\](),:]|(?:\\.|[^{}\[\](),:'\"\\])+", value)
    open_keys: list[set[str] | None] = []  # the keys of each open brace; None for other brackets
    for before, token, after in zip(["", *tokens], tokens, [*tokens[1:], ""], strict=False):
        if token in ("{", "[", "("):
            open_keys.append(set() if token == "{" else None)
            if len(open_keys) > MAX_DEPTH:
                raise ConfigError(f"{word} is nested more than {MAX_DEPTH} levels deep; use fewer brackets")
        elif token in ("}", "]", ")"):
            if open_keys:
                open_keys.pop()
        elif before in ("{", ",") and after == ":" and open_keys and (keys := open_keys[-1]) is not None:
            key = token.strip().strip("'\"")
            if key in keys:
                return key
            keys.add(key)
    return None


def _check_choices(word: str, group: str, value: str, conf: Path) -> None:
    """Raises: ConfigError unless each option of a list has a file in conf/, and stands there once."""
    options = option_names(conf, group)
    names = [name.strip() for name in value.strip("[]").split(",")]
    for name in names:
        if name not in options:
            raise ConfigError(f"{word}: {name} is not one of {', '.join(options)}{did_you_mean(name, options)}")
        if names.count(name) > 1:
            raise ConfigError(f"{word}: {name} stands there twice; leave one out")
