"""The part of a run's state that differs between its processes, and how a run resumes with more or fewer of them."""

import random
from typing import Any

import numpy as np
import torch

from folio.config.run import RunConfig
from folio.distributed.context import DistributedContext
from folio.training.running_means import RunningMeans


class RankState:
    """The random generators of this process, and its means since the last log line.

    A checkpoint holds them for every process. A resumed run with as many processes continues with the same bits.
    Otherwise each process takes the generators of its rank, or a new seed if there are none; and all take the average
    of the means.
    """

    def __init__(self, config: RunConfig, distributed: DistributedContext, train_means: RunningMeans) -> None:
        self.config = config
        self.distributed = distributed
        self.train_means = train_means
        self._saved_rng: dict[str, Any] | None = None
        self._n_saved_ranks = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the state of all processes, which must all call it at the same point."""
        own = {"rng": self._rng_state(), "train_means": self.train_means.state_dict()}
        if self.distributed.world_size == 1:
            return own
        ranks = self.distributed.all_gather(own)
        return {**ranks[0], "train_means": average_means([rank["train_means"] for rank in ranks]), "ranks": ranks}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Load the state of this process from `saved`, which also holds the plain config of the saved run."""
        ranks = saved.get("ranks") or [{"rng": saved["rng"], "train_means": saved["train_means"]}]
        self._n_saved_ranks, rank = len(ranks), self.distributed.rank
        self._saved_rng = ranks[rank]["rng"] if rank < len(ranks) else None
        before, now = accumulation_of(saved["config"]), self.config.accumulate_grad_batches
        if len(ranks) == self.distributed.world_size and before == now:
            self.train_means.load_state_dict(ranks[rank]["train_means"])
            return
        means = saved["train_means"]
        if means["sums"] is not None:  # per micro-batch, of which a step now has another number
            means = {"sums": means["sums"] * (now / before), "count": means["count"] * now // before}
        self.train_means.load_state_dict(means)

    def restore_rng(self, step: int) -> None:
        """Set the random generators of this process. Call it after everything at the start that draws from them."""
        rank = self.distributed.rank
        if self._saved_rng is not None:
            set_rng_state(self._saved_rng, one_gpu=self.distributed.world_size > 1)
        elif rank > 0 and rank >= self._n_saved_ranks:
            # All processes started with one seed, for equal weights; but each needs its own dropout.
            torch.manual_seed(seed_for_rank(self.config.seed, rank, step))

    def _rng_state(self) -> dict[str, Any]:
        return get_rng_state(one_gpu=self.distributed.world_size > 1)


def average_means(states: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the average of the `RunningMeans` of all processes, which have counted equally many micro-batches."""
    sums = [state["sums"] for state in states]
    mean = None if sums[0] is None else torch.stack([part.cpu() for part in sums]).mean(dim=0)
    return {"sums": mean, "count": states[0]["count"]}


def seed_for_rank(seed: int, rank: int, step: int) -> int:
    """Return the seed for the generators of a process for which a checkpoint holds none."""
    return int(np.random.SeedSequence((seed, rank, step)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def accumulation_of(config: dict[str, Any]) -> int:
    """Return the number of micro-batches per optimizer step on a device, from the plain config in a checkpoint."""
    training, trainer = config["training"], config["trainer"]
    batch_size = training["batch_size"] // (trainer["devices"] * trainer.get("num_nodes", 1))  # of a device
    return batch_size // (training["micro_batch_size"] or batch_size)


def adapt_micro_batch_counts(checkpoint: dict[str, Any], saved_accumulation: int, accumulation: int) -> None:
    """Set Lightning's counts of micro-batches, which decide when it validates, to what they are with `accumulation`."""
    difference = checkpoint["global_step"] * (accumulation - saved_accumulation)
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    for counts in (progress["total"], progress["current"]):
        for name in counts:
            counts[name] += difference


def get_rng_state(one_gpu: bool = False) -> dict[str, Any]:
    """Return the states of all generators that training uses, as plain data; of the current GPU or of all GPUs."""
    version, words, gauss = random.getstate()
    cuda: list[torch.Tensor] = []
    if torch.cuda.is_available():
        cuda = [torch.cuda.get_rng_state()] if one_gpu else torch.cuda.get_rng_state_all()
    return {"python": [version, list(words), gauss], "torch_cpu": torch.get_rng_state(), "torch_cuda": cuda}


def set_rng_state(state: dict[str, Any], one_gpu: bool = False) -> None:
    """Restore what `get_rng_state` returned. GPU states are ignored if the number of GPUs has changed."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    torch.set_rng_state(state["torch_cpu"].cpu())
    if one_gpu and state["torch_cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["torch_cuda"][0].cpu())
    elif state["torch_cuda"] and len(state["torch_cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([part.cpu() for part in state["torch_cuda"]])
