"""The table before a run says what the run will do."""

from collections.abc import Callable

import pytest

from folio.config.run import RunConfig
from folio.training.summary import describe_optimizer

NOAM = ("optimizer=adam", "schedule=noam", "model.d_model=128", "model.n_heads=4")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("optimizer=sgd", "schedule=constant"), "sgd, learning rate 0.3, schedule constant"),
        (("optimizer=muon", "optimizer.learning_rate=2e-3"), "muon, learning rate 0.002, schedule cosine"),
        (
            (*NOAM, "training.max_steps=100000"),
            "adam, schedule noam, highest learning rate 0.0014 at step 4000; optimizer.learning_rate is not used",
        ),
        (  # 10 x 128^-0.5 x 1000 x 4000^-1.5
            (*NOAM, "training.max_steps=1000", "schedule.scale=10"),
            "adam, schedule noam, highest learning rate 0.00349 at step 1000; optimizer.learning_rate is not used",
        ),
    ],
)
def test_the_optimizer_is_told_with_the_rate_that_it_will_reach(
    overrides: tuple[str, ...], words: str, compose: Callable[..., RunConfig]
) -> None:
    assert describe_optimizer(compose(*overrides)) == words
