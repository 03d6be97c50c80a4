"""Rotary positions in config.json: rope_parameters in transformers 5, rope_theta and rope_scaling before.

Source: `transformers`, modeling_rope_utils.py.
"""

from collections.abc import Mapping
from typing import Any

from folio.models.formats.fields import Field, FormatError, positive_number
from folio.models.transformer_config import TransformerConfig
from folio.runtime.untrusted import shown


class Rope(Field):
    """The base of the angles. `fraction` is what a missing partial_rotary_factor stands for."""

    options = ("positional_base",)

    def __init__(self, fraction: float = 1.0) -> None:
        self.fraction = fraction

    def read(self, values: Mapping[str, Any]) -> dict[str, Any]:
        rope = rope_parameters(values)
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind != "default":
            raise FormatError(f"rope_type={shown(repr(kind))} is a scaling of rotary positions that Folio lacks")
        factor = rope.get("partial_rotary_factor", values.get("rotary_pct", self.fraction))
        if factor != 1.0:
            raise FormatError(f"partial_rotary_factor={shown(repr(factor))} is not 1, all that Folio supports here")
        theta = rope.get("rope_theta", values.get("rope_theta", values.get("rotary_emb_base", 10_000.0)))
        return {"positional_base": positive_number("rope_theta", theta)}

    def write(self, config: TransformerConfig) -> dict[str, Any]:
        theta = config.positional_base
        if self.fraction == 1.0:
            return {"rope_parameters": {"rope_type": "default", "rope_theta": theta}, "rope_theta": theta}
        rope = {"rope_type": "default", "rope_theta": theta, "partial_rotary_factor": 1.0}
        return {"rope_parameters": rope, "rotary_emb_base": theta, "rotary_pct": 1.0}


def rope_parameters(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings, wherever a version of transformers wrote them. Raises: FormatError."""
    found = values.get("rope_scaling") or values.get("rope_parameters") or {}
    if not isinstance(found, dict) or any(isinstance(value, dict) for value in found.values()):
        raise FormatError(f"rope_parameters={shown(repr(found))} must be one set of values for all layers")
    return found
