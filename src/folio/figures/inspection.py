"""What there is to look at inside a model: how it attends, and what tells it where a token stands."""

import numpy as np
import torch
from torch import Tensor

from folio.figures.labelled_prompt import LabelledPrompt
from folio.models import EncoderDecoder, Model


@torch.no_grad()
def attention_weights(model: Model, prompt: LabelledPrompt) -> np.ndarray:
    """How each layer and head of a model in eval mode attends: (L, H, T, S) float32, rows that sum to 1.

    Of an encoder-decoder, how its decoder does: to the prefix, or with hidden_cache to prefix and text.
    """
    assert not model.training  # dropout would draw from the generator of training
    device = next(model.parameters()).device
    tokens = torch.tensor([prompt.tokens], device=device)  # (1, T)
    if isinstance(model, EncoderDecoder):
        maps = model.attention_maps(tokens, torch.tensor([prompt.prefix], device=device))
    else:
        maps = model.attention_maps(tokens)
    return _array(torch.cat([layer.weights for layer in maps]))


def positional_tables(model: Model) -> dict[str, np.ndarray]:
    """What stands for each position of a context, (positions, columns), by the part of the model: one table, of "".

    An encoder-decoder that has trained its positions has two, of "encoder" and "decoder". Where no position enters,
    there is none.
    """
    if not isinstance(model, EncoderDecoder):
        encodings = {"": model.positional_encoding}
    elif is_trained(model):
        encodings = {part: getattr(model, part).positional_encoding for part in ("encoder", "decoder")}
    else:
        encodings = {"": model.decoder.positional_encoding}
    tables = {part: encoding.table(model.config.context_length) for part, encoding in encodings.items()}
    return {part: _array(table) for part, table in tables.items() if table is not None}


def is_trained(model: Model) -> bool:
    """Whether training changes what stands for a position."""
    stack = model.decoder if isinstance(model, EncoderDecoder) else model
    return any(True for _ in stack.positional_encoding.parameters())


def _array(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().float().cpu().numpy()
    return array
