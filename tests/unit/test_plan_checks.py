"""A plan is of a run that train.py would accept."""

import importlib.util
import shlex
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from tiny_models import CPU

from folio.config.run import RunConfig
from folio.config.section import ConfigError
from folio.optim.muon import MuonWithAdamW
from folio.training import measured_step

SCRIPT = Path(__file__).parents[2] / "scripts" / "plan.py"


@pytest.fixture(scope="module")
def plan() -> ModuleType:
    spec = importlib.util.spec_from_file_location("plan", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "overrides",
    [
        ("model.n_heads=3",),
        ("model=encoder_small",),
        ("positional_encoding.name=spiral",),
        ("schedule.warmup_steps=99999",),
        ("training.micro_batch_size=3",),
        ("trainer=ddp", "trainer.devices=3"),
        ("trainer=fsdp", "trainer.precision=16-mixed"),
        ("data.path=x",),
        ("data=text_file",),
        ("init_from=nowhere",),
        ("sweep=latest",),
        ("optimizer.learning_rate=x",),
    ],
)
def test_a_plan_refuses_what_train_py_refuses(
    overrides: tuple[str, ...], plan: ModuleType, refuse: Callable[..., str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        plan.planned_config(list(overrides))
    assert str(caught.value) == refuse(*overrides)


def test_a_plan_refuses_a_vocabulary_that_is_not_the_tokenizers_and_a_run_that_exists(plan: ModuleType) -> None:
    for word, message in (("model.vocab_size=65", "does not match tokenizer=gpt2"), ("resume=x", "a new run")):
        with pytest.raises(ConfigError, match=f"^{word}.*{message}"):
            plan.planned_config([word])


@pytest.mark.parametrize("word", ["devices=0.5", "devices=1e-3", "devices_per_node=1.5", "tokens=0.5"])
def test_a_number_of_things_is_an_integer(word: str, plan: ModuleType) -> None:
    with pytest.raises(ConfigError, match=f"^{word}: .* must be an integer"):
        plan.parse_options([word])
    with pytest.raises(ConfigError, match="must be above 0"):
        plan.parse_options(["devices=0"])


LADDER = ("experiment=size_ladder", "model.vocab_size=65")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("minutes=5",), "minutes=5: the runs of this checkout to go by are those of experiment=size_ladder; add it"),
        (("law=points.csv",), "law=points.csv is for a budget; add minutes=5"),
        ((*LADDER, "minutes=5", "law=nowhere.csv"), "law=nowhere.csv cannot be read"),
        ((*LADDER, "minutes=5", "trainer=ddp_cpu"), "a step is measured on one; use trainer.devices=1"),
        (("experiment=size_ladder", "minutes=5"), "add model.vocab_size"),
        (("minutes=-5",), "minutes=-5: minutes must be above 0"),
        ((*LADDER, "minutes=5", "model=encoder_small", "objective=masked_lm", "law=x"), "objective=causal_lm alone"),
    ],
)
def test_a_budget_in_minutes_is_refused_in_one_line_if_it_makes_no_sense(
    words: tuple[str, ...], message: str, plan: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        plan.main(list(words))
    assert stopped.value.code == 2
    line = capsys.readouterr().err
    assert message in line
    assert line.count("\n") == 1


def test_a_budget_in_minutes_gives_a_size_with_an_interval_and_the_command_that_trains_it(
    plan: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {32: 0.01, 256: 0.2}
    monkeypatch.setattr(measured_step, "measure_step", lambda config, model, device: seconds.get(model.d_model, 0.05))
    plan.main([*LADDER, "minutes=2"])
    output = capsys.readouterr().out
    (suggested,) = [line for line in output.splitlines() if line.endswith("<- suggested")]
    d_model, n_layers, _, steps = (int(word.replace(",", "")) for word in suggested.split()[:4])
    assert steps == int(120 / seconds.get(d_model, 0.05))
    loss, interval = suggested.removesuffix("<- suggested").rsplit(", ", 1)
    low, high = map(float, interval.split(" to "))
    assert low < float(loss.split()[-1]) < high
    assert "of the laws that fit resampled runs choose d_model" in output
    words = shlex.split(output.splitlines()[-1].removeprefix("train it"))
    assert words[-5:-3] == list(LADDER)
    assert words[-3:] == [f"model.d_model={d_model}", f"model.n_layers={n_layers}", f"training.max_steps={steps}"]


def test_a_measured_step_is_an_optimizer_step_of_the_config(
    compose: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    updates: list[int] = []
    config = compose("model=debug", "training.batch_size=4", "training.micro_batch_size=2", "optimizer=muon")
    losses: list[int] = []
    monkeypatch.setattr(MuonWithAdamW, "step", lambda self: updates.append(1))
    whole_loss = measured_step.batch_loss
    monkeypatch.setattr(measured_step, "batch_loss", lambda *args: losses.append(1) or whole_loss(*args))
    assert measured_step.measure_step(config, config.transformer_config(vocab_size=65), CPU) > 0.0
    assert len(updates) == measured_step.N_WARMUP + measured_step.N_STEPS
    assert len(losses) == 2 * len(updates)
