"""The part `startup`: how long commands take to do the first thing that a person waits for."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.contenders.process import scratch_folder
from benchmarks.options import Options
from benchmarks.report.results import Report, Series
from folio.runtime.errors import FolioError

RECIPE = ("experiment=nanogpt_shakespeare_char_cpu", "trainer=cpu", "callbacks.samples.max_new_tokens=0")
"""A model whose step takes less than a tenth of a second."""

ONE_STEP = ("training.max_steps=1", "schedule.warmup_steps=0", "name=trained")

ENDLESS = ("training.max_steps=100000", "training.checkpoint_every_steps=1", "name=started")
"""The first step of such a run shows in public: by its checkpoint."""
FIRST_SIGN = "outputs/*/*started*/checkpoints/last.ckpt"

PROMPT = "ROMEO:"
LOOK_EVERY_S = 0.005
LONGEST_S = 300.0


def measure_startup(options: Options, data_dir: Path, root: Path, report: Report) -> None:
    """Add seconds from the start of a process to its first sign. `root` holds train.py, `data_dir` its data."""
    with scratch_folder() as folder:
        places = Places(root, folder, [*RECIPE, f"paths.data_dir={data_dir.resolve()}", *options.overrides])
        options.say("startup: training a model of one step, for generate.py")
        trained = places.train_one_step()
        sides: dict[str, Callable[[], float]] = {
            "import lightning": places.import_lightning,
            "a misspelt key is answered": places.misspelt_key,
            "generate.py, first token": lambda: places.first_token(trained),
            "train.py, first step": places.first_step,
        }
        times: dict[str, list[float]] = {name: [] for name in sides}
        for number in range(options.rounds + 1):
            for name, seconds in sides.items():
                options.say(f"startup: {f'round {number} of {options.rounds}' if number else 'warming up'}, {name}")
                value = seconds()
                if number:  # the round before finds files that are not in memory yet
                    times[name].append(value)
    report.series += [Series("startup", "start", name, "s", values) for name, values in times.items()]


class Places:
    """Where commands are run, and with which overrides."""

    def __init__(self, root: Path, folder: Path, overrides: list[str]) -> None:
        self.root = root
        self.folder = folder
        self.overrides = overrides

    def train_one_step(self) -> Path:
        """The run folder. Raises: FolioError where train.py fails."""
        command = self._python("train.py", *self.overrides, *ONE_STEP)
        result = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        found = list(self.folder.glob("outputs/*/*trained*"))
        if result.returncode or len(found) != 1:
            raise FolioError(f"startup: {_last_line(result.stderr) or 'train.py left no run folder'}")
        return found[0]

    def import_lightning(self) -> float:
        return self._until_end([sys.executable, "-c", "import lightning"], expected=0)

    def misspelt_key(self) -> float:
        return self._until_end(self._python("train.py", "model.n_layer=3"), expected=2)

    def first_token(self, run_folder: Path) -> float:
        """Until a byte is printed after the prompt."""
        options = ["--prompt", PROMPT, "--max-new-tokens", "8"]
        with self._started(self._python("scripts/generate.py", str(run_folder), *options)) as (process, started):
            assert process.stdout is not None
            n_bytes = 0
            while n_bytes <= len(PROMPT.encode()):
                piece = os.read(process.stdout.fileno(), 1 << 16)
                if not piece:
                    raise FolioError("startup: generate.py ended before its first token")
                n_bytes += len(piece)
            return time.perf_counter() - started

    def first_step(self) -> float:
        """Until the first checkpoint of a run that saves after every step."""
        for old in self.folder.glob(FIRST_SIGN):
            old.unlink()
        with self._started(self._python("train.py", *self.overrides, *ENDLESS)) as (process, started):
            while not any(self.folder.glob(FIRST_SIGN)):
                if process.poll() is not None:
                    raise FolioError("startup: train.py ended before its first step")
                if time.perf_counter() - started > LONGEST_S:
                    raise FolioError(f"startup: train.py took no step in {LONGEST_S:.0f} s")
                time.sleep(LOOK_EVERY_S)
            return time.perf_counter() - started

    def _python(self, script: str, *arguments: str) -> list[str]:
        return [sys.executable, str(self.root / script), *arguments]

    def _until_end(self, command: list[str], expected: int) -> float:
        started = time.perf_counter()
        result = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        elapsed_s = time.perf_counter() - started
        if result.returncode != expected:
            said = _last_line(result.stderr)
            raise FolioError(f"startup: {command[1]} ended with {result.returncode}, not {expected}: {said}")
        return elapsed_s

    @contextmanager
    def _started(self, command: list[str]) -> Iterator[tuple[subprocess.Popen[bytes], float]]:
        """A process that is ended once its sign was seen, and when it was started."""
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
