"""A plan is of a run that train.py would accept."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from folio.config.section import ConfigError

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
