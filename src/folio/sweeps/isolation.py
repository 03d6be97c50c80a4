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

import numpy as np
import torch

Restore = Callable[[], None]


@contextmanager
def isolated() -> Iterator[None]:
    """At the end, restore the environment, working directory, warnings, signal handlers, streams, torch and RNGs.

    A run sets its own seeds and opens its own log, which is closed here.
    """
    saved = [_save_environment(), _save_handlers(), _save_streams(), _save_torch_settings(), _save_rng_states()]
    try:
        with warnings.catch_warnings():
            yield
    finally:
        for restore in saved:
            restore()
        _close_log()


def free_memory() -> None:
    """Free the memory of a job's model now, rather than in the middle of the next job."""
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _save_environment() -> Restore:
    environment, directory = dict(os.environ), os.getcwd()

    def restore() -> None:
        if dict(os.environ) != environment:
            for name in os.environ.keys() - environment.keys():
                del os.environ[name]
            os.environ.update(environment)
        os.chdir(directory)

    return restore


def _save_handlers() -> Restore:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    hook = threading.excepthook

    def restore() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        threading.excepthook = hook

    return restore


def _save_streams() -> Restore:
    streams = sys.stdout, sys.stderr

    def restore() -> None:
        sys.stdout, sys.stderr = streams

    return restore


def _save_rng_states() -> Restore:
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.random.get_rng_state()

    def restore() -> None:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.random.set_rng_state(cpu)

    return restore


def _save_torch_settings() -> Restore:
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    n_threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    gradients, anomaly = torch.is_grad_enabled(), torch.is_anomaly_enabled()
    precision = torch.get_float32_matmul_precision()
    cudnn = (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic)

    def restore() -> None:
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        if torch.get_num_threads() != n_threads:
            torch.set_num_threads(n_threads)
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(gradients)
        torch.autograd.set_detect_anomaly(anomaly)
        if torch.get_float32_matmul_precision() != precision:
            torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = cudnn
        if "torch._dynamo" in sys.modules:
            # torch.compile compiles a function for at most eight models, and runs it uncompiled after that.
            torch.compiler.reset()

    return restore


def _close_log() -> None:
    if "folio.runtime.console" in sys.modules:
        from folio.runtime.console import close_log

        close_log()
