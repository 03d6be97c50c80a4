"""What a process took of memory is measured, and can be forgotten between two runs."""

import subprocess
import sys

import pytest

from folio.runtime.memory import CLEAR, peak_bytes, resident_bytes

MIB = 2**20

# In a process of its own: what other tests hold and give back would be in the figures.
FORGET = """
from folio.runtime.memory import forget_peak, peak_bytes
large = b"x" * (200 * 2**20)
with_it = peak_bytes()
del large
print(with_it, peak_bytes())
forget_peak()
print(peak_bytes())
"""


def test_the_peak_is_no_less_than_what_is_taken_now() -> None:
    assert 10 * MIB < resident_bytes() <= peak_bytes() + 16 * MIB  # pages come and go between the two


@pytest.mark.skipif(sys.platform != "linux" or not CLEAR.exists(), reason="only Linux lets a process forget its peak")
def test_a_run_is_not_charged_for_what_another_took_before_it() -> None:
    printed = subprocess.run([sys.executable, "-c", FORGET], capture_output=True, text=True, check=True).stdout
    with_it, without_it, forgotten = map(int, printed.split())
    assert min(with_it, without_it) > 200 * MIB
    assert forgotten < with_it - 150 * MIB
