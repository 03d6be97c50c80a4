"""Isolate the jobs of a sweep that run in one process: undo what each job changed in the process.

Imports torch, whose settings could not be restored if the job itself imported it.
"""

import gc
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

STATES: tuple[tuple[Callable[[], Any], Callable[[Any], object]], ...] = (
    (os.getcwd, os.chdir),
    (random.getstate, random.setstate),
    (np.random.get_state, np.random.set_state),
    (torch.random.get_rng_state, torch.random.set_rng_state),
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
)
"""Functions that read and set a state of the process."""

SETTINGS: tuple[tuple[Callable[[], Any], Callable[[Any], object]], ...] = (
    (torch.get_num_threads, torch.set_num_threads),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
)
"""The same for settings that are only set if they have changed, because setting them has side effects."""


@contextmanager
def isolated() -> Iterator[None]:
    """At the end, restore the environment, working directory, warnings, signal handlers, streams, torch and RNGs.

    A run sets its own seeds and opens its own log, which is closed here.
    """
    environment = dict(os.environ)
    states = [(set_state, get_state()) for get_state, set_state in STATES]
    settings = [(get_setting, set_setting, get_setting()) for get_setting, set_setting in SETTINGS]
    cudnn = (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    hook, streams = threading.excepthook, (sys.stdout, sys.stderr)
    try:
        with warnings.catch_warnings():
            yield
    finally:
        _restore_environment(environment)
        for set_state, state in states:
            set_state(state)
        for get_setting, set_setting, setting in settings:
            if get_setting() != setting:
                set_setting(setting)
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = cudnn
        for number, handler in handlers.items():
            if signal.getsignal(number) is not handler:  # only the main thread may set one, and no other changes any
                signal.signal(number, handler)
        threading.excepthook, (sys.stdout, sys.stderr) = hook, streams
        if "torch._dynamo" in sys.modules:
            # torch.compile compiles a function for at most eight models, and runs it uncompiled after that.
            torch.compiler.reset()
        _close_log()


def free_memory() -> None:
    """Free the memory of a job's model now, rather than in the middle of the next job."""
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _restore_environment(environment: dict[str, str]) -> None:
    if dict(os.environ) != environment:
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)


def _close_log() -> None:
    if "folio.runtime.console" in sys.modules:
        from folio.runtime.console import close_log

        close_log()
