"""Processes that train together: their ranks, what each reads, and how they stop."""

from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose as compose_hydra
from hydra import initialize_config_dir

from folio.config.section import ConfigError
from folio.config.trainer import TrainerConfig
from folio.data.batches.batch import IGNORE_INDEX
from folio.data.batches.loaders import validation_loader
from folio.data.batches.order import WINDOW_ORDERS, TrainingBatches
from folio.data.batches.windows import TrainingWindows, ValidationWindows
from folio.distributed.context import DistributedContext
from folio.distributed.environment import SINGLE_RANK, RankInfo, check_processes, rank_from_environment
from folio.distributed.strategies import build_strategy
from folio.models import GPTConfig, build_model
from folio.models.blocks import Block
from folio.runs.requeue import remember_job, requeued_run
from folio.runtime import signals, slurm
from folio.runtime.signals import stop_signals
from folio.runtime.slurm import requeue_job
from folio.training.callbacks.stopping import StopOnSignal

TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
SRUN = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "5",
    "SLURM_NTASKS": "8",
    "SLURM_LOCALID": "1",
    "SLURM_NTASKS_PER_NODE": "4",
}
CONF = Path(__file__).parents[2] / "conf"
TOKENS = np.arange(1000, dtype=np.uint16)


def trainer(**changes: Any) -> TrainerConfig:
    values = {"accelerator": "cpu", "devices": 1, "precision": "32-true", "compile": False, "detect_anomaly": False}
    return TrainerConfig(**(values | changes))


def test_the_environment_gives_the_rank() -> None:
    assert rank_from_environment(TORCHRUN) == RankInfo(5, 8, 1, 4, "torchrun")
    assert rank_from_environment(SRUN) == RankInfo(5, 8, 1, 4, "srun")
    assert rank_from_environment({}) == SINGLE_RANK
    assert rank_from_environment(TORCHRUN | {"WORLD_SIZE": "1"}) == SINGLE_RANK


def test_a_slurm_batch_script_and_an_interactive_job_are_single_processes() -> None:
    script = {name: value for name, value in SRUN.items() if name != "SLURM_STEP_ID"}
    assert rank_from_environment(script) == SINGLE_RANK
    assert rank_from_environment(SRUN | {"SLURM_JOB_NAME": "interactive"}) == SINGLE_RANK


def test_slurm_tasks_that_could_not_find_their_devices_are_refused() -> None:
    environment = {name: value for name, value in SRUN.items() if name != "SLURM_NTASKS_PER_NODE"}
    with pytest.raises(ConfigError, match=r"8 tasks without --ntasks-per-node"):
        rank_from_environment(environment)


@pytest.mark.parametrize("wrong", [{"RANK": "8"}, {"LOCAL_RANK": "4"}, {"LOCAL_WORLD_SIZE": "0"}])
def test_a_rank_beyond_the_number_of_processes_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"RANK=\d WORLD_SIZE=8 .*leave these variables to torchrun"):
        rank_from_environment(TORCHRUN | wrong)


def test_the_number_of_started_processes_must_be_the_configs() -> None:
    rank_info = RankInfo(5, 8, 1, 4, "torchrun")
    check_processes(trainer(devices=4, num_nodes=2), rank_info)
    check_processes(trainer(devices=4), SINGLE_RANK)
    with pytest.raises(ConfigError, match=r"torchrun has started 8 .* add trainer.devices=4 trainer.num_nodes=2$"):
        check_processes(trainer(devices=8), rank_info)
    with pytest.raises(ConfigError, match=r"trainer.num_nodes=2: train.py .* torchrun --nnodes 2 --nproc-per-node 4"):
        check_processes(trainer(devices=4, num_nodes=2), SINGLE_RANK)


@pytest.mark.parametrize("order", WINDOW_ORDERS)
@pytest.mark.parametrize(("world_size", "micro_batch_size"), [(1, 2), (2, 4), (2, 1), (4, 2)])
def test_each_step_reads_the_same_windows_for_any_world_size_and_accumulation(
    order: str, world_size: int, micro_batch_size: int
) -> None:
    dataset = TrainingWindows(TOKENS, 8)

    def first_tokens(rank: int, size: int, at_once: int) -> list[list[int]]:
        """Return the first tokens of the windows of each step."""
        batches = TrainingBatches(order, len(dataset), 1, 8, at_once, 0, 5, rank, size)
        read = [dataset.batch(micro_batch).tokens[:, 0].tolist() for micro_batch in batches]
        per_step = 8 // (size * at_once)
        return [list(chain(*read[step * per_step : (step + 1) * per_step])) for step in range(5)]

    whole = first_tokens(0, 1, 8)
    shares = [first_tokens(rank, world_size, micro_batch_size) for rank in range(world_size)]
    assert [list(chain(*parts)) for parts in zip(*shares, strict=True)] == whole


@pytest.mark.parametrize("n_tokens", [9, 65, 200, 1000])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_validation_counts_each_target_once_and_every_process_has_as_many_batches(
    n_tokens: int, world_size: int
) -> None:
    windows = ValidationWindows(TOKENS[:n_tokens], 8)
    loaders = [validation_loader(windows, 3, rank, world_size) for rank in range(world_size)]
    batches = [list(loader) for loader in loaders]
    assert len({len(each) for each in batches}) == 1
    assert [len(each) for each in batches] == [len(loader) for loader in loaders]
    targets = torch.cat([batch.targets.flatten() for each in batches for batch in each])
    assert sorted(targets[targets != IGNORE_INDEX].tolist()) == list(range(1, n_tokens))


def test_a_single_process_communicates_nothing() -> None:
    distributed, values = DistributedContext(), torch.tensor([1.0, 2.0])
    assert distributed.all_reduce_sum(values) is values
    assert (distributed.rank, distributed.world_size, distributed.is_global_zero) == (0, 1, True)
    assert distributed.all_reduce_max(3) == 3
    assert distributed.all_gather("own") == ["own"]
    assert distributed.broadcast(lambda: "own") == "own"


def test_activation_checkpointing_changes_no_bit() -> None:
    shape = GPTConfig(vocab_size=65, n_layers=2, n_heads=2, d_model=16, context_length=8, dropout=0.1)
    torch.manual_seed(0)
    model = build_model(shape)
    tokens = torch.randint(0, 65, (4, 8))

    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        torch.manual_seed(1)
        model(tokens).square().mean().backward()
        return [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]

    plain = gradients()
    for module in model.modules():
        if isinstance(module, Block):
            module.activation_checkpointing = True
    assert all(torch.equal(a, b) for a, b in zip(plain, gradients(), strict=True))


def test_the_strategy_is_auto_for_one_device_then_ddp_or_fsdp() -> None:
    alone, two = DistributedContext(), DistributedContext(RankInfo(0, 2, 0, 2, "torchrun"))
    assert build_strategy(trainer(), alone) == "auto"
    assert type(build_strategy(trainer(devices=2), two)).__name__ == "DDPStrategy"
    assert type(build_strategy(trainer(strategy="fsdp", accelerator="gpu"), two)).__name__ == "ShardedStrategy"


@pytest.mark.parametrize("where", ["slurm", "local"])
def test_submitit_can_launch_a_sweep(where: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        words = [f"hydra/launcher=submitit_{where}", "hydra.launcher.gpus_per_node=8"]
        launcher = compose_hydra("train", words, return_hydra_config=True).hydra.launcher
    assert launcher._target_.endswith(f"{where.capitalize()}Launcher")
    assert launcher.gpus_per_node == 8


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "123")
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    monkeypatch.delenv("SUBMITIT_EXECUTOR", raising=False)


@pytest.mark.usefixtures("job")
def test_a_job_that_slurm_restarts_finds_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "outputs" / "run"
    run.mkdir(parents=True)
    remember_job(tmp_path / "outputs", run)
    assert requeued_run(tmp_path / "outputs") is None, "the first start"
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert requeued_run(tmp_path / "outputs") is None, "nothing was saved"
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "last.ckpt").touch()
    assert requeued_run(tmp_path / "outputs") == run
    monkeypatch.setenv("SLURM_JOB_ID", "124")
    assert requeued_run(tmp_path / "outputs") is None, "another job"


def test_without_a_scheduler_no_job_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    remember_job(tmp_path, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("job")
def test_a_warned_job_is_requeued_once_and_a_stopped_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(signals.SCHEDULER_WARNINGS) < set(stop_signals())
    asked: list[Any] = []
    done = SimpleNamespace(returncode=0, stderr="")
    monkeypatch.setattr(slurm.subprocess, "run", lambda command, **_: asked.append(command) or done)
    requeue_job(signals.signal.SIGTERM, None)
    requeue_job(signals.signal.SIGUSR1, None, is_global_zero=False)
    assert asked == []
    requeue_job(signals.signal.SIGUSR1, None)
    assert asked == [["scontrol", "requeue", "123"]]
    requeue_job(signals.signal.SIGUSR2, lambda *heard: asked.append(heard))
    assert asked[1:] == [(signals.signal.SIGUSR2, None)], "submitit's own handler requeues"


def test_a_process_of_the_launcher_stops_on_request(tmp_path: Path) -> None:
    saved: list[int] = []
    checkpoints: Any = SimpleNamespace(save_last=lambda trainer: saved.append(3))
    training: Any = SimpleNamespace(is_validation_step=lambda step: False)
    asked = [0]
    stop = StopOnSignal(checkpoints, training, DistributedContext(), lambda: asked[0])
    lightning: Any = SimpleNamespace(global_step=3, accumulate_grad_batches=1, should_stop=False)
    module: Any = None
    with stop:
        stop.on_train_batch_end(lightning, module, None, None, 2)
        asked[0] = signals.signal.SIGTERM
        with pytest.raises(signals.Interrupted) as stopped:
            stop.on_train_batch_end(lightning, module, None, None, 2)
    assert stopped.value.exit_code == 143
    assert saved == [3]
