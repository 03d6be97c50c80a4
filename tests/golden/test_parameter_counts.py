"""The shipped sizes of published models have their numbers of parameters."""

from collections.abc import Callable

import pytest
import torch

from folio.config.run import RunConfig
from folio.models import GPT

# Of Hugging Face's models, what sum(p.numel() for p in model.parameters()) gives: in all, and without embeddings of
# tokens and positions. Tied weights count once.
GPT2_VOCAB_SIZE, GPT2_POSITIONS = 50_257, 1024
PUBLISHED = {
    "gpt2_small": (GPT2_VOCAB_SIZE, 124_439_808, 124_439_808 - (GPT2_VOCAB_SIZE + GPT2_POSITIONS) * 768),
    "gpt2_medium": (GPT2_VOCAB_SIZE, 354_823_168, 354_823_168 - (GPT2_VOCAB_SIZE + GPT2_POSITIONS) * 1024),
    "gpt2_large": (GPT2_VOCAB_SIZE, 774_030_080, 774_030_080 - (GPT2_VOCAB_SIZE + GPT2_POSITIONS) * 1280),
    "gpt2_xl": (GPT2_VOCAB_SIZE, 1_557_611_200, 1_557_611_200 - (GPT2_VOCAB_SIZE + GPT2_POSITIONS) * 1600),
    "llama_135m": (49_152, 134_515_008, 106_203_456),  # SmolLM2-135M
    "llama_1b": (128_256, 1_235_814_400, 973_146_112),  # Llama 3.2 1B
    "qwen3_600m": (151_936, 596_049_920, 440_467_456),  # Qwen3-0.6B
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_shipped_sizes_have_the_published_parameter_counts(name: str, compose: Callable[..., RunConfig]) -> None:
    vocab_size, n_parameters, n_without_embeddings = PUBLISHED[name]
    with torch.device("meta"):
        model = GPT(compose(f"model={name}").transformer_config(vocab_size))
    assert (model.n_parameters, model.n_parameters_without_embeddings) == (n_parameters, n_without_embeddings)
