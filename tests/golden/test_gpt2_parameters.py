"""GPT-2's sizes have GPT-2's parameter counts."""

from collections.abc import Callable

import pytest
import torch

from folio.config.run import RunConfig
from folio.models import GPT

GPT2_VOCAB_SIZE = 50_257


# What `sum(p.numel() for p in model.parameters())` gives for Hugging Face's gpt2, -medium, -large and -xl.
@pytest.mark.parametrize(
    ("name", "n_parameters"),
    [
        ("gpt2_small", 124_439_808),
        ("gpt2_medium", 354_823_168),
        ("gpt2_large", 774_030_080),
        ("gpt2_xl", 1_557_611_200),
    ],
)
def test_the_shipped_sizes_have_the_published_parameter_counts(
    name: str, n_parameters: int, compose: Callable[..., RunConfig]
) -> None:
    with torch.device("meta"):
        model = GPT(compose(f"model={name}").transformer_config(GPT2_VOCAB_SIZE))
    assert model.n_parameters == n_parameters
