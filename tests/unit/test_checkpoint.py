"""A checkpoint is complete or absent, plain data, and enough to use the model without the run folder."""

import errno
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from folio.config.run import RunConfig
from folio.config.tokenizer import TOKENIZERS, load_tokenizer
from folio.data.tokenizers.base import LearnedTokenizer
from folio.data.tokenizers.char import CharTokenizer
from folio.export.tokenizer import tokenizer_json
from folio.models import GPT, build_model
from folio.runs.checkpoints import (
    CALLBACK_KEYS_BEFORE_4,
    FORMAT,
    CheckpointMetadata,
    load_checkpoint,
    read_checkpoint,
    save_checkpoint,
)
from folio.runtime.errors import FolioError
from folio.training.rank_state import get_rng_state

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
    """The relevant part of what Lightning would save."""
    metadata = CheckpointMetadata(config, model.config, TOKENIZER)
    return {
        "state_dict": {f"model.{name}": tensor for name, tensor in model.state_dict().items()},
        "global_step": 7,
        "folio": {**metadata.to_dict(), "rng": get_rng_state(), "val": {"loss_nats": 1.5}},
    }


@pytest.fixture
def saved(state: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "checkpoints" / "last.ckpt"
    save_checkpoint(state, path)
    return path


def test_a_checkpoint_alone_restores_model_tokenizer_and_config(saved: Path, model: GPT, config: RunConfig) -> None:
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
def test_a_checkpoint_alone_restores_a_model_of_any_kind(
    overrides: tuple[str, ...], compose: Callable[..., RunConfig], tmp_path: Path
) -> None:
    config = compose("tokenizer=char", "model.d_model=8", "model.n_heads=2", "model.n_layers=2", *overrides)
    model = build_model(config.transformer_config(TOKENIZER.vocab_size + 1)).eval()
    metadata = CheckpointMetadata(config, model.config, TOKENIZER)
    state = {
        "state_dict": {f"model.{name}": tensor for name, tensor in model.state_dict().items()},
        "global_step": 7,
        "folio": {**metadata.to_dict(), "rng": get_rng_state(), "val": {}},
    }
    save_checkpoint(state, tmp_path / "last.ckpt")
    trained = load_checkpoint(tmp_path / "last.ckpt", "cpu")
    assert type(trained.model) is type(model)
    assert trained.model.config == model.config
    assert trained.config == config
    tokens = torch.from_numpy(TOKENIZER.encode("gabcdef")).long()[None]
    inputs = (tokens, tokens[:, :3]) if config.model.family == "encoder_decoder" else (tokens,)
    assert torch.equal(trained.model(*inputs), model(*inputs))


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_checkpoint_keeps_any_tokenizer(name: str, state: dict[str, Any], assets_dir: Path, tmp_path: Path) -> None:
    kind = TOKENIZERS[name].load_code()
    if name == "huggingface":
        tokenizer = kind.of(tokenizer_json(TOKENIZER).encode())
    else:
        tokenizer = kind.from_text("abc") if issubclass(kind, LearnedTokenizer) else kind.create(name, assets_dir)
    state["folio"]["tokenizer"] = tokenizer.state()
    save_checkpoint(state, tmp_path / "last.ckpt")
    assert load_tokenizer(read_checkpoint(tmp_path / "last.ckpt")["folio"]["tokenizer"]).state() == tokenizer.state()


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
        save_checkpoint({**state, "global_step": 8}, saved)
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == ["last.ckpt"]


def test_a_save_replaces_the_old_file_and_leaves_nothing_else(saved: Path, state: dict[str, Any]) -> None:
    save_checkpoint({**state, "global_step": 8}, saved)
    assert read_checkpoint(saved)["global_step"] == 8
    assert os.listdir(saved.parent) == ["last.ckpt"]


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("kind", ["absent", "empty", "garbage", "truncated", "a folder", "a bare pickle"])
def test_a_file_that_cannot_be_read_is_named_in_one_line(kind: str, mmap: bool, saved: Path) -> None:
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
        read_checkpoint(saved, mmap=mmap)


@pytest.mark.parametrize("foreign", [{"state_dict": {}}, [1, 2, 3], torch.zeros(3), {"folio": None}], ids=str)
def test_a_checkpoint_of_another_program_is_refused(foreign: object, tmp_path: Path) -> None:
    torch.save(foreign, tmp_path / "other.ckpt")
    with pytest.raises(FolioError, match=r"other\.ckpt was not written by Folio; give a checkpoint from a run folder$"):
        read_checkpoint(tmp_path / "other.ckpt")


def test_a_checkpoint_of_a_later_format_names_the_version_that_wrote_it(state: dict[str, Any], tmp_path: Path) -> None:
    state["folio"] |= {"format": FORMAT + 1, "version": "0.9.0"}
    save_checkpoint(state, tmp_path / "newer.ckpt")
    with pytest.raises(
        FolioError, match=rf"newer\.ckpt has format {FORMAT + 1}, written by Folio 0\.9\.0; .* to {FORMAT}: use"
    ):
        read_checkpoint(tmp_path / "newer.ckpt")


class Gadget:
    """Creates a file when it is unpickled; malware would do worse."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


@pytest.mark.parametrize("mmap", [False, True])
def test_loading_executes_nothing_in_the_file(mmap: bool, tmp_path: Path) -> None:
    file, trace = tmp_path / "evil.ckpt", tmp_path / "trace"
    torch.save({"folio": Gadget(trace)}, file)
    with pytest.raises(FolioError, match=r"evil\.ckpt is not a checkpoint that can be read"):
        read_checkpoint(file, mmap=mmap)
    assert not trace.exists()
    torch.load(file, weights_only=False)
    assert trace.exists()  # the gadget works if it is allowed to


def test_a_checkpoint_of_format_3_is_read_with_todays_keys() -> None:
    """Up to format 3 the states of callbacks had the names of their classes."""
    path = Path(__file__).parents[1] / "golden" / "run_format_3" / "run" / "checkpoints" / "last.ckpt"
    assert torch.load(path, weights_only=True)["callbacks"].keys() == CALLBACK_KEYS_BEFORE_4.keys()
    state = read_checkpoint(path)
    assert state["folio"]["format"] == 3
    assert state["callbacks"].keys() == {"metrics", "checkpoints", "throughput"}
