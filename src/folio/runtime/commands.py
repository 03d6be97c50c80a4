"""Commands that are printed to be pasted: each word quoted for Hydra's grammar, then for the shell.

Imports nothing slow. `tests/unit/test_commands.py` parses what these functions return with bash and with Hydra.
"""

import os
import re
import shlex
import shutil
import sys
from pathlib import Path

from folio.runtime.terminal import HIDDEN

CHECKOUT = Path(__file__).resolve().parents[3]
"""The folder of train.py and scripts/."""

PLAIN = re.compile(r"[A-Za-z_/.][A-Za-z0-9_/.-]*")
"""Values that Hydra's grammar reads as text without quotes, unless they are one of TYPED."""

TYPED = re.compile(r"(?i)true|false|null|nan|inf|[.]?[0-9_.]+(e[0-9]+)?|[.]")
"""Words that Hydra reads as another type."""


def python_command() -> str:
    """Return the command for the running interpreter: `python`, or its path if `python` is another one."""
    found = shutil.which("python")
    if found and Path(found).samefile(sys.executable) and Path(found).parent == Path(sys.executable).parent:
        return "python"
    return quote_for_shell(_from_here(Path(sys.executable)))


def command(script: str, *words: str) -> str:
    """Return a command that runs a script of this checkout from the current folder.

    `words` must be quoted already: by `override`, or by `quote_for_shell`.
    """
    path = Path(script) if Path.cwd() == CHECKOUT else CHECKOUT / script
    return " ".join((python_command(), quote_for_shell(_from_here(path)), *words))


def _from_here(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def tensorboard_command(output_dir: Path) -> str:
    """Return the command that shows the curves of all runs in a folder."""
    if output_dir == Path("outputs") and Path.cwd() == CHECKOUT:
        return "make tensorboard"
    return command("scripts/board.py", "--logdir", quote_for_shell(typed_path(output_dir)))


def typed_path(path: Path) -> str:
    """Return a path as it can be typed: a folder that is really named `~` is not the home folder."""
    return f"./{path}" if str(path).startswith("~") else str(path)


def override(key: str, value: object) -> str:
    """Return `key=value` as a word of the command line, such that Hydra reads exactly this text."""
    text = typed_path(value) if isinstance(value, Path) else str(value)
    return quote_for_shell(f"{key}={quote_for_hydra(text)}")


def quote_for_hydra(text: str) -> str:
    """Return text as a value of an override: in quotes if Hydra's grammar would read it as anything else.

    Within quotes Hydra unescapes quotes, and the backslashes in front of them; then OmegaConf resolves `${...}`,
    unless a backslash precedes it.
    """
    if PLAIN.fullmatch(text) and not TYPED.fullmatch(text):
        return text
    escaped = re.sub(r'(\\*)"', r'\1\1\\"', escape_interpolations(text))
    trailing = len(escaped) - len(escaped.rstrip("\\"))
    return f'"{escaped}{trailing * chr(92)}"'


def unquote_for_hydra(value: str) -> str:
    """Return the text that Hydra and OmegaConf read from a value: undo `quote_for_hydra`."""
    if len(value) < 2 or value[0] != value[-1] or value[0] not in "'\"":
        return value
    return re.sub(rf"(\\+)(?={value[0]}|\$\{{|$)", lambda found: found[1][: len(found[1]) // 2], value[1:-1])


def escape_interpolations(text: str) -> str:
    """Return text as a value of OmegaConf, which resolves `${...}` unless a backslash precedes it."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)


def quote_for_shell(text: str) -> str:
    """Return text as one word of a shell. What a terminal would obey or cannot show is written as an escape."""
    if not HIDDEN.search(text):
        return shlex.quote(text)
    quoted = text.replace("\\", r"\\").replace("'", r"\'")
    return f"$'{HIDDEN.sub(_escaped, quoted)}'"


def _escaped(match: re.Match[str]) -> str:
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(match[0]))
