"""Read from a model what figures show: its attention weights and its positional encoding."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from folio.figures.labeled_prompt import LabeledPrompt
from folio.models import GPT, EncoderDecoder, Model, TransformerConfig
from folio.models.positional import build_positional_encoding


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


@torch.no_grad()
def batch_attention_weights(model: GPT, texts: Sequence[Sequence[int]]) -> np.ndarray:
    """Return the weights of a decoder in eval mode over texts that are padded at the start: (L, B, H, T, T) float32.

    Rows sum to 1; those of padding are 0.
    """
    assert not model.training
    longest = max(map(len, texts))
    device = next(model.parameters()).device
    tokens = torch.tensor([[0] * (longest - len(text)) + [*text] for text in texts], device=device)  # (B, T)
    n_padding = torch.tensor([longest - len(text) for text in texts], device=device)
    is_token = torch.arange(longest, device=device) >= n_padding[:, None]  # (B, T)
    maps = model.attention_maps(tokens, is_token)
    return _to_array(torch.stack([layer.weights * is_token[:, None, :, None] for layer in maps]))


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


@torch.no_grad()
def computed_table(config: TransformerConfig) -> np.ndarray | None:
    """Return the positional encoding of a context, (positions, columns), before training.

    None if the encoding is trained, or there is none.
    """
    encoding = build_positional_encoding(config)
    table = None if any(True for _ in encoding.parameters()) else encoding.table(config.context_length)
    return None if table is None else _to_array(table)


def has_trained_positions(model: Model) -> bool:
    """Return whether training changes the positional encoding."""
    stack = model.decoder if isinstance(model, EncoderDecoder) else model
    return any(True for _ in stack.positional_encoding.parameters())


def _to_array(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().float().cpu().numpy()
    return array
