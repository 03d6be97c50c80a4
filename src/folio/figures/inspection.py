"""Read from a model what figures show: its attention weights and its positional encoding."""

import numpy as np
import torch
from torch import Tensor

from folio.figures.labeled_prompt import LabeledPrompt
from folio.models import EncoderDecoder, Model


@torch.no_grad()
def attention_weights(model: Model, prompt: LabeledPrompt) -> np.ndarray:
    """Return the weights of each layer and head of a model in eval mode: (L, H, T, S) float32, rows sum to 1.

    For an encoder-decoder they are its decoder's, over the prefix, or with hidden_cache over prefix and text.
    """
    assert not model.training  # dropout would use the random numbers of training
    device = next(model.parameters()).device
    tokens = torch.tensor([prompt.tokens], device=device)  # (1, T)
    if isinstance(model, EncoderDecoder):
        maps = model.attention_maps(tokens, torch.tensor([prompt.prefix], device=device))
    else:
        maps = model.attention_maps(tokens)
    return _to_array(torch.cat([layer.weights for layer in maps]))


def positional_tables(model: Model) -> dict[str, np.ndarray]:
    """Return the positional encoding of a context, (positions, columns), by part of the model.

    The part is "" unless an encoder-decoder has trained positions: then there are "encoder" and "decoder". Without a
    positional encoding the result is empty.
    """
    if not isinstance(model, EncoderDecoder):
        encodings = {"": model.positional_encoding}
    elif has_trained_positions(model):
        encodings = {part: getattr(model, part).positional_encoding for part in ("encoder", "decoder")}
    else:
        encodings = {"": model.decoder.positional_encoding}
    tables = {part: encoding.table(model.config.context_length) for part, encoding in encodings.items()}
    return {part: _to_array(table) for part, table in tables.items() if table is not None}


def has_trained_positions(model: Model) -> bool:
    """Return whether training changes the positional encoding."""
    stack = model.decoder if isinstance(model, EncoderDecoder) else model
    return any(True for _ in stack.positional_encoding.parameters())


def _to_array(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().float().cpu().numpy()
    return array
