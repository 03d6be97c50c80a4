"""TensorBoard's runs are named after the folders of Folio's runs."""

import warnings
from typing import Any

import pytest
from tensorboard.data.provider import DataProvider, Run, RunTagFilter

from folio.runtime.errors import FolioError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of TensorBoard's copies of older packages
    from folio.report.board import RenamedRuns, run_board


class Provider(DataProvider):  # type: ignore[misc]
    """Has one scalar in each of its runs."""

    def __init__(self, *runs: str) -> None:
        self.runs = runs

    def list_runs(self, ctx: Any = None, *, experiment_id: str) -> list[Run]:
        return [Run(run, run, 0.0) for run in self.runs]

    def list_scalars(self, ctx: Any = None, *, run_tag_filter: RunTagFilter | None = None, **_: Any) -> Any:
        wanted = None if run_tag_filter is None else run_tag_filter.runs
        return {run: {"loss": run} for run in self.runs if wanted is None or run in wanted}

    read_scalars = read_last_scalars = list_scalars


@pytest.mark.parametrize(
    ("runs", "names"),
    [
        (
            ("day/12-00-00-nano/tensorboard", "multirun/day/t/seed=1/tensorboard"),
            ("day/12-00-00-nano", "multirun/day/t/seed=1"),
        ),
        (("tensorboard",), ("12-00-00-nano",)),  # --logdir is the run
        (("day/x", "day/x/tensorboard"), ("day/x", "day/x/tensorboard")),  # another program's files above ours
        ((".", "other"), (".", "other")),
    ],
)
def test_a_run_is_named_after_its_folder_and_found_by_this_name(runs: tuple[str, ...], names: tuple[str, ...]) -> None:
    provider = RenamedRuns(Provider(*runs), "outputs/day/12-00-00-nano")
    assert [run.run_name for run in provider.list_runs(experiment_id="")] == list(names)
    for original, name in zip(runs, names, strict=True):
        only = RunTagFilter(runs=[name])
        for method in (provider.list_scalars, provider.read_scalars, provider.read_last_scalars):
            assert method(run_tag_filter=only) == {name: {"loss": original}}
    assert set(provider.list_scalars()) == set(names)


def test_a_wrong_option_is_answered_in_one_line() -> None:
    with pytest.raises(FolioError, match=r"unrecognized arguments: --prot=1; scripts/board.py --helpfull"):
        run_board(["--prot=1"])
