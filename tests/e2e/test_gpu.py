"""What holds on the CPU holds on an NVIDIA GPU. `pytest -m gpu --rehearse` runs these tests on the CPU instead.

Without a GPU and without --rehearse they are skipped: tests/conftest.py.
"""

import signal
from collections.abc import Callable

import pytest
import torch
from test_many_processes import RECIPE, assert_same_experiment
from test_resume import LONG, assert_same_end, train_until_signal
from workspace import Workspace, choose

pytestmark = pytest.mark.gpu

EXACT = "trainer.precision=32-true"


@pytest.fixture(scope="session")
def device(rehearse: bool) -> str:
    """The device of these tests, as an option of train.py's `trainer` and of the scripts' `--device`."""
    return "cpu" if rehearse else "gpu"


@pytest.fixture(scope="session")
def sharded(rehearse: bool) -> str:
    """The option of `trainer` that shards weights over the devices."""
    return "fsdp_cpu" if rehearse else "fsdp"


@pytest.fixture(scope="session")
def fast(rehearse: bool) -> tuple[str, ...]:
    """Mixed precision and compiled blocks. A CPU takes a minute to compile them, so a rehearsal does not."""
    return ("trainer.precision=mixed", *(() if rehearse else ("trainer.compile=true",)))


def test_a_gpu_gives_the_same_results_as_the_cpu_and_each_continues_the_others_run(
    device: str, make_workspace: Callable[[], Workspace]
) -> None:
    workspace, elsewhere = make_workspace(), make_workspace()
    run, on_cpu = workspace.train(*RECIPE, f"trainer={device}", EXACT), elsewhere.train(*RECIPE, "trainer=cpu")
    assert_same_experiment(run, on_cpu)
    evaluated = [workspace.must("scripts/evaluate.py", "latest", "--device", name) for name in (device, "cpu")]
    assert evaluated[0].splitlines()[-1] == evaluated[1].splitlines()[-1]
    workspace.must("train.py", "resume=latest", "trainer=cpu", "training.max_steps=36")
    elsewhere.must("train.py", "resume=latest", f"trainer={device}", EXACT, "training.max_steps=36")
    assert_same_experiment(run, on_cpu)


def test_mixed_precision_and_compiled_blocks_learn_as_much(
    device: str, fast: tuple[str, ...], make_workspace: Callable[[], Workspace]
) -> None:
    workspace = make_workspace()
    run = workspace.train(*RECIPE, f"trainer={device}", *fast)
    plain = make_workspace().train(*RECIPE, f"trainer={device}", EXACT)
    assert run.metrics["val/loss_nats"] == pytest.approx(plain.metrics["val/loss_nats"], abs=0.02)
    sample = ("--prompt", "ROMEO:", "--greedy", "--max-new-tokens", "20", "--device")
    texts = [workspace.must("scripts/generate.py", "latest", *sample, name) for name in (device, "cpu")]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("precision", ["fp32", "mixed"])
def test_a_killed_run_ends_in_the_same_bits_in_deterministic_mode(
    precision: str, device: str, fast: tuple[str, ...], make_workspace: Callable[[], Workspace]
) -> None:
    how = fast if precision == "mixed" else (EXACT,)
    recipe = choose(LONG, f"trainer={device}", *how, "deterministic=true", "logger=csv", "training.max_steps=120")
    workspace = make_workspace()
    code, output, run = train_until_signal(workspace, signal.SIGKILL, *recipe)
    assert code == -signal.SIGKILL, output
    workspace.must("train.py", "resume=latest")
    assert_same_end(run, make_workspace().train(*recipe), "csv")


def test_sharding_on_one_device_gives_the_same_results(
    device: str, sharded: str, make_workspace: Callable[[], Workspace]
) -> None:
    plain, shard = (
        make_workspace().train(*RECIPE, f"trainer={name}", "trainer.devices=1", EXACT) for name in (device, sharded)
    )
    assert_same_experiment(shard, plain)


def test_two_devices_give_the_same_results_as_one(
    rehearse: bool, device: str, sharded: str, make_workspace: Callable[[], Workspace]
) -> None:
    if not rehearse and torch.cuda.device_count() < 2:
        pytest.skip("needs two NVIDIA GPUs")
    one = make_workspace().train(*RECIPE, f"trainer={device}", EXACT)
    for trainer in ("ddp_cpu" if rehearse else "ddp", sharded):
        workspace = make_workspace()
        two = workspace.train(*RECIPE, f"trainer={trainer}", "trainer.devices=2", EXACT)
        assert_same_experiment(two, one)
    workspace.must("train.py", "resume=latest", f"trainer={device}", EXACT, "training.max_steps=30")
    assert two.metrics["step"] == 30
