"""Options that several scripts have."""

from enum import StrEnum


class Quantization(StrEnum):
    """The type of rounded weights."""

    INT8 = "int8"


class Accelerator(StrEnum):
    """The device on which a script runs a model."""

    AUTO = "auto"
    CPU = "cpu"
    GPU = "gpu"
    MPS = "mps"
