"""TODO folio.config.trainer."""

from typing import Literal

from folio.config.section import Count, Section


class TrainerConfig(Section):
    accelerator: Literal["auto", "cpu", "gpu", "mps"]
    devices: Count
    """Of each machine: a process for each GPU; on a CPU as many processes as are asked for."""
    num_nodes: Count = 1
    """Machines. More than one are started by torchrun or SLURM."""
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """Of many devices: the whole model on each (ddp), or a share of weights, gradients and moments on each (fsdp)."""
    activation_checkpointing: bool = False
    """Compute each block once more in the backward pass, and keep only what goes into it."""
    precision: Literal["auto", "32-true", "mixed", "bf16-mixed", "16-mixed"]
    """mixed: bfloat16 where the device has it, else float16; auto: mixed on a GPU, 32-true elsewhere."""
    compile: bool
    """torch.compile the model."""
    detect_anomaly: bool
    """Stop where a gradient becomes NaN and name the operation; slow."""

    @property
    def n_processes(self) -> int:
        """Over all machines."""
        return self.devices * self.num_nodes
