"""Sharded models and their checkpoints, in one process: `tests/e2e/test_many_processes.py` has several."""

import copy
import errno
import pickle
import random
import shutil
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor

from folio.config.optimizer import MuonConfig
from folio.config.run import RunConfig
from folio.data.tokenizers.char import CharTokenizer
from folio.distributed.sharding import (
    Shards,
    free_gathered,
    gather_model,
    is_sharded,
    own_rows,
    shard_like,
    shard_model,
    whole,
)
from folio.models import GPT, GPTConfig
from folio.optim.optimizers import build_optimizer
from folio.runs import shard_writer
from folio.runs.checkpoints import CheckpointMetadata, load_checkpoint, read_checkpoint, save_checkpoint
from folio.runs.shard_writer import ShardWriter
from folio.runs.shards import SHARDS_KEY, ShardedCheckpoint
from folio.runtime.errors import FolioError
from folio.runtime.torch_files import load_torch_file
from folio.training.rank_state import get_rng_state

SHAPE = GPTConfig(vocab_size=13, context_length=8, n_layers=2, n_heads=2, d_model=6)
MUON = MuonConfig(
    name="muon",
    learning_rate=0.05,
    adamw_learning_rate=None,
    momentum=0.9,
    nesterov=True,
    split_fused=False,
    weight_decay=0.3,
    betas=[0.8, 0.95],
    eps=1e-3,
)
TOKENIZER = CharTokenizer("abcdefg")


@pytest.fixture(scope="module")
def mesh() -> Iterator[DeviceMesh]:
    """A single process that is connected to itself."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def model_of(config: GPTConfig = SHAPE) -> GPT:
    torch.manual_seed(0)
    return GPT(config)


def train(model: GPT, optimizer: torch.optim.Optimizer, n_steps: int) -> None:
    for step in range(n_steps):
        tokens = torch.randint(13, (4, 8), generator=torch.Generator().manual_seed(step))
        logits = model.output(model.hidden(tokens)).float()
        optimizer.zero_grad()
        (logits.square().mean() + logits.logsumexp(-1).mean()).backward()
        optimizer.step()


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: whole(weight.detach()).clone() for name, weight in model.named_parameters()}


@pytest.mark.parametrize("changes", [{}, {"tie_weights": False, "positional_encoding": "alibi"}], ids=str)
@pytest.mark.parametrize("activation_checkpointing", [False, True])
def test_a_sharded_model_trains_to_the_same_bits(
    changes: dict[str, Any], activation_checkpointing: bool, mesh: DeviceMesh
) -> None:
    plain = model_of(GPTConfig(**{**vars(SHAPE), **changes}))
    sharded = copy.deepcopy(plain)
    for block in sharded.blocks:
        block.activation_checkpointing = activation_checkpointing  # type: ignore[assignment]
    shard_model(sharded, mesh, "32-true")
    assert all(isinstance(weight, DTensor) for weight in sharded.parameters())
    for model in (plain, sharded):
        train(model, torch.optim.AdamW(model.parameters(), lr=0.01), 3)
    expected = weights(plain)
    assert all(torch.equal(weight, expected[name]) for name, weight in weights(sharded).items())


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # of q_norm, sharded or not
@pytest.mark.parametrize("norm", ["layer_norm", "rms_norm"])
@pytest.mark.parametrize("norm_position", ["pre", "post"])
@pytest.mark.parametrize("activation_checkpointing", [False, True])
def test_mixed_precision_gathers_matrices_in_bfloat16_and_keeps_the_rest_in_float32(
    norm: str, norm_position: str, activation_checkpointing: bool, mesh: DeviceMesh
) -> None:
    changes = {"norm": norm, "norm_position": norm_position, "qk_norm": norm_position == "pre"}
    plain = model_of(GPTConfig(**{**vars(SHAPE), **changes}))
    sharded = copy.deepcopy(plain)
    shard_model(sharded, mesh, "bf16-mixed")
    seen: list[torch.dtype] = []
    block: Any = sharded.blocks[0]
    block.activation_checkpointing = activation_checkpointing
    block.attention.register_forward_hook(
        lambda layer, inputs, output: seen.extend((layer.out_projection.weight.dtype, inputs[0].dtype))
    )
    block.register_forward_hook(lambda block, inputs, output: seen.extend((inputs[0].dtype, output.dtype)))
    for _ in range(2):
        tokens = torch.randint(13, (4, 8))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            expected, logits = (model.output(model.hidden(tokens)) for model in (plain, sharded))
        assert torch.allclose(logits.float(), expected.float(), atol=1e-2)
        for output in (expected, logits):
            output.float().square().mean().backward()
    assert seen[0] == torch.bfloat16
    assert set(seen[1:4]) == {torch.float32}
    gradients = {name: weight.grad for name, weight in plain.named_parameters()}
    for name, weight in sharded.named_parameters():
        assert isinstance(weight.grad, DTensor)
        assert weight.grad.dtype == torch.float32
        expected_gradient = gradients[name]
        assert expected_gradient is not None
        assert (whole(weight.grad) - expected_gradient).norm() <= 0.03 * expected_gradient.norm() + 1e-6, name


@pytest.mark.parametrize("split_fused", [False, True])
def test_muon_updates_sharded_matrices_as_it_updates_whole_ones(split_fused: bool, mesh: DeviceMesh) -> None:
    config = MUON.model_copy(update={"split_fused": split_fused})
    plain = model_of()
    sharded = copy.deepcopy(plain)
    shard_model(sharded, mesh, "32-true")
    for model in (plain, sharded):
        train(model, build_optimizer(model, config, fused=False), 4)
    expected = weights(plain)
    for name, weight in weights(sharded).items():
        assert torch.allclose(weight, expected[name], atol=1e-6), name


def test_a_gathered_model_is_a_plain_one_with_the_same_outputs(mesh: DeviceMesh) -> None:
    plain = model_of(GPTConfig(**{**vars(SHAPE), "positional_encoding": "alibi"})).eval()
    sharded = copy.deepcopy(plain)
    shard_model(sharded, mesh, "32-true")
    gathered = gather_model(sharded, is_wanted=True)
    assert gathered is not None
    assert not is_sharded(gathered)
    assert gather_model(sharded, is_wanted=False) is None
    tokens = torch.randint(13, (2, 8))
    assert torch.equal(gathered(tokens), plain(tokens))
    assert gathered.output.weight.data_ptr() == gathered.token_embedding.weight.data_ptr(), "one copy of tied weights"


def test_an_average_has_the_names_and_the_order_of_the_weights_and_its_own_values(mesh: DeviceMesh) -> None:
    model = model_of()
    shard_model(model, mesh, "32-true")
    average = Shards(model)
    assert [name for name, _ in average.named_parameters()] == [name for name, _ in model.named_parameters()]
    assert average.state_dict().keys() == model.state_dict().keys()
    before = weights(average)
    train(model, torch.optim.SGD(model.parameters(), lr=0.1), 1)
    assert all(torch.equal(weight, before[name]) for name, weight in weights(average).items())


def test_validation_leaves_no_weights_gathered(mesh: DeviceMesh) -> None:
    model = model_of()
    shard_model(model, mesh, "32-true")
    with torch.no_grad():
        model.hidden(torch.zeros(1, 8, dtype=torch.int64))
    free_gathered(model)
    assert all(isinstance(weight, DTensor) for weight in model.parameters())


@pytest.mark.parametrize("n_rows", [0, 1, 3, 4, 5, 13, 64])
@pytest.mark.parametrize("n_processes", [1, 2, 4, 7])
def test_each_row_belongs_to_the_process_to_which_torch_gives_it(n_rows: int, n_processes: int) -> None:
    expected = [part.tolist() for part in torch.arange(n_rows).chunk(n_processes)]
    expected = [part for part in expected if part]
    meshes: list[Any] = [
        SimpleNamespace(size=lambda: n_processes, get_local_rank=lambda rank=rank: rank) for rank in range(n_processes)
    ]
    rows = [list(range(n_rows))[own_rows(n_rows, mesh)] for mesh in meshes]
    assert [part for part in rows if part] == expected


# Checkpoints


@pytest.fixture(scope="module")
def state(compose: Callable[..., RunConfig], mesh: DeviceMesh) -> dict[str, Any]:
    """What Lightning would save of a sharded run."""
    config = compose("model=debug", "tokenizer=char")
    model = GPT(config.transformer_config(13))
    shard_model(model, mesh, "32-true")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    train(model, optimizer, 1)
    return {
        "state_dict": {f"model.{name}": weight for name, weight in model.state_dict().items()},
        "optimizer_states": [optimizer.state_dict()],
        "global_step": 7,
        "folio": {**CheckpointMetadata(config, model.config, TOKENIZER).to_dict(), "rng": get_rng_state(), "val": {}},
    }


def zero(state: dict[str, Any]) -> dict[str, Any]:
    """Return a state with other weights, which a later step of training would have."""
    weights = {name: torch.zeros_like(weight) for name, weight in state["state_dict"].items()}
    return state | {"state_dict": weights, "global_step": 14}


def gathered(state: Any) -> Any:
    """Return a copy of a state with whole tensors."""
    if isinstance(state, dict):
        return {key: gathered(value) for key, value in state.items()}
    if isinstance(state, list):
        return [gathered(value) for value in state]
    return whole(state).clone() if isinstance(state, Tensor) else state


def same(first: Any, second: Any) -> bool:
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(same, first, second))
    return torch.equal(first, second) if isinstance(first, Tensor) else bool(first == second)


@pytest.fixture(scope="module")
def written(state: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written")
    writer = ShardWriter()
    writer.save(state, folder / "last.ckpt", 7)
    writer.wait()
    return folder


@pytest.fixture
def saved(written: Path, tmp_path: Path) -> Path:
    """A copy of a sharded checkpoint, to be damaged."""
    shutil.copytree(written, tmp_path / "checkpoints")
    return tmp_path / "checkpoints" / "last.ckpt"


def test_a_sharded_checkpoint_is_what_was_when_it_was_saved(state: dict[str, Any], tmp_path: Path) -> None:
    path, expected, writer = tmp_path / "last.ckpt", gathered(state), ShardWriter()
    writer.save(state, path, 7)
    weight = state["state_dict"]["model.final_norm.weight"].to_local()
    count = state["optimizer_states"][0]["state"][0]["step"]
    before = weight.clone()
    weight.zero_()  # training goes on
    count += 1
    writer.wait()
    weight.copy_(before)
    count -= 1
    assert same(read_checkpoint(path), expected)
    assert read_checkpoint(path, parts=())["state_dict"]["model.final_norm.weight"] is None
    tied = read_checkpoint(path)["state_dict"]
    assert tied["model.output.weight"] is tied["model.token_embedding.weight"]


def test_a_sharded_checkpoint_can_be_used_like_any_other(saved: Path, state: dict[str, Any]) -> None:
    trained = load_checkpoint(saved, "cpu")
    assert torch.equal(trained.model.final_norm.weight, whole(state["state_dict"]["model.final_norm.weight"]))
    assert trained.step == 7


def test_names_of_one_step_share_shards_and_what_no_name_needs_is_removed(
    state: dict[str, Any], saved: Path, tmp_path: Path
) -> None:
    folder = saved.parent
    abandoned = folder / "shards" / ".step=9-0.tmp"
    abandoned.mkdir()
    writer = ShardWriter()
    writer.save(state, folder / "best.ckpt", 14)
    writer.save(state, folder / "last.ckpt", 14)
    writer.wait()
    assert len(list((folder / "shards").iterdir())) == 1
    writer.save(state, folder / "last.ckpt", 21)
    writer.wait()
    assert len(list((folder / "shards").iterdir())) == 2, "best.ckpt keeps those of step 14"
    for name in ("best", "last"):
        assert same(read_checkpoint(folder / f"{name}.ckpt"), gathered(state))


@pytest.mark.parametrize("method", ["write_data", "finish"])
def test_a_failed_checkpoint_leaves_the_last_one_and_is_reported(
    method: str, saved: Path, state: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "a file")

    expected, before = gathered(state), saved.read_bytes()
    monkeypatch.setattr(shard_writer.FileSystemWriter, method, fail)
    writer = ShardWriter()
    writer.save(zero(state), saved, 14)
    with pytest.raises(FolioError, match=r"^a file cannot be written .No space left on device.; free space") as caught:
        writer.wait()
    assert "\n" not in str(caught.value)
    assert saved.read_bytes() == before
    assert same(read_checkpoint(saved), expected)
    monkeypatch.undo()
    writer.save(zero(state), saved, 14)
    writer.wait()
    assert same(read_checkpoint(saved), gathered(zero(state)))


def write_chunks(tensor: Tensor, borders: list[int], folder: Path, rng: random.Random) -> list[list[int]]:
    """Write rows between borders into two files in any order, as processes would. Returns: their place in an index."""
    files = [bytearray(rng.randbytes(rng.randrange(9))) for _ in range(2)]
    chunks = []
    for first, end in rng.sample(list(pairwise(borders)), len(borders) - 1):
        torch.save(tensor[first:end].clone(), folder / "part")
        data, number = (folder / "part").read_bytes(), rng.randrange(2)
        chunks.append([number, len(files[number]), len(data), first, end - first])
        files[number] += data
    for number, content in enumerate(files):
        (folder / f"__{number}_0.distcp").write_bytes(content)
    return sorted(chunks, key=lambda chunk: chunk[3])


@pytest.mark.parametrize("seed", range(8))
def test_any_rows_can_be_read_however_they_are_divided_among_files(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    n_rows = rng.randrange(1, 20)
    tensor = torch.randn(n_rows, 3) if seed % 2 else torch.randn(n_rows)
    folder = tmp_path / "shards" / "step=1"
    folder.mkdir(parents=True)
    borders = [0, *sorted(rng.sample(range(1, n_rows), rng.randrange(n_rows))), n_rows]
    entry = {
        "places": [["state_dict", "x"]],
        "shape": list(tensor.shape),
        "dtype": "float32",
        "chunks": torch.tensor(write_chunks(tensor, borders, folder, rng)),
    }
    description = {"folder": "step=1", "files": ["__0_0.distcp", "__1_0.distcp"], "tensors": [entry]}
    checkpoint = ShardedCheckpoint(tmp_path / "last.ckpt", description)
    for first in range(n_rows + 1):
        for end in range(first, n_rows + 1):
            assert torch.equal(checkpoint.rows(checkpoint.tensors[0], first, end), tensor[first:end])


def test_a_share_of_a_whole_checkpoint_is_taken_by_the_weight_that_it_is_for(mesh: DeviceMesh) -> None:
    model = model_of()
    values = {name: torch.randn_like(weight) for name, weight in model.named_parameters()}
    shard_model(model, mesh, "32-true")
    for name, weight in model.named_parameters():
        share = shard_like(values[name], weight)
        assert isinstance(share, DTensor)
        assert torch.equal(share.full_tensor(), values[name])
        assert shard_like(torch.tensor(3.0), weight).shape == (), "the number of steps is not divided"
    assert shard_like(values[name], None) is values[name]


# Files from someone else


class RunsCode:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.canary,)


def test_the_pickle_of_torchs_index_is_never_read(saved: Path, state: dict[str, Any], tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    (metadata,) = saved.parent.glob("shards/*/.metadata")
    metadata.write_bytes(pickle.dumps(RunsCode(canary)))
    assert same(read_checkpoint(saved), gathered(state))
    assert not canary.exists()


def test_a_pickle_in_a_shard_runs_nothing(saved: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    torch.save(RunsCode(canary), tmp_path / "hostile")
    data = (tmp_path / "hostile").read_bytes()
    (shard,) = saved.parent.glob("shards/*/*.distcp")
    index = load_torch_file(saved)
    for tensor in index[SHARDS_KEY]["tensors"]:
        tensor["chunks"][:, 1:3] = torch.tensor([0, len(data)])
    save_checkpoint(index, saved)
    shard.write_bytes(data + shard.read_bytes())
    with pytest.raises(FolioError, match=r"cannot be used .it holds the name .*; choose another checkpoint$"):
        read_checkpoint(saved)
    assert not canary.exists()


def set_chunks(column: int, value: int) -> Callable[[dict[str, Any]], None]:
    def change(shards: dict[str, Any]) -> None:
        shards["tensors"][0]["chunks"][0, column] = value

    return change


CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a folder elsewhere": lambda shards: shards.update(folder="../../x"),
    "a hidden folder": lambda shards: shards.update(folder=".tmp"),
    "a file elsewhere": lambda shards: shards.update(files=["../last.ckpt"]),
    "a missing file": lambda shards: shards.update(files=["__9_0.distcp"]),
    "no list": lambda shards: shards.update(tensors=3),
    "something else": lambda shards: shards.update(code="x"),
    "no tensor": lambda shards: shards["tensors"].append("x"),
    "another type": lambda shards: shards["tensors"][0].update(dtype="object"),
    "a huge shape": lambda shards: shards["tensors"][0].update(shape=[10**9, 10**9]),
    "a large shape": lambda shards: shards["tensors"][0]["shape"].append(1000),
    "a negative shape": lambda shards: shards["tensors"][0].update(shape=[-1]),
    "fewer rows": lambda shards: shards["tensors"][0].update(chunks=torch.zeros(0, 5, dtype=torch.int64)),
    "rows twice": lambda shards: shards["tensors"][0].update(chunks=shards["tensors"][0]["chunks"].repeat(2, 1)),
    "another file": set_chunks(0, 5),
    "a place outside of the file": set_chunks(1, 2**40),
    "a place before the file": set_chunks(1, -1),
    "a wrong length": set_chunks(2, 100),
    "another first row": set_chunks(3, 1),
    "more rows": set_chunks(4, 2**40),
    "a place that is taken": lambda shards: shards["tensors"][0].update(places=[["global_step"]]),
    "a place that is missing": lambda shards: shards["tensors"][0].update(places=[["state_dict", "x"]]),
    "a place in no container": lambda shards: shards["tensors"][0].update(places=[["global_step", 3]]),
    "no place": lambda shards: shards["tensors"][0].update(places=[]),
    "a strange place": lambda shards: shards["tensors"][0].update(places=[[("a", "b")]]),
}


@pytest.mark.parametrize("name", list(CHANGES))
def test_a_list_of_shards_that_folio_does_not_write_is_refused_in_one_line(name: str, saved: Path) -> None:
    index = load_torch_file(saved)
    CHANGES[name](index[SHARDS_KEY])
    save_checkpoint(index, saved)
    with pytest.raises(FolioError, match=r"^.*last\.ckpt cannot be used \(.*\); choose another checkpoint$"):
        read_checkpoint(saved)


def test_a_checkpoint_without_its_shards_says_that_they_move_together(saved: Path, tmp_path: Path) -> None:
    alone = saved.rename(tmp_path / "last.ckpt")
    with pytest.raises(FolioError, match=r"its shards are missing: .*moves with its folder shards/"):
        read_checkpoint(alone)


def test_a_shard_that_is_cut_short_is_refused(saved: Path) -> None:
    (shard,) = saved.parent.glob("shards/*/*.distcp")
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(FolioError, match="its shards are cut short"):
        read_checkpoint(saved)
