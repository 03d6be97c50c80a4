"""The optimizers and their keys."""

from typing import ClassVar, Literal

from folio.config.section import Betas, Fraction, NonNegative, Option, Positive


class OptimizerConfig(Option):
    """`code` is a function: model, config, fused -> torch.optim.Optimizer; see `folio.optim.optimizers`."""

    fits_mup: ClassVar[bool] = False
    """Whether the code follows model.parametrization=mup."""
    name: str
    learning_rate: Positive
    """Peak of the schedule."""
    weight_decay: NonNegative
    """Weight decay of matrices and embeddings. Biases and norms have none."""


class AdamConfig(OptimizerConfig):
    """Adam, or AdamW, whose weight decay does not pass through the moments (Loshchilov and Hutter 2019)."""

    code: ClassVar[str] = "folio.optim.optimizers:build_adam"
    fits_mup: ClassVar[bool] = True
    name: Literal["adam", "adamw"]
    betas: Betas
    """Decay rates of the means of the gradient and of its square."""
    eps: Positive
    """Added to the root of the mean square, against division by zero."""


class SGDConfig(OptimizerConfig):
    """Stochastic gradient descent with momentum."""

    code: ClassVar[str] = "folio.optim.optimizers:build_sgd"
    name: Literal["sgd"]
    momentum: Fraction
    """Share of the previous update that is kept in the next."""
    nesterov: bool
    """Whether to look ahead by one update of the momentum."""


class MuonConfig(OptimizerConfig):
    """Muon for the matrices of the blocks, AdamW for all other parameters (Jordan et al. 2024).

    `learning_rate` is Muon's, whose updates are scaled to the size of AdamW's.
    """

    code: ClassVar[str] = "folio.optim.muon:build_muon"
    fits_mup: ClassVar[bool] = True
    name: Literal["muon"]
    adamw_learning_rate: Positive | None
    """Peak of AdamW's learning rate, which follows the same schedule; `learning_rate` when null."""
    momentum: Fraction
    """Share of the mean of the gradients that is kept from step to step."""
    nesterov: bool
    """Whether to look ahead by one update of the momentum."""
    split_fused: bool
    """Whether to orthogonalize the projections that share one matrix, such as q, k and v, separately."""
    betas: Betas
    """Betas of AdamW."""
    eps: Positive
    """Epsilon of AdamW."""


Optimizers = AdamConfig | SGDConfig | MuonConfig
"""All optimizers that can be chosen. A new one is added here."""
