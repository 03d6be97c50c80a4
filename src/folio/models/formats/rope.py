"""Rotary positions in config.json: rope_parameters in transformers 5; before, rope_theta and rope_scaling.

Source: `transformers`, modeling_rope_utils.py.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from folio.models.formats.fields import Field, FormatError, positive_number
from folio.models.rotary_scaling import RotaryScaling, RotaryScalingName
from folio.models.transformer_config import MAX_SIZE, TransformerConfig
from folio.runtime.untrusted import shown

FACTORS: dict[RotaryScalingName, tuple[str, ...]] = {
    "llama3": ("low_freq_factor", "high_freq_factor"),
    "yarn": ("beta_fast", "beta_slow", "attention_factor"),
}
"""rope_type -> keys besides factor, which have the same names in `RotaryScaling`."""


class Rope(Field):
    """The base of the angles, and how they are stretched to a longer context."""

    options: ClassVar[tuple[str, ...]] = ("positional_base", "rotary_scaling")

    def read(self, values: Mapping[str, Any]) -> dict[str, Any]:
        rope = rope_parameters(values)
        fraction = rope.get("partial_rotary_factor", values.get("partial_rotary_factor"))
        if fraction not in (None, 1):
            raise FormatError(f"partial_rotary_factor={shown(repr(fraction))} is not 1, all that this architecture has")
        theta = rope.get("rope_theta", values.get("rope_theta", 10_000.0))
        return {"positional_base": positive_number("rope_theta", theta), "rotary_scaling": read_scaling(rope, values)}

    def write(self, config: TransformerConfig) -> dict[str, Any]:
        base, scaling = {"rope_theta": config.positional_base}, write_scaling(config.rotary_scaling)
        old = {} if config.rotary_scaling is None else {"rope_scaling": scaling}
        return {"rope_parameters": scaling | base, **base, **old}


class PartialRope(Rope):
    """The same for an architecture that may rotate only the first dimensions of each head."""

    options = (*Rope.options, "rotary_fraction")

    def read(self, values: Mapping[str, Any]) -> dict[str, Any]:
        rope = rope_parameters(values)
        theta = rope.get("rope_theta", values.get("rotary_emb_base", 10_000.0))
        fraction = rope.get("partial_rotary_factor", values.get("rotary_pct", 0.25))
        return {
            "positional_base": positive_number("rope_theta", theta),
            "rotary_fraction": positive_number("partial_rotary_factor", fraction),
            "rotary_scaling": read_scaling(rope, values),
        }

    def write(self, config: TransformerConfig) -> dict[str, Any]:
        base, fraction = config.positional_base, config.rotary_fraction
        parameters = {"rope_theta": base, "partial_rotary_factor": fraction} | write_scaling(config.rotary_scaling)
        return {"rope_parameters": parameters, "rotary_emb_base": base, "rotary_pct": fraction}


def rope_parameters(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings, wherever a version of transformers wrote them. Raises: FormatError."""
    found = values.get("rope_scaling") or values.get("rope_parameters") or {}
    if not isinstance(found, dict) or any(isinstance(value, dict) for value in found.values()):
        raise FormatError(f"rope_parameters={shown(repr(found))} must be one set of values for all layers")
    return found


def read_scaling(rope: Mapping[str, Any], values: Mapping[str, Any]) -> RotaryScaling | None:
    """Return how the angles are stretched; None if they are not. Raises: FormatError; ValueError."""
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    name = next((known for known in FACTORS if known == kind), None)
    if name is None or rope.get("truncate", True) is not True:
        shown_kind = "yarn with truncate=false" if name == "yarn" else shown(repr(kind))
        raise FormatError(
            f"rope_type={shown_kind} is not llama3 or yarn, the scalings of rotary positions that Folio has"
        )
    original = values.get("original_max_position_embeddings") or rope.get("original_max_position_embeddings")
    original = values.get("max_position_embeddings") if original is None else original
    if type(original) is not int or not 0 < original <= MAX_SIZE:
        rule = f"must be a whole number from 1 to {MAX_SIZE}"
        raise FormatError(f"original_max_position_embeddings={shown(repr(original))} {rule}")
    numbers = {key: positive_number(key, rope[key]) for key in FACTORS[name] if rope.get(key) is not None}
    factor = positive_number("factor", rope.get("factor"))
    if name == "yarn" and "attention_factor" not in numbers and rope.get("mscale") and rope.get("mscale_all_dim"):
        scales = [positive_number(key, rope[key]) for key in ("mscale", "mscale_all_dim")]
        numbers["attention_factor"] = _temperature(factor, scales[0]) / _temperature(factor, scales[1])
    return RotaryScaling(name=name, factor=factor, original_context_length=original, **numbers)


def _temperature(factor: float, scale: float) -> float:
    return 0.1 * scale * math.log(factor) + 1.0 if factor > 1.0 else 1.0


def write_scaling(scaling: RotaryScaling | None) -> dict[str, Any]:
    """Return the settings, except the base."""
    if scaling is None:
        return {"rope_type": "default"}
    factors = {key: getattr(scaling, key) for key in FACTORS[scaling.name]}
    return {
        "rope_type": scaling.name,
        "factor": scaling.factor,
        "original_max_position_embeddings": scaling.original_context_length,
    } | {key: value for key, value in factors.items() if value is not None}
