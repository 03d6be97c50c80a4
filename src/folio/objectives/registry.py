"""TODO folio.objectives.registry."""

from typing import cast

from torch.utils.data import DataLoader, Dataset

from folio.config.run import RunConfig
from folio.data.batches.batch import Batch
from folio.data.batches.loaders import token_loader
from folio.data.batches.windows import TrainingBatches
from folio.data.prepared import PreparedData, TokenSplit
from folio.distributed.context import SINGLE_PROCESS, DistributedContext
from folio.objectives.objective import Objective, Validation


def build_objective(
    config: RunConfig, data: PreparedData, distributed: DistributedContext = SINGLE_PROCESS
) -> Objective:
    """The objective that the config names, over these data, as one of the processes of a run has it."""
    return config.objective.load_code()(config, data, distributed)


def training_loader(
    config: RunConfig, data: PreparedData, first_step: int, distributed: DistributedContext = SINGLE_PROCESS
) -> DataLoader[Batch]:
    """The batches of a run from a step on, as one of its processes has them."""
    objective, training = build_objective(config, data), config.training
    dataset = objective.training_dataset()
    batches = TrainingBatches(
        window_order=config.data.window_order,
        n_starts=len(dataset),
        seed=config.seed,
        batch_size=training.batch_size,
        micro_batch_size=config.micro_batch_size,
        first_step=first_step,
        n_steps=training.max_steps,
        mixture=objective.mixture(dataset),
        rank=distributed.rank,
        world_size=distributed.world_size,
    )
    return token_loader(cast(Dataset[Batch], dataset), batches)


def validation(config: RunConfig, data: PreparedData, split: TokenSplit) -> Validation:
    """Of one of the two splits of `data`, for the objective of the run."""
    return build_objective(config, data).validation(split)
