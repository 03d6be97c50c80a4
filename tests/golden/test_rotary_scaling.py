"""Scaled rotary positions are those of transformers, for any settings."""

import random
from types import ModuleType
from typing import Any

import pytest
import torch

from folio.models import GPTConfig
from folio.models.positional import RotaryPositions
from folio.models.rotary_scaling import OWN_KEYS, RotaryScaling


def random_scaling(name: str, chance: random.Random) -> RotaryScaling:
    keys: dict[str, Any] = {
        "factor": chance.choice([1.0, 2.0, 8.0, 32.0, 40.5]),
        "original_context_length": chance.choice([16, 128, 2048, 8192]),
    }
    if name == "llama3" and chance.random() < 0.5:
        keys |= {"low_freq_factor": 2.0, "high_freq_factor": 9.0}
    if name == "yarn" and chance.random() < 0.5:
        keys |= {"beta_slow": 2.0, "beta_fast": 16.0}
    if name == "yarn" and chance.random() < 0.5:
        keys["attention_factor"] = 1.25
    return RotaryScaling(name=name, **keys)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["llama3", "yarn"])
def test_angles_and_amplitudes_are_theirs(name: str, transformers: ModuleType) -> None:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    for seed in range(60):
        chance = random.Random(seed)
        scaling, d_head = random_scaling(name, chance), chance.choice([8, 32, 64, 128])
        base = chance.choice([500.0, 10_000.0, 500_000.0, 1e6])
        ours = RotaryPositions(
            GPTConfig(
                vocab_size=1,
                context_length=8,
                n_layers=1,
                n_heads=1,
                d_model=d_head,
                positional_encoding="rotary",
                positional_base=base,
                rotary_scaling=scaling,
                rotary_fraction=chance.choice([0.5, 1.0]),
            )
        )
        own = {key: getattr(scaling, key) for key, owner in OWN_KEYS.items() if owner == name}
        theirs = transformers.LlamaConfig(
            hidden_size=d_head,
            num_attention_heads=1,
            rope_parameters={
                "rope_type": name,
                "rope_theta": base,
                "factor": scaling.factor,
                "original_max_position_embeddings": scaling.original_context_length,
                "partial_rotary_factor": ours.width / d_head,
                **own,
            },
        )
        frequencies, amplitude = ROPE_INIT_FUNCTIONS[name](theirs, torch.device("cpu"))
        angles = torch.tensor([0.0, 1.0, 5.0]).outer(frequencies)
        cos, sin = ours.rotation(torch.tensor([0, 1, 5]))
        torch.testing.assert_close(cos, angles.cos() * amplitude)
        torch.testing.assert_close(sin, angles.sin() * amplitude)
