"""The probabilities of the token that a model would write next. Imports no lightning."""

import torch
from torch import Tensor

from folio.data.tokenizers.base import Tokenizer
from folio.generation.generate import encode_prefixes
from folio.generation.prompts import MASK, check_request, encode_masked
from folio.models import Encoder, EncoderDecoder, Model
from folio.models.decoding import DecodingBatch
from folio.runtime.errors import FolioError


@torch.inference_mode()
def next_token_probabilities(model: Model, tokenizer: Tokenizer, prompt: str, prefix: str | None = None) -> Tensor:
    """Return the probability of each symbol as the token after the prompt, or at the only [MASK] of it: (V,) float32.

    Raises: FolioError if this model cannot read such a prompt.
    """
    check_request(model.config, tokenizer, prompt, prefix)
    logits = _next_logits(model, tokenizer, prompt, prefix)  # (1, V), padded to the vocabulary of the model
    return logits[0, : tokenizer.vocab_size].float().softmax(dim=0).cpu()


def _next_logits(model: Model, tokenizer: Tokenizer, prompt: str, prefix: str | None) -> Tensor:
    if isinstance(model, Encoder):
        ids = encode_masked(prompt, tokenizer).ids
        if ids.count(tokenizer.vocab_size) > 1:
            raise FolioError(f"prompt={prompt!r} has more than one {MASK}; ask for one blank at a time")
        tokens = torch.tensor([ids], device=next(model.parameters()).device)
        return model.output(model.hidden(tokens)[:, ids.index(tokenizer.vocab_size)])
    text, encoder_output = tokenizer.encode(prompt).tolist(), None
    if isinstance(model, EncoderDecoder):
        prefix_ids = tokenizer.encode(prefix or "").tolist()
        text, encoder_output = [prefix_ids[-1], *text], encode_prefixes(model, [prefix_ids])
    return DecodingBatch(model, [text], encoder_output, n_new=0, use_cache=False).next_logits()
