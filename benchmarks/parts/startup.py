"""The part `startup`: how long commands take to their first visible result."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.contenders.process import scratch_folder
from benchmarks.options import Options
from benchmarks.report.results import BenchmarkReport, Series
from folio.runtime.errors import FolioError

ROOT = Path(__file__).parents[2]

RECIPE = ("experiment=nanogpt_shakespeare_char_cpu", "trainer=cpu", "callbacks.samples.max_new_tokens=0")
"""A model whose step takes less than a tenth of a second."""

ONE_STEP = ("training.max_steps=1", "schedule.warmup_steps=0", "name=trained")

ENDLESS = ("training.max_steps=100000", "training.checkpoint_every_steps=1", "name=started")
"""A run whose first step is visible from outside, by its checkpoint."""
FIRST_CHECKPOINT = "outputs/*/*started*/checkpoints/last.ckpt"

PROMPT = "ROMEO:"
POLL_INTERVAL_S = 0.005
TIMEOUT_S = 300.0


def measure_startup(options: Options, report: BenchmarkReport) -> None:
    """Add the seconds from the start of a process to its first visible result."""
    with scratch_folder() as folder:
        data_dir = options.data_dir().resolve()
        commands = StartupCommands(folder, [*RECIPE, f"paths.data_dir={data_dir}", *options.overrides])
        options.say("startup: training a model of one step, for generate.py")
        trained = commands.train_one_step()
        contenders: dict[str, Callable[[], float]] = {
            "import lightning": commands.import_lightning,
            "a misspelt key is answered": commands.misspelt_key,
            "generate.py, first token": lambda: commands.first_token(trained),
            "train.py, first step": commands.first_step,
        }
        times: dict[str, list[float]] = {name: [] for name in contenders}
        for number in range(options.rounds + 1):
            for name, measure_s in contenders.items():
                options.say(f"startup: {f'round {number} of {options.rounds}' if number else 'warm-up'}, {name}")
                elapsed_s = measure_s()
                if number:  # the warm-up round reads files from the disk
                    times[name].append(elapsed_s)
    report.series += [Series("startup", "start", name, "s", values) for name, values in times.items()]


class StartupCommands:
    """The commands that are timed, run in one folder with the same overrides."""

    def __init__(self, folder: Path, overrides: list[str]) -> None:
        self.folder = folder
        self.overrides = overrides

    def train_one_step(self) -> Path:
        """Return a run folder to generate from. Raises: FolioError if train.py fails."""
        result = self._run(self._python("train.py", *self.overrides, *ONE_STEP))
        found = list(self.folder.glob("outputs/*/*trained*"))
        if result.returncode or len(found) != 1:
            raise FolioError(f"startup: {_last_line(result.stderr) or 'train.py left no run folder'}")
        return found[0]

    def import_lightning(self) -> float:
        return self._time_to_exit([sys.executable, "-c", "import lightning"], expected=0)

    def misspelt_key(self) -> float:
        return self._time_to_exit(self._python("train.py", "model.n_layer=3"), expected=2)

    def first_token(self, run_folder: Path) -> float:
        """Return the seconds until something is printed after the prompt."""
        options = ["--prompt", PROMPT, "--max-new-tokens", "8"]
        with self._start(self._python("scripts/generate.py", str(run_folder), *options)) as (process, started):
            assert process.stdout is not None
            n_bytes = 0
            while n_bytes <= len(PROMPT.encode()):
                piece = os.read(process.stdout.fileno(), 1 << 16)
                if not piece:
                    raise FolioError("startup: generate.py ended before its first token")
                n_bytes += len(piece)
            return time.perf_counter() - started

    def first_step(self) -> float:
        """Return the seconds until the first checkpoint of a run that saves after every step."""
        for old in self.folder.glob(FIRST_CHECKPOINT):
            old.unlink()
        with self._start(self._python("train.py", *self.overrides, *ENDLESS)) as (process, started):
            while not any(self.folder.glob(FIRST_CHECKPOINT)):
                if process.poll() is not None:
                    raise FolioError("startup: train.py ended before its first step")
                if time.perf_counter() - started > TIMEOUT_S:
                    raise FolioError(f"startup: train.py took no step in {TIMEOUT_S:.0f} s")
                time.sleep(POLL_INTERVAL_S)
            return time.perf_counter() - started

    def _python(self, script: str, *arguments: str) -> list[str]:
        return [sys.executable, str(ROOT / script), *arguments]

    def _run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)

    def _time_to_exit(self, command: list[str], expected: int) -> float:
        started = time.perf_counter()
        result = self._run(command)
        elapsed_s = time.perf_counter() - started
        if result.returncode != expected:
            error = _last_line(result.stderr)
            raise FolioError(f"startup: {command[1]} ended with exit code {result.returncode}, not {expected}: {error}")
        return elapsed_s

    @contextmanager
    def _start(self, command: list[str]) -> Iterator[tuple[subprocess.Popen[bytes], float]]:
        """Start a process and yield it with its start time; kill it at the end."""
        started = time.perf_counter()
        with subprocess.Popen(
            command, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        ) as process:
            try:
                yield process, started
            finally:
                process.kill()


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
