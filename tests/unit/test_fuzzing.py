"""Damaged and hostile files of every kind end in a value or in one line, within limits of memory and time."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

UNIT = Path(__file__).parent

FAULTS = """
import json, sys
from pathlib import Path
import fuzzing
from fuzzing import Reader, any_bytes, fuzz
from folio.runtime.errors import FolioError

fuzzing.MAX_CPU_S = 1.5
kept = []

def read(folder):
    data = (folder / "file").read_bytes()
    if data == b"good":
        return
    if kind == "another error":
        raise KeyError("x")
    if kind == "no memory":
        try:
            bytearray(2**32)
        except MemoryError as error:
            raise FolioError(f"cannot be read ({type(error).__name__})")
    if kind == "memory":
        kept.append(b"x" * 2**29)
    while kind == "time":
        pass
    raise FolioError("x " * 10_000 if kind == "a long message" else "bad file")

make = lambda folder: (folder / "file").write_bytes(b"good")
for kind in sys.argv[2:]:
    outcome = fuzz(Reader("r", make, "file", read, [any_bytes]), Path(sys.argv[1]) / kind, 2, seed=1)
    print(json.dumps([outcome.refused > 0, " ".join(outcome.faults)]))
    kept.clear()
"""

KINDS = {
    "refused": "",
    "another error": "KeyError",
    "no memory": "memory ran out",
    "memory": "MiB of memory",
    "time": "more than 1.5 s",
    "a long message": "a message of",
}
"""What a reader may do wrong, and how it is reported."""


def run_child(folder: Path, *arguments: str, timeout_s: int) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder, where hypothesis leaves files of its own."""
    command, environment = [sys.executable, *arguments], os.environ | {"PYTHONPATH": str(UNIT)}
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=folder, env=environment, timeout=timeout_s
    )


def fuzz_all(folder: Path, n_examples: int, timeout_s: int) -> list[dict[str, Any]]:
    done = run_child(folder, str(UNIT / "fuzzing.py"), str(folder), str(n_examples), "1", timeout_s=timeout_s)
    assert done.returncode == 0, f"reading {folder / 'current'} ended the process: {done.stderr[-2000:]}"
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(outcomes) > 30
    return outcomes


def test_the_search_for_faults_finds_each_kind_of_them(tmp_path: Path) -> None:
    done = run_child(tmp_path, "-c", FAULTS, str(tmp_path), *KINDS, timeout_s=600)
    assert done.returncode == 0, done.stderr
    for (kind, expected), line in zip(KINDS.items(), done.stdout.splitlines(), strict=True):
        was_refused, faults = json.loads(line)
        assert expected in faults
        assert bool(faults) is (kind != "refused")
        assert was_refused is (kind in ("refused", "no memory", "memory", "a long message"))


def test_a_few_damaged_files_of_every_kind_are_read_or_refused(tmp_path: Path) -> None:
    outcomes = fuzz_all(tmp_path, 3, timeout_s=600)
    assert [outcome for outcome in outcomes if outcome["faults"]] == []


@pytest.mark.slow
def test_thousands_of_damaged_files_of_every_kind_are_read_or_refused(tmp_path: Path) -> None:
    outcomes = fuzz_all(tmp_path, 200, timeout_s=7200)
    assert [outcome for outcome in outcomes if outcome["faults"]] == []
    assert sum(outcome["tried"] for outcome in outcomes) > 10_000
    print("\n".join(f"{outcome['reader']}: {outcome['tried']}, {outcome['refused']} refused" for outcome in outcomes))
