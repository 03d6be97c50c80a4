"""Which optimizers there are, and their keys."""

from typing import ClassVar, Literal

from folio.config.section import Betas, Fraction, NonNegative, Option, Positive


class OptimizerConfig(Option):
    """`code` is a function: model, config, fused -> torch.optim.Optimizer; see `folio.optim.optimizers`."""

    name: str
    learning_rate: Positive
    """The peak of the schedule."""
    weight_decay: NonNegative
    """Of matrices and embeddings; biases and norms are never decayed."""


class AdamConfig(OptimizerConfig):
    """Adam and AdamW: the latter takes weight decay out of the moments (Loshchilov and Hutter 2019)."""

    code: ClassVar[str] = "folio.optim.optimizers:build_adam"
    name: Literal["adam", "adamw"]
    betas: Betas
    eps: Positive


class SGDConfig(OptimizerConfig):
    code: ClassVar[str] = "folio.optim.optimizers:build_sgd"
    name: Literal["sgd"]
    momentum: Fraction
    nesterov: bool


class MuonConfig(OptimizerConfig):
    """Muon for the matrices inside the blocks, AdamW for all other parameters (Jordan et al. 2024).

    learning_rate is Muon's, whose updates are scaled to the size of AdamW's.
    """

    code: ClassVar[str] = "folio.optim.muon:build_muon"
    name: Literal["muon"]
    adamw_learning_rate: Positive | None
    """Of AdamW, at the same point of the schedule; the same as Muon's when null."""
    momentum: Fraction
    nesterov: bool
    betas: Betas
    """Of AdamW, as is eps."""
    eps: Positive


Optimizers = AdamConfig | SGDConfig | MuonConfig
"""All that may be chosen: a new one is entered here."""
