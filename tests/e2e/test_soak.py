"""Five minutes of what `make soak` does for an hour."""

import random
from pathlib import Path

import pytest
from faults import FAULTS
from soak import soak


@pytest.mark.slow
def test_nothing_is_lost_by_faults_at_random_moments(tmp_path: Path) -> None:
    report = soak(tmp_path, minutes=5, seed=random.randrange(1000))  # the report names the seed
    print(report.table())
    assert not report.failures
    assert report.bytes_lost == 0
    assert report.runs_equal == report.runs_compared > 0
    assert report.survived == report.tried
    assert report.tried.keys() <= FAULTS.keys()
    assert report.checkpoints_read > 0
