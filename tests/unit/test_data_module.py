"""The data module gives batches with and without a trainer."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from folio.config.run import RunConfig
from folio.config.tokenizer import choose_tokenizer
from folio.data.corpora.single_text import TextFile
from folio.objectives.objective import build_objective
from folio.training.data_module import TokenDataModule

OBJECTIVES = {
    "causal_lm": ["model=debug"],
    "masked_lm": ["model=encoder_small", "objective=masked_lm"],
    "prefix_lm": ["model=encoder_decoder_small", "objective=prefix_lm"],
}


@pytest.fixture(params=OBJECTIVES)
def module(request: pytest.FixtureRequest, compose: Callable[..., RunConfig], tmp_path: Path) -> TokenDataModule:
    text = tmp_path / "text.txt"
    text.write_text("To be, or not to be, that is the question:\n" * 40)
    data = TextFile(str(text)).prepare(choose_tokenizer("char"), tmp_path / "data", log=lambda line: None)
    config = compose(*OBJECTIVES[request.param], "tokenizer=char", "training.max_steps=3")
    objective = build_objective(config, data)
    return TokenDataModule(objective, objective.validation(data.val))


def test_without_a_trainer_training_starts_at_the_first_step(module: TokenDataModule) -> None:
    batches, again = list(module.train_dataloader()), list(module.train_dataloader())
    config = module.objective.config
    assert sum(len(batch.tokens) for batch in batches) == 3 * config.training.batch_size
    assert all(torch.equal(one.tokens, other.tokens) for one, other in zip(batches, again, strict=True))
    for loader in module.val_dataloader():
        assert next(iter(loader)).tokens.dtype == torch.int64


def test_a_trainer_decides_at_which_step_training_starts(module: TokenDataModule) -> None:
    batches = list(module.train_dataloader())
    module.trainer = SimpleNamespace(global_step=2)
    (resumed,) = [batch.tokens for batch in module.train_dataloader()][:1]
    per_step = len(batches) // 3
    assert torch.equal(resumed, batches[2 * per_step].tokens)
