"""The size of a model, in parameters."""

from torch import nn

NOT_IN_BLOCKS = ("token_embedding", "positional_encoding", "output")
"""Modules whose parameters `n_parameters_without_embeddings` leaves out."""


class CountsParameters(nn.Module):
    """A module that knows its size. Tied weights count once."""

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
