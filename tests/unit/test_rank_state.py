"""A run resumes with the generators and means of each process, and with another number of processes."""

import random
from collections.abc import Callable

import pytest
import torch

from folio.config.run import RunConfig
from folio.distributed.context import SINGLE_PROCESS
from folio.training.rank_state import (
    RankState,
    accumulation_of,
    adapt_micro_batch_counts,
    average_means,
    get_rng_state,
    seed_for_rank,
    set_rng_state,
)
from folio.training.running_means import RunningMeans

Compose = Callable[..., RunConfig]


def draws() -> list[float]:
    return [torch.rand(()).item(), random.random(), random.gauss(0.0, 1.0)]


def test_restored_generators_continue_with_the_same_numbers() -> None:
    torch.manual_seed(5)
    random.seed(5)
    draws()  # an odd number of Gaussian draws keeps one back, which belongs to the state
    state = get_rng_state()
    expected = draws()
    draws()
    set_rng_state(state)
    assert draws() == expected


def test_a_process_without_saved_generators_gets_a_seed_of_its_own() -> None:
    seeds = {seed_for_rank(seed, rank, step) for seed in (1, 2) for rank in (1, 2, 3) for step in (0, 10)}
    assert len(seeds) == 12
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seed_for_rank(1, 2, 3) == seed_for_rank(1, 2, 3)


@pytest.mark.parametrize("logged", [True, False])
def test_another_accumulation_keeps_the_mean_loss_of_the_steps_so_far(logged: bool, compose: Compose) -> None:
    words = ("model=debug", "training.batch_size=8")
    before, after = RunningMeans(), RunningMeans()
    config = compose(*words, "training.micro_batch_size=4")
    if not logged:
        for loss in (1.0, 3.0):  # one step
            before.update(torch.tensor(loss), torch.tensor(0.5))
    saved = RankState(config, SINGLE_PROCESS, before).state_dict() | {"config": config.model_dump()}
    RankState(compose(*words, "training.micro_batch_size=2"), SINGLE_PROCESS, after).load_state_dict(saved)
    if not logged:
        assert after.state_dict()["count"] == 4
    assert after.compute_and_reset() == (None if logged else (2.0, 0.5))


def test_counts_of_micro_batches_follow_another_accumulation() -> None:
    counts = {"ready": 50, "started": 50, "processed": 50, "completed": 49}
    loops = {"fit_loop": {"epoch_loop.batch_progress": {"total": dict(counts), "current": dict(counts)}}}
    adapt_micro_batch_counts({"global_step": 25, "loops": loops}, saved_accumulation=2, accumulation=4)
    moved = {"ready": 100, "started": 100, "processed": 100, "completed": 99}
    assert loops["fit_loop"]["epoch_loop.batch_progress"] == {"total": moved, "current": moved}


def test_the_accumulation_of_a_checkpoint_is_in_its_config(compose: Compose) -> None:
    words = ("training.batch_size=16", "training.micro_batch_size=2")
    for trainer_words, expected in (((), 8), (("trainer=ddp_cpu",), 4)):
        config = compose(*words, *trainer_words)
        assert accumulation_of(config.model_dump()) == config.accumulate_grad_batches == expected
    older = compose(*words).model_dump()
    del older["trainer"]["num_nodes"]
    assert accumulation_of(older) == 8


def test_means_of_all_processes_are_averaged() -> None:
    states = [{"sums": torch.tensor([loss, 0.5]), "count": 3} for loss in (1.0, 3.0)]
    mean = average_means(states)
    assert mean["count"] == 3
    assert mean["sums"].tolist() == [2.0, 0.5]
    assert average_means([{"sums": None, "count": 0}] * 2) == {"sums": None, "count": 0}
