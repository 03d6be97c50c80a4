"""Debugging modes shorten any recipe, and a profiler never ends a run."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning.pytorch.profilers import Profiler, SimpleProfiler

from folio.cli.config_files import option_names
from folio.config.run import RunConfig
from folio.config.section import ConfigError
from folio.data.batches.order import TrainingBatches
from folio.runtime.commands import CHECKOUT
from folio.training.profiling import RunProfiler

CONF = CHECKOUT / "conf"
MODES = option_names(CONF, "debug")
RECIPES = [name for name in option_names(CONF, "experiment") if name != "finetune_gpt2"]  # which needs init_from


@pytest.mark.parametrize(("recipe", "mode"), list(zip(RECIPES, itertools.cycle(MODES), strict=False)))
def test_every_recipe_can_be_debugged(recipe: str, mode: str, load: Callable[..., RunConfig]) -> None:
    config = load(f"experiment={recipe}", f"debug={mode}")
    assert config.debug is not None
    assert config.debug.name == mode
    assert config.training.max_steps <= 200
    assert config.paths.output_dir == "outputs/debug"


def test_typed_words_win_over_a_mode(load: Callable[..., RunConfig]) -> None:
    config = load("debug=limit", "training.max_steps=50", "debug.val_batches=2", "paths.output_dir=elsewhere")
    assert config.debug is not None
    assert (config.training.max_steps, config.debug.val_batches) == (50, 2)
    assert config.paths.output_dir == "elsewhere"


def test_a_batch_is_overfitted_at_the_highest_rate_of_the_recipe(load: Callable[..., RunConfig]) -> None:
    noam = ("schedule=noam", "schedule.warmup_steps=4000", "schedule.scale=1", "model.d_model=256")
    config = load("debug=overfit", "experiment=quickstart", "model.dropout=0.1")
    assert (config.schedule.name, config.schedule.warmup_steps) == ("constant", 20)
    assert config.model.dropout == 0.1  # typed
    assert load("debug=overfit", "experiment=quickstart").model.dropout == 0.0
    typed = load("debug=overfit", *noam)
    assert (typed.schedule.name, typed.schedule.warmup_steps) == ("noam", 4000)
    recipe = load("debug=overfit", "experiment=composer_gpt")
    assert recipe.schedule.name == "constant"


def test_a_mode_has_to_be_chosen_for_its_keys(load: Callable[..., RunConfig]) -> None:
    with pytest.raises(ConfigError, match=r"debug\.name is missing|belongs to a debugging mode"):
        load("+debug.val_batches=2")


def test_one_batch_is_that_of_the_first_step() -> None:
    def batches(one_batch: bool) -> list[tuple[int, list[int]]]:
        drawn = TrainingBatches("random", 1000, 1, 4, 2, first_step=0, n_steps=3, one_batch=one_batch)
        return [(micro.step, micro.indices.tolist()) for micro in drawn]

    assert batches(one_batch=True) == 3 * batches(one_batch=False)[:2]


class BrokenProfiler(SimpleProfiler):
    def stop(self, action_name: str) -> None:
        raise OSError(28, "No space left on device")


def test_a_profiler_that_fails_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for inner in (BrokenProfiler(tmp_path, "simple"), SimpleProfiler("/dev/null/profile", "simple")):
        profiler: Profiler = RunProfiler(inner, rank=None)
        profiler._lightning_module = torch.nn.Linear(1, 1)  # type: ignore[attr-defined]
        profiler.setup("fit")
        with profiler.profile("step"):
            pass
        profiler.describe()
        profiler.teardown("fit")
    warned = [record.getMessage() for record in caplog.records]
    assert [line.partition(":")[2][:27] for line in warned] == 2 * [" no more from the profiler:"]


def test_a_report_is_written_once(tmp_path: Path) -> None:
    profiler = RunProfiler(SimpleProfiler(tmp_path, "simple"), rank=1)
    profiler._lightning_module = None  # type: ignore[attr-defined]
    profiler.setup("fit")
    with profiler.profile("step"):
        pass
    profiler.describe()
    profiler.describe()
    assert (tmp_path / "fit-simple-1.txt").read_text().count("Profiler Report") == 1
