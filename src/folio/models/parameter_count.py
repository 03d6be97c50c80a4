"""The size of a model, in parameters."""

from torch import nn

NOT_IN_BLOCKS = ("token_embedding", "value_embeddings", "positional_encoding", "output")
"""Modules whose parameters `n_parameters_without_embeddings` leaves out."""


class CountsParameters(nn.Module):
    """A module that knows its size. Tied weights count once.

    Example:

        >>> from folio.models import GPT, GPTConfig
        >>> model = GPT(GPTConfig(vocab_size=65, context_length=8, n_layers=1, n_heads=2, d_model=4))
        >>> model.total_parameters, model.n_parameters_without_embeddings
        (544, 252)
    """

    @property
    def n_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def n_trainable_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)

    total_parameters = n_parameters
    trainable_parameters = n_trainable_parameters

    @property
    def n_parameters_without_embeddings(self) -> int:
        """Number of parameters except those of the tokens, the positions and the output layer."""
        return sum(
            parameter.numel()
            for name, parameter in self.named_parameters()
            if not set(NOT_IN_BLOCKS).intersection(name.split("."))
        )
