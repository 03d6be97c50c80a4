"""`folio.train`: train as `python train.py` does, from a program or a notebook."""

import shlex
import signal
from collections.abc import Sequence

from folio.api.command import RunResult, execute, prepare_run
from folio.cli.arguments import order_arguments
from folio.cli.compose import composed, load_config
from folio.cli.errors import describe_error
from folio.cli.repeat import repeat_run
from folio.runs.listing import RunRecord, read_record
from folio.runtime.commands import CHECKOUT
from folio.runtime.environment import check_environment
from folio.runtime.errors import FolioError
from folio.runtime.startup import fast_imports


def train(overrides: Sequence[str] | str = ()) -> RunRecord:
    """Train and return the run: its folder, config and metrics. `folio.load(run)` opens the model.

    The run is the one that `python train.py` with the same overrides would make, to the bit, in the current folder.
    What the run changes in this process, such as seeds, threads and signal handlers, is put back at its end.

    Args:
        overrides: words of the command line, as in `["model=mini", "seed=2"]`, or one string, which is split as the
            shell would. `-m` is for the command line; here, call `train` in a loop.

    Raises: FolioError with one line for what the command line would refuse, and for a run that failed;
        KeyboardInterrupt once Ctrl-C, or the stop button of a notebook, has stopped the run and it was saved.
    """
    words = shlex.split(overrides) if isinstance(overrides, str) else [str(word) for word in overrides]
    for word in words:
        if word.startswith("-"):
            raise FolioError(f"{word}: folio.train takes overrides only, as in seed=2; options are for python train.py")
    conf = CHECKOUT / "conf"
    if not conf.is_dir():
        raise FolioError(f"{conf} does not exist; install Folio from a checkout: pip install --editable FOLDER")
    check_environment()
    try:
        return read_record(_train(words).folder)
    except SystemExit as stop:
        if stop.code == 128 + signal.SIGINT:
            raise KeyboardInterrupt from None
        raise
    except FolioError:
        raise
    except Exception as error:
        message = describe_error(error, words)
        if message is None:
            raise
        raise FolioError(message) from None


def _train(words: Sequence[str]) -> RunResult:
    conf = CHECKOUT / "conf"
    with composed(repeat_run(order_arguments(words, conf), conf), conf) as cfg:
        prepared = prepare_run(load_config(cfg))
        with fast_imports():
            from folio.sweeps.isolation import free_memory, isolated
        try:
            with isolated():
                return execute(prepared)
        finally:
            free_memory()
