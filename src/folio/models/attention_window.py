"""Which layers attend to a window, and how long it is: the meaning of `model.attention_window`. Imports no torch."""

import re

_PATTERN = re.compile(r"(?P<letters>[SL]+)(:(?P<window>[0-9]{1,9}))?", re.ASCII)


def windows_of_layers(attention_window: int | str | None, n_layers: int, context_length: int) -> tuple[int | None, ...]:
    """Return how many positions a position attends to in each layer, its own included; None for all of them.

    Raises: ValueError naming the value and the rule.

        >>> windows_of_layers("SSL:16", n_layers=4, context_length=64)
        (16, 16, None, 16)
    """
    if attention_window is None:
        return n_layers * (None,)
    shown = f"attention_window={attention_window}"
    letters, window = "S", attention_window
    if isinstance(attention_window, str):
        match = _PATTERN.fullmatch(attention_window)
        if match is None:
            raise ValueError(
                f"{shown} must be a number of positions, or a letter for each layer, S for a window and L for the "
                "whole context, such as SSSL, or SSSL:256 for windows of 256"
            )
        letters = match["letters"]
        window = max(1, context_length // 2) if match["window"] is None else int(match["window"])
    if len(letters) > n_layers:
        raise ValueError(
            f"{shown} has {len(letters)} letters, but the model has n_layers={n_layers} layers; "
            "give at most as many letters, which are repeated if they are fewer"
        )
    if "S" not in letters:
        raise ValueError(f"{shown} has no S, so no layer has a window; leave it out")
    assert isinstance(window, int)
    if window < 1:
        raise ValueError(
            f"{shown} must be 1 or more, as a position attends to itself; leave it out to attend to the whole context"
        )
    return tuple(window if letters[layer % len(letters)] == "S" else None for layer in range(n_layers))
