"""Windows of attention in config.json: one length, for all layers or for some of them."""

from collections.abc import Iterator, Mapping
from typing import Any

from folio.models.formats.fields import Field, FormatError, Problem
from folio.models.transformer_config import TransformerConfig
from folio.runtime.untrusted import shown

SLIDING, FULL = "sliding_attention", "full_attention"


class Window(Field):
    """One window for all layers, as in Mistral."""

    options = ("attention_window",)

    def read(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {"attention_window": _length(values.get("sliding_window", 4096))}

    def write(self, config: TransformerConfig) -> dict[str, Any]:
        return {"sliding_window": config.layer_windows[0]}

    def problems(self, config: TransformerConfig) -> Iterator[Problem]:
        if len(set(config.layer_windows)) > 1:
            yield Problem("attention_window", config.attention_window, max(filter(None, config.layer_windows)))


class LayerWindows(Field):
    """Layers with a window and layers without, as in Qwen3."""

    options = ("attention_window",)

    def read(self, values: Mapping[str, Any]) -> dict[str, Any]:
        if not values.get("use_sliding_window", False):
            return {"attention_window": None}
        window, n_layers = _length(values.get("sliding_window", 4096)), values.get("num_hidden_layers", 32)
        kinds, first = values.get("layer_types"), values.get("max_window_layers", 28)
        if kinds is None and type(first) is int and type(n_layers) is int and 0 < n_layers <= 10_000:
            kinds = [FULL if layer < first else SLIDING for layer in range(n_layers)]
        if not isinstance(kinds, list) or any(kind not in (SLIDING, FULL) for kind in kinds) or len(kinds) != n_layers:
            raise FormatError(
                f"layer_types={shown(repr(kinds))} must be {SLIDING} or {FULL} for each of num_hidden_layers={n_layers}"
            )
        if window is None or SLIDING not in kinds:
            return {"attention_window": None}
        letters = "".join("S" if kind == SLIDING else "L" for kind in kinds)
        return {"attention_window": window if FULL not in kinds else f"{letters}:{window}"}

    def write(self, config: TransformerConfig) -> dict[str, Any]:
        windows = config.layer_windows
        first = next((layer for layer, window in enumerate(windows) if window is not None), len(windows))
        return {
            "use_sliding_window": first < len(windows),
            "sliding_window": max(filter(None, windows), default=None),
            "max_window_layers": first,  # all that versions of transformers before 4.53 read
            "layer_types": [FULL if window is None else SLIDING for window in windows],
        }


def _length(value: Any) -> int | None:
    if value is None or type(value) is int:
        return value
    raise FormatError(f"sliding_window={shown(repr(value))} must be a whole number, or null")
