"""The `trainer` section of the config: the machine."""

from typing import Literal

from folio.config.section import Count, Section


class TrainerConfig(Section):
    """The devices that train, and how they compute."""

    accelerator: Literal["auto", "cpu", "gpu", "mps"]
    devices: Count
    """Number of devices on each machine, with one process for each. A CPU can have any number of processes."""
    num_nodes: Count = 1
    """Number of machines. torchrun or SLURM must start more than one."""
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """Contents of each of several devices: the whole model, or a share of weights, gradients and moments."""
    activation_checkpointing: bool = False
    """Whether to keep only the inputs of blocks, and compute each block again in the backward pass."""
    precision: Literal["auto", "32-true", "mixed", "bf16-mixed", "16-mixed"]
    """mixed: bfloat16 if the device supports it, else float16; auto: mixed on a GPU, 32-true elsewhere."""
    compile: bool
    """Whether to compile the model with torch.compile."""
    detect_anomaly: bool
    """Whether to stop when a gradient becomes NaN and name the operation; slow."""

    @property
    def n_processes(self) -> int:
        """Number of processes on all machines together."""
        return self.devices * self.num_nodes
