"""Sharding with PyTorch's FSDP2: each process keeps a share of every weight, its gradient and its moments.

A sharded weight is a DTensor, divided among the processes by rows. Before a block runs, its weights are gathered, and
afterwards freed again; its gradients are summed over the processes and divided in the backward pass. Imports no
lightning.

Source: Rajbhandari et al. 2020 (ZeRO), stage 3; Zhao et al. 2023 (PyTorch FSDP).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Shard

from folio.models import Model, build_model
from folio.models.blocks import Block


def shard_model(model: Model, mesh: DeviceMesh, precision: str) -> None:
    """Shard each block of a model, and what is outside the blocks together.

    With bf16-mixed, the weights of blocks are gathered in bfloat16, which halves what is sent, and gradients are summed
    in float32, as DDP does. Norms, embeddings, output layer and residual stream stay in float32, as under autocast.
    """
    policy = MixedPrecisionPolicy()
    if precision == "bf16-mixed":
        policy = MixedPrecisionPolicy(torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for block in [module for module in model.modules() if isinstance(module, Block)]:
        for norm in block.modules() if policy.param_dtype else ():
            if isinstance(norm, nn.LayerNorm | nn.RMSNorm):  # with weights of their own type, which no policy knows
                fully_shard(norm, mesh=mesh, reshard_after_forward=False)
        fully_shard(block, mesh=mesh, mp_policy=policy)
    # The loss reads the weights of the output layer after `hidden` has returned, so they are not freed there.
    fully_shard(model, mesh=mesh, reshard_after_forward=False)
    register_fsdp_forward_method(model, "hidden")


def is_sharded(model: nn.Module) -> bool:
    """Return whether the model is sharded, so that no process can use it alone."""
    return isinstance(model, FSDPModule)


def free_gathered(model: nn.Module) -> None:
    """Free the weights that a forward pass without a backward pass leaves gathered: norms, and those outside blocks."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def own_rows(n_rows: int, mesh: DeviceMesh) -> slice:
    """Return the rows of a tensor that FSDP2 gives to this process: equal shares, of which the last may be smaller."""
    share = -(-n_rows // mesh.size())
    first = min(n_rows, mesh.get_local_rank() * share)
    return slice(first, min(n_rows, first + share))


def from_own_rows(rows: Tensor, shape: torch.Size, mesh: DeviceMesh) -> DTensor:
    """Return the sharded tensor of a shape of which this process holds these rows. Communicates nothing."""
    strides = torch.empty(shape, device="meta").stride()
    rows = rows.to(mesh.device_type)
    return DTensor.from_local(rows, mesh, [Shard(0)], run_check=False, shape=shape, stride=strides)


def shard_like(value: Any, like: Any) -> Any:
    """Return the share of a whole tensor that belongs to this process, if `like` is a sharded tensor of its shape."""
    if not isinstance(like, DTensor) or not isinstance(value, Tensor) or isinstance(value, DTensor):
        return value
    if value.shape != like.shape:
        return value
    rows = own_rows(len(value), like.device_mesh)
    return from_own_rows(value[rows].clone(), value.shape, like.device_mesh)


def whole(tensor: Tensor) -> Tensor:
    """Return all of a tensor, which every process must ask for if it is sharded."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own_part(tensor: Tensor) -> Tensor:
    """Return what this process holds of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def gather_model(model: Model, is_wanted: bool) -> Model | None:
    """Gather a sharded model, one weight at a time, in the processes that want it. All processes must call it.

    Returns: a plain model in eval mode that shares nothing with the sharded one; None where it is not wanted.
    """
    weights: dict[str, Tensor] = {}
    seen: dict[int, Tensor] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) not in seen:
            gathered = whole(parameter.detach())
            seen[id(parameter)] = gathered if is_wanted else gathered.new_empty(0)
        weights[name] = seen[id(parameter)]
    if not is_wanted:
        return None
    with torch.device("meta"):
        plain = build_model(model.config)
    plain.load_state_dict(weights, assign=True)
    for name, buffer in model.named_buffers():
        path, _, last = name.rpartition(".")
        setattr(plain.get_submodule(path), last, buffer)
    return plain.eval()


class Shards(nn.Module):
    """Copies of the sharded weights of a model, under the same names: all that an average of its weights needs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        copies: dict[int, nn.Parameter] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            if id(parameter) not in copies:
                copy = parameter.detach().clone()
                copies[id(parameter)] = nn.Parameter(copy, requires_grad=parameter.requires_grad)
            self._place(name).register_parameter(name.rpartition(".")[2], copies[id(parameter)])
        for name, buffer in model.named_buffers():
            self._place(name).register_buffer(name.rpartition(".")[2], buffer.clone(), persistent=False)

    def _place(self, name: str) -> nn.Module:
        """Return the module that holds a weight, and make it if there is none."""
        module: nn.Module = self
        for part in name.split(".")[:-1]:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        return module
