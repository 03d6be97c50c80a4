"""Options name their code by text: it is there, it is ours, and no config can name another."""

import dataclasses
import inspect
import typing
from collections.abc import Callable

import pytest

from folio.config.data import CORPORA, DataConfig
from folio.config.objective import ObjectiveConfig, Objectives
from folio.config.optimizer import OptimizerConfig, Optimizers
from folio.config.schedule import ScheduleConfig, Schedules
from folio.config.section import Option
from folio.config.tokenizer import TOKENIZERS, TokenizerConfig
from folio.data.tokenizers.base import Tokenizer
from folio.objectives.objective import Objective

OPTIMIZERS: tuple[type[OptimizerConfig], ...] = typing.get_args(Optimizers)
SCHEDULES: tuple[type[ScheduleConfig], ...] = typing.get_args(Schedules)
OBJECTIVES: tuple[type[ObjectiveConfig], ...] = typing.get_args(Objectives)
TOKENIZER_SECTIONS = list(dict.fromkeys(TOKENIZERS.values()))
DATA_SECTIONS = list(dict.fromkeys(CORPORA.values()))


@pytest.mark.parametrize("option", [*OPTIMIZERS, *SCHEDULES, *OBJECTIVES, *TOKENIZER_SECTIONS, *DATA_SECTIONS])
def test_the_code_of_an_option_is_ours_and_is_there(option: type[Option]) -> None:
    assert option.code.startswith("folio.")
    code = option.load_code()
    assert f"{code.__module__}:{code.__qualname__}" == option.code


@pytest.mark.parametrize("option", OPTIMIZERS)
def test_an_optimizer_is_made_of_model_config_and_fused(option: type[OptimizerConfig]) -> None:
    parameters = inspect.signature(option.load_code(), eval_str=True).parameters
    assert list(parameters) == ["model", "config", "fused"]
    assert parameters["config"].annotation is option


@pytest.mark.parametrize("option", SCHEDULES)
def test_a_schedule_is_a_function_of_step_config_peak_max_steps_and_d_model(option: type[ScheduleConfig]) -> None:
    parameters = inspect.signature(option.load_code(), eval_str=True).parameters
    assert list(parameters) == ["step", "config", "peak", "max_steps", "d_model"]
    assert parameters["config"].annotation is option


@pytest.mark.parametrize("option", OBJECTIVES)
def test_an_objective_is_one(option: type[ObjectiveConfig]) -> None:
    assert issubclass(option.load_code(), Objective)


@pytest.mark.parametrize("option", TOKENIZER_SECTIONS)
def test_a_tokenizer_is_one(option: type[TokenizerConfig]) -> None:
    assert issubclass(option.load_code(), Tokenizer)


@pytest.mark.parametrize("option", DATA_SECTIONS)
def test_a_data_source_is_made_of_keys_of_its_section(option: type[DataConfig]) -> None:
    source_class = option.load_code()
    assert {field.name for field in dataclasses.fields(source_class)} <= option.model_fields.keys()
    assert all(hasattr(source_class, method) for method in ("prepare", "identity", "count_units"))


@pytest.mark.parametrize("group", ["optimizer", "schedule", "objective", "tokenizer", "data"])
def test_no_config_names_the_code(group: str, refuse: Callable[..., str]) -> None:
    assert f"{group}.code is not a key of the config" in refuse(f"+{group}.code=os:system")
