"""What a job of a sweep may change for itself and must not leave to the next one in the same process."""

import contextlib
import gc
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator

import numpy as np


@contextlib.contextmanager
def isolated() -> Iterator[None]:
    """Put back, at the end: environment, warnings, signal handlers, standard streams, working folder, torch's switches.

    A run sets its own seeds and its own log; here the log is closed. torch must be imported before, or its switches
    would have no value to go back to.
    """
    restore = [_environment(), _signals(), _streams(), _torch_switches(), _random_states()]
    folder, hook = os.getcwd(), threading.excepthook
    try:
        with warnings.catch_warnings():
            yield
    finally:
        for put_back in restore:
            put_back()
        os.chdir(folder)
        threading.excepthook = hook
        _close_log()


def _environment() -> Callable[[], None]:
    before = dict(os.environ)

    def put_back() -> None:
        if dict(os.environ) != before:
            for name in os.environ.keys() - before.keys():
                del os.environ[name]
            os.environ.update(before)

    return put_back


def _signals() -> Callable[[], None]:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def put_back() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    return put_back


def _streams() -> Callable[[], None]:
    out, err = sys.stdout, sys.stderr

    def put_back() -> None:
        sys.stdout, sys.stderr = out, err

    return put_back


def _random_states() -> Callable[[], None]:
    import torch

    python, old_numpy, on_cpu = random.getstate(), np.random.get_state(), torch.random.get_rng_state()

    def put_back() -> None:
        random.setstate(python)
        np.random.set_state(old_numpy)
        torch.random.set_rng_state(on_cpu)

    return put_back


def _torch_switches() -> Callable[[], None]:
    import torch

    deterministic, warn_only = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    n_threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    gradients, anomaly = torch.is_grad_enabled(), torch.is_anomaly_enabled()
    precision = torch.get_float32_matmul_precision()
    cudnn = (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic)

    def put_back() -> None:
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
            torch.compiler.reset()  # it compiles a function for eight models at most, and would then go without

    return put_back


def _close_log() -> None:
    if "folio.runtime.console" in sys.modules:
        from folio.runtime.console import close_log

        close_log()


def free_memory() -> None:
    """Let go of a job's model now and not in the middle of the next job."""
    import torch

    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
