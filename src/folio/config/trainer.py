"""The machine that a run uses: devices, precision and strategy."""

from typing import Literal

from folio.config.section import Count, Section

NO_FLOAT16 = "trainer.precision=16-mixed: a CPU has no float16 kernels; use bf16-mixed or 32-true"
"""Message for a precision that a CPU lacks."""


class TrainerConfig(Section):
    """Mostly Lightning's keys of the same names."""

    accelerator: Literal["auto", "cpu", "gpu", "mps"]
    """Kind of device: an NVIDIA GPU (gpu), an Apple GPU (mps), or the CPU; auto: the best there is."""
    devices: Count
    """Processes on each machine: one per GPU, or any number on a CPU."""
    num_nodes: Count = 1
    """Number of machines. torchrun or SLURM must start the processes of more than one."""
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """With several devices: the whole model on each (ddp), or a shard of weights, gradients and moments (fsdp)."""
    activation_checkpointing: bool = False
    """Whether each block keeps only its input, and is computed again in the backward pass."""
    precision: Literal["auto", "32-true", "mixed", "bf16-mixed", "16-mixed"]
    """mixed: bfloat16 if the device supports it, else float16. auto: mixed on a GPU; on a CPU bf16-mixed for a model of
    d_model 256 or more where a probe of half a second finds it faster, else 32-true. A run records what it chose on a
    CPU, and keeps it when it is resumed."""
    compile: bool
    """Whether to use torch.compile."""
    threads: Count | None = None
    """CPU threads of each process; null: this machine's processors, or OMP_NUM_THREADS, divided among the processes of
    the run. A run records the number and keeps it when it is resumed, because sums are rounded in its order."""
    detect_anomaly: bool
    """Whether to stop when a gradient becomes NaN and name the operation; slow."""
    profiler: Literal["simple", "advanced", "pytorch"] | None = None
    """Lightning's profiler: the time of each hook (simple), of each Python function in it (advanced), or of each
    operation on CPU and GPU in three batches, with a trace (pytorch). It writes to the folder profile/ of the run."""

    @property
    def n_processes(self) -> int:
        """Number of processes on all machines."""
        return self.devices * self.num_nodes
