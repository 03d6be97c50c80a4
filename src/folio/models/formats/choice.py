"""Choose the format that holds a model exactly. Imports no torch."""

from collections.abc import Iterable
from dataclasses import dataclass

from folio.models.formats.equivalents import Equivalent
from folio.models.formats.fields import FormatError, Problem, plain
from folio.models.formats.format import Format
from folio.models.formats.table import FORMATS
from folio.models.transformer_config import TransformerConfig


class NoFormatError(FormatError):
    """Raised for a model that no format holds; `problems` are the options in which it differs from the nearest."""

    def __init__(self, format_: Format, problems: list[Problem]) -> None:
        self.format, self.problems = format_, problems
        first = problems[0]
        super().__init__(
            f"{first.option}={plain(first.value)} fits no format; {format_.name}, which comes closest, has "
            + ", ".join(f"{problem.option}={plain(problem.needed)}" for problem in problems)
        )


@dataclass(frozen=True)
class FormatPlan:
    """How to write a model: its format, and the form that it has there."""

    format: Format
    config: TransformerConfig
    """The model as the format has it."""
    steps: tuple[Equivalent, ...]
    """The changes of the model's form, in this order; none if it has the format's already."""

    @property
    def descriptions(self) -> list[str]:
        """The changes in words."""
        return [step.description for step in self.steps]


def choose_format(config: TransformerConfig, formats: Iterable[Format] = tuple(FORMATS.values())) -> FormatPlan:
    """Return how to write a model; formats that hold it as it is come before those that hold an equal one.

    Raises: NoFormatError.
    """
    plans = [_plan(config, format_) for format_ in formats]
    plans.sort(key=lambda plan: (len(plan.format.problems(plan.config)), len(plan.steps)))
    best = plans[0]
    if problems := best.format.problems(best.config):
        # A value that follows from another option is no problem of its own.
        chosen = [problem for problem in problems if getattr(best.config, problem.option) is not None]
        raise NoFormatError(best.format, chosen or problems)
    return best


def _plan(config: TransformerConfig, format_: Format) -> FormatPlan:
    steps = []
    for step in format_.equivalents:
        if step.applies(config) and len(format_.problems(step.config(config))) < len(format_.problems(config)):
            config = step.config(config)
            steps.append(step)
    return FormatPlan(format_, config, tuple(steps))
