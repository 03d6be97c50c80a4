"""A checkpoint is whole or absent, plain data, and enough to use the model alone."""

import errno
import os
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from folio.config.run import RunConfig
from folio.data.tokenizers.registry import CharTokenizer
from folio.models import GPT, build_model
from folio.runs.checkpoints import FORMAT, CheckpointMetadata, load, load_checkpoint, rng_state, save, set_rng_state
from folio.runtime.errors import FolioError

TOKENIZER = CharTokenizer("abcdefg")


@pytest.fixture
def config(compose: Callable[..., RunConfig]) -> RunConfig:
    return compose("model=debug", "tokenizer=char", "positional_encoding=sinusoidal")


@pytest.fixture
def model(config: RunConfig) -> GPT:
    torch.manual_seed(0)
    return GPT(config.transformer_config(TOKENIZER.vocab_size)).eval()


@pytest.fixture
def state(config: RunConfig, model: GPT) -> dict[str, Any]:
    """What Lightning would hand over, as far as it matters here."""
    metadata = CheckpointMetadata(config.model_dump(), model.config, TOKENIZER)
    return {
        "state_dict": {f"model.{name}": tensor for name, tensor in model.state_dict().items()},
        "global_step": 7,
        "folio": {**metadata.to_plain(), "rng": rng_state(), "val": {"loss_nats": 1.5}},
    }


@pytest.fixture
def saved(state: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "checkpoints" / "last.ckpt"
    save(state, path)
    return path


def test_a_checkpoint_alone_gives_back_model_tokenizer_and_config(saved: Path, model: GPT, config: RunConfig) -> None:
    trained = load_checkpoint(saved, "cpu")
    tokens = torch.from_numpy(TOKENIZER.encode("gabcdef")).long()[None]
    assert torch.equal(trained.model(tokens), model(tokens))
    assert not trained.model.training
    assert trained.tokenizer.state() == TOKENIZER.state()
    assert trained.config == config
    assert trained.step == 7
    assert trained.val == {"loss_nats": 1.5}


@pytest.mark.parametrize(
    "overrides",
    [
        ("model=encoder_small", "objective=masked_lm"),
        ("model=encoder_decoder_small", "objective=prefix_lm", "conditioning=cross_attention"),
        ("model.family=encoder_decoder", "objective=prefix_lm", "conditioning=hidden_cache"),
        (
            "model.norm_position=post",
            "model.norm=rms_norm",
            "model.activation=swiglu",
            "model.qk_norm=true",
            "model.init=xavier",
            "positional_encoding=rotary",
            "model.tie_weights=false",
        ),
    ],
    ids=" ".join,
)
def test_a_checkpoint_alone_gives_back_a_model_of_any_kind(
    overrides: tuple[str, ...], compose: Callable[..., RunConfig], tmp_path: Path
) -> None:
    config = compose("tokenizer=char", "model.d_model=8", "model.n_heads=2", "model.n_layers=2", *overrides)
    model = build_model(config.transformer_config(TOKENIZER.vocab_size + 1)).eval()
    metadata = CheckpointMetadata(config.model_dump(), model.config, TOKENIZER)
    state = {
        "state_dict": {f"model.{name}": tensor for name, tensor in model.state_dict().items()},
        "global_step": 7,
        "folio": {**metadata.to_plain(), "rng": rng_state(), "val": {}},
    }
    save(state, tmp_path / "last.ckpt")
    trained = load_checkpoint(tmp_path / "last.ckpt", "cpu")
    assert type(trained.model) is type(model)
    assert trained.model.config == model.config
    assert trained.config == config
    tokens = torch.from_numpy(TOKENIZER.encode("gabcdef")).long()[None]
    inputs = (tokens, tokens[:, :3]) if config.model.family == "encoder_decoder" else (tokens,)
    assert torch.equal(trained.model(*inputs), model(*inputs))


def test_a_checkpoint_is_read_by_torchs_safe_loader(saved: Path, state: dict[str, Any]) -> None:
    read = torch.load(saved, weights_only=True)
    assert read["folio"]["config"] == state["folio"]["config"]
    assert read["folio"]["tokenizer"] == TOKENIZER.state()


def disk_full_while_writing(state: Any, file: Any) -> None:
    file.write(b"half of it")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def no_permission_to_replace(source: Path, target: Path) -> None:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


@pytest.mark.parametrize(
    ("name", "failure"),
    [("folio.runs.checkpoints.torch.save", disk_full_while_writing), ("os.replace", no_permission_to_replace)],
)
def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(
    name: str, failure: Callable[..., None], saved: Path, state: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = saved.read_bytes()
    monkeypatch.setattr(name, failure)
    with pytest.raises(FolioError, match=r"last\.ckpt cannot be written \((No space left|Permission denied)"):
        save({**state, "global_step": 8}, saved)
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == ["last.ckpt"]


def test_a_save_replaces_the_old_file_and_leaves_nothing_else(saved: Path, state: dict[str, Any]) -> None:
    save({**state, "global_step": 8}, saved)
    assert load(saved)["global_step"] == 8
    assert os.listdir(saved.parent) == ["last.ckpt"]


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("kind", ["absent", "empty", "garbage", "truncated", "a folder", "a bare pickle"])
def test_what_cannot_be_read_is_one_line_naming_the_file(kind: str, mmap: bool, saved: Path) -> None:
    whole = saved.read_bytes()
    saved.unlink()
    if kind == "a folder":
        saved.mkdir()
    elif kind != "absent":
        damaged = {
            "empty": b"",
            "garbage": b"O Romeo, Romeo! " * 100,
            "truncated": whole[: len(whole) // 2],
            "a bare pickle": pickle.dumps({"folio": 1}),
        }
        saved.write_bytes(damaged[kind])
    with pytest.raises(FolioError, match=r"^.*last\.ckpt is not a checkpoint that can be read \(.*\); choose another$"):
        load(saved, mmap=mmap)


@pytest.mark.parametrize("foreign", [{"state_dict": {}}, [1, 2, 3], torch.zeros(3), {"folio": None}], ids=str)
def test_a_checkpoint_of_another_program_is_refused(foreign: object, tmp_path: Path) -> None:
    torch.save(foreign, tmp_path / "other.ckpt")
    with pytest.raises(FolioError, match=r"other\.ckpt was not written by Folio; give a checkpoint from a run folder$"):
        load(tmp_path / "other.ckpt")


def test_a_checkpoint_of_a_later_format_says_which_version_wrote_it(state: dict[str, Any], tmp_path: Path) -> None:
    state["folio"] |= {"format": FORMAT + 1, "version": "0.9.0"}
    save(state, tmp_path / "newer.ckpt")
    with pytest.raises(
        FolioError, match=rf"newer\.ckpt has format {FORMAT + 1}, written by Folio 0\.9\.0; .* to {FORMAT}: use"
    ):
        load(tmp_path / "newer.ckpt")


class Gadget:
    """Makes a file when it is unpickled, as malware would do worse."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


@pytest.mark.parametrize("mmap", [False, True])
def test_loading_runs_nothing_that_is_in_the_file(mmap: bool, tmp_path: Path) -> None:
    file, trace = tmp_path / "evil.ckpt", tmp_path / "trace"
    torch.save({"folio": Gadget(trace)}, file)
    with pytest.raises(FolioError, match=r"evil\.ckpt is not a checkpoint that can be read"):
        load(file, mmap=mmap)
    assert not trace.exists()
    torch.load(file, weights_only=False)
    assert trace.exists()  # the gadget does work where it is let


def draws() -> list[float]:
    return [torch.rand(()).item(), random.random(), random.gauss(0.0, 1.0)]


def test_the_generators_go_on_after_a_checkpoint_as_if_there_were_none(state: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(5)
    random.seed(5)
    draws()  # an odd number of Gaussian draws keeps one back, which belongs to the state
    state["folio"]["rng"] = rng_state()
    save(state, tmp_path / "last.ckpt")
    expected = draws()
    draws()
    set_rng_state(load(tmp_path / "last.ckpt")["folio"]["rng"])
    assert draws() == expected
