"""Run a function as the command line of a script."""

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from folio.cli.errors import exit_with_error, one_line_errors, single_line
from folio.runtime.files import expand_home
from folio.runtime.signals import ignore_signals_at_exit
from folio.runtime.streams import output_failure

COMPLETION = "_FOLIO_COMPLETE"
"""Variable with which scripts/completion.bash asks a script for the words that may follow."""


def run_script(main: Callable[..., None]) -> None:
    """Run `main` with the arguments and options that its annotations describe to Typer, and exit.

    Errors take one line, as in train.py: those of `main` and those of the command line, for which Typer would draw a
    frame below the usage.
    """
    app = typer.Typer(add_completion=COMPLETION in os.environ, pretty_exceptions_enable=False)
    app.command()(one_line_errors(_with_expanded_paths(main)))
    try:
        with ignore_signals_at_exit():
            code = app(standalone_mode=False, complete_var=COMPLETION)
            require_output()
    except typer.Abort:
        code = 1
    except Exception as error:
        # The base class of Typer's usage errors differs between versions; this method is common to all of them.
        format_message = getattr(error, "format_message", None)
        if format_message is None:
            raise
        message = format_message().removesuffix(".")
        exit_with_error(single_line(f"{message}; {Path(sys.argv[0]).name} --help lists the options"))
    raise SystemExit(code)


def _with_expanded_paths(main: Callable[..., None]) -> Callable[..., None]:
    """Wrap `main` so that `~` is the home folder in each path, also in --output=~/x, which a shell leaves alone."""

    @functools.wraps(main)
    def wrapper(**values: Any) -> None:
        main(**{name: _expand(value) for name, value in values.items()})

    return wrapper


def _expand(value: Any) -> Any:
    if isinstance(value, list):
        return [_expand(item) for item in value]
    return Path(expand_home(str(value))) if isinstance(value, Path) else value


def require_output() -> None:
    """Exit with code 2 if what a script printed was lost, as on a full disk: printing is what it is for.

    A reader that went away, or a stream that was closed from the start, wanted no more.
    """
    sys.stdout.flush()
    if problem := output_failure():
        exit_with_error(problem)
