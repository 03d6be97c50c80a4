"""Files from strangers are read as data: nothing in them runs, leads elsewhere, or grows when it is read.

Each test also shows that its payload works if it is allowed to.
"""

import json
import os
import pickle
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from gadget import Gadget
from safetensors.torch import load_file, save_file

from folio.cli.compose import validate
from folio.cli.resume import check_same_text
from folio.config.run import RunConfig
from folio.config.section import ConfigError
from folio.config.tokenizer import load_tokenizer
from folio.data import assets
from folio.data.assets import Asset, Wheel, extract_member, fetch
from folio.data.token_file import TokenFile, TokenFileError, sidecar_path, write_token_file
from folio.data.tokenizers.base import UnknownTokens
from folio.data.tokenizers.char import CharTokenizer
from folio.data.tokenizers.state import state_from_json
from folio.models import GPT
from folio.models.formats.fields import FormatError
from folio.models.formats.folder import check_folder
from folio.models.pretrained import load_pretrained, save_pretrained
from folio.runs.checkpoints import CheckpointMetadata, load_checkpoint, read_checkpoint, save_checkpoint
from folio.runs.folders import find_checkpoint, read_config
from folio.runtime.errors import FolioError
from folio.runtime.terminal import printable
from folio.training.summary import RunSummary

ROOT = Path(__file__).parents[2]
TOKENIZER = CharTokenizer("abcdefg")


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """Return a file that payloads create."""
    return tmp_path / "canary"


@pytest.fixture
def state(compose: Callable[..., RunConfig]) -> dict[str, Any]:
    config = compose("model=debug", "tokenizer=char", "model.d_model=8")
    model = GPT(config.transformer_config(TOKENIZER.vocab_size))
    return {
        "state_dict": {f"model.{name}": tensor for name, tensor in model.state_dict().items()},
        "global_step": 7,
        "folio": {**CheckpointMetadata(config, model.config, TOKENIZER).to_dict(), "val": {}},
    }


@pytest.fixture
def gpt2(tmp_path: Path, compose: Callable[..., RunConfig]) -> Path:
    config = compose("model=debug", "model.d_model=8", "model.bias=true")
    save_pretrained(GPT(config.transformer_config(11)), tmp_path / "gpt2")
    return tmp_path / "gpt2"


def refused(path: Path) -> str:
    with pytest.raises(FolioError) as caught:
        load_checkpoint(path, "cpu")
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_pickle_in_a_checkpoint_runs_nothing(zipped: bool, state: dict[str, Any], canary: Path) -> None:
    path = canary.with_name("evil.ckpt")
    state["folio"]["gadget"] = Gadget(canary)
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    refused(path)
    assert not canary.exists()
    torch.load(path, weights_only=False)
    assert canary.exists()


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_pickle_in_the_weights_of_a_gpt2_runs_nothing(zipped: bool, gpt2: Path, canary: Path) -> None:
    (gpt2 / "model.safetensors").unlink()
    path = gpt2 / "pytorch_model.bin"
    torch.save({"wte.weight": Gadget(canary)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(FormatError, match=r"pytorch_model\.bin cannot be read"):
        check_folder(gpt2)
    assert not canary.exists()
    torch.load(path, weights_only=False)
    assert canary.exists()


def test_a_pickle_in_place_of_tokens_does_not_match_its_sidecar(tmp_path: Path, canary: Path) -> None:
    path = tokens_in(tmp_path)
    path.write_bytes(pickle.dumps(Gadget(canary)))
    with pytest.raises(TokenFileError):
        TokenFile.open(path)
    assert not canary.exists()
    pickle.loads(path.read_bytes())
    assert canary.exists()


def test_the_package_calls_no_function_that_may_run_code_from_a_file() -> None:
    """numpy.load may unpickle; yaml.load, eval, exec and Hydra's instantiate can run any code."""
    dangerous = re.compile(
        r"\b(pickle|marshal|shelve|joblib)\.loads?\b|\bnp\.(load|fromfile)\(|allow_pickle|\binstantiate\(|weights_only=False"
        r"|(?<![.\w`])(eval|exec)\(|load_from_checkpoint|yaml\.(load|unsafe_load|full_load)\((?!.*(Safe|Plain)Loader)"
    )
    files = [ROOT / "train.py", *ROOT.glob("scripts/*.py"), *ROOT.glob("src/**/*.py")]
    assert len(files) > 50
    assert not [f"{path}: {match[0]}" for path in files if (match := dangerous.search(path.read_text("utf-8")))]


def test_a_compressed_checkpoint_is_not_decompressed(state: dict[str, Any], tmp_path: Path) -> None:
    save_checkpoint(state, tmp_path / "good.ckpt")
    with zipfile.ZipFile(tmp_path / "good.ckpt") as good, zipfile.ZipFile(tmp_path / "bomb.ckpt", "w") as bomb:
        for name in good.namelist():
            bomb.writestr(name, good.read(name), zipfile.ZIP_DEFLATED)
        bomb.writestr("archive/data/bomb", b"\0" * 2**26, zipfile.ZIP_DEFLATED)
    assert (tmp_path / "bomb.ckpt").stat().st_size < 2**18
    assert "compressed members" in refused(tmp_path / "bomb.ckpt")


@pytest.mark.parametrize(
    "change",
    [
        {"d_model": 10**9, "n_heads": 1},
        {"d_model": 2**24, "n_heads": 1},
        {"n_layers": 10**9},
        {"n_layers": 9_999},
        {"vocab_size": 2**24},
        {"d_ff": 2**24},
        {"n_layers": "many"},
        {"n_heads": 0},
        {"stranger": 1},
        {"positional_encoding": "os.system"},
    ],
    ids=str,
)
def test_a_size_that_the_weights_do_not_have_is_refused_before_memory_is_allocated(
    change: dict[str, Any], state: dict[str, Any], tmp_path: Path
) -> None:
    state["folio"]["model"] |= change
    save_checkpoint(state, tmp_path / "lie.ckpt")
    assert "is damaged" in refused(tmp_path / "lie.ckpt")


def test_a_tensor_larger_than_its_file_is_refused(state: dict[str, Any], tmp_path: Path) -> None:
    name = "model.token_embedding.weight"
    state["folio"]["model"]["vocab_size"] = 2**20
    for key in (name, "model.output.weight"):
        state["state_dict"][key] = torch.zeros(1, 1).expand(2**20, 8)
    torch.save(state, tmp_path / "lie.ckpt")
    assert (tmp_path / "lie.ckpt").stat().st_size < 2**18
    assert "the file does not hold that many values" in refused(tmp_path / "lie.ckpt")


@pytest.mark.parametrize("key", ["state_dict", "config", "model", "tokenizer"])
@pytest.mark.parametrize("value", [None, [], "x", {}, {"model.x": 3}], ids=str)
def test_a_wrong_value_in_a_checkpoint_is_reported_in_one_line(
    key: str, value: object, state: dict[str, Any], tmp_path: Path
) -> None:
    (state if key == "state_dict" else state["folio"])[key] = value
    save_checkpoint(state, tmp_path / "part.ckpt")
    refused(tmp_path / "part.ckpt")


@pytest.mark.parametrize("key", ["state_dict", "global_step", "config", "model", "tokenizer", "val"])
def test_a_missing_value_in_a_checkpoint_is_reported_in_one_line(
    key: str, state: dict[str, Any], tmp_path: Path
) -> None:
    del (state["folio"] if key in state["folio"] else state)[key]
    save_checkpoint(state, tmp_path / "part.ckpt")
    refused(tmp_path / "part.ckpt")


class Call:
    """Pickles to a call."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


ALLOCATE = """
import resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))
from folio.models.formats.fields import FormatError
from folio.models.formats.folder import check_folder
from folio.runs.checkpoints import load_checkpoint
for read, path in ((lambda path: load_checkpoint(path, "cpu"), sys.argv[1]), (check_folder, sys.argv[2])):
    try:
        read(Path(path))
    except ValueError as error:
        print(error)
print(max(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0))
"""


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_small_file_that_asks_for_gigabytes_is_refused_before_torch_reads_it(
    zipped: bool, state: dict[str, Any], gpt2: Path, tmp_path: Path
) -> None:
    """weights_only=True allows bytearray(n): 31 kB once took 6 GB."""
    bomb = [Call(bytearray, 2**31) for _ in range(4)]
    state["folio"]["bomb"] = bomb
    torch.save(state, tmp_path / "bomb.ckpt", _use_new_zipfile_serialization=zipped)
    (gpt2 / "model.safetensors").unlink()
    torch.save({"wte.weight": bomb}, gpt2 / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    command = [sys.executable, "-c", ALLOCATE, str(tmp_path / "bomb.ckpt"), str(gpt2)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    checkpoint, weights, peak = result.stdout.splitlines()
    assert "bomb.ckpt" in checkpoint
    assert ("bytearray" if zipped else "no archive of torch.save") in checkpoint
    assert "pytorch_model.bin" in weights
    assert int(peak) < 1.5 * 2**20  # KiB, most of them torch's own


def nested_shared_lists() -> list[Any]:
    value: list[Any] = ["x"]
    for _ in range(60):
        value = [value, value]  # printed in full it would have 2^60 parts
    return value


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("global_step", -1),
        ("global_step", 2**70),
        ("global_step", True),
        ("global_step", "7\x1b[2J"),
        ("global_step", nested_shared_lists()),
        ("format", True),
        ("format", nested_shared_lists()),
        ("val", {"loss_nats": "low"}),
        ("val", {3: 1.0}),
        ("val", {"loss_nats": nested_shared_lists()}),
        ("tokenizer", {"name": nested_shared_lists()}),
        ("config", {"name": nested_shared_lists()}),
        ("version", torch.zeros(3)),
    ],
    ids=range(13),
)
def test_values_of_a_wrong_type_are_reported_short_and_printable(
    key: str, value: object, state: dict[str, Any], tmp_path: Path
) -> None:
    (state["folio"] if key in state["folio"] else state)[key] = value
    if key == "version":
        state["folio"]["format"] = 99
    torch.save(state, tmp_path / "part.ckpt")
    assert len(refused(tmp_path / "part.ckpt")) < 2000


def test_weights_that_are_not_finite_are_refused(state: dict[str, Any], tmp_path: Path) -> None:
    name = next(iter(state["state_dict"]))
    state["state_dict"][name] = torch.full_like(state["state_dict"][name], torch.nan)
    save_checkpoint(state, tmp_path / "nan.ckpt")
    assert "NaN or infinite" in refused(tmp_path / "nan.ckpt")


def test_weights_of_a_gpt2_that_are_not_finite_are_refused(gpt2: Path) -> None:
    weights = load_file(gpt2 / "model.safetensors")
    weights["transformer.wpe.weight"][0, 0] = torch.inf
    save_file(weights, gpt2 / "model.safetensors")
    with pytest.raises(FormatError, match=r"wpe\.weight holds NaN or infinite values"):
        load_pretrained(gpt2)


@pytest.mark.parametrize("kind", ["fifo", "device", "folder"])
def test_a_checkpoint_that_is_no_regular_file_is_refused_at_once(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    {"fifo": os.mkfifo, "device": lambda path: path.symlink_to("/dev/zero"), "folder": Path.mkdir}[kind](path)
    refused(path)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.float32])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_what_a_gpt2_folder_holds_besides_weights_may_have_any_type(dtype: torch.dtype, name: str, gpt2: Path) -> None:
    """transformers wrote causal masks as uint8 and bool (and OpenAI's files as float32)."""
    weights = load_file(gpt2 / "model.safetensors")
    masks = {f"transformer.h.{layer}.attn.bias": torch.ones(1, 1, 8, 8).to(dtype) for layer in range(2)}
    (gpt2 / "model.safetensors").unlink()
    if name.endswith("bin"):
        torch.save(weights | masks, gpt2 / name)
    else:
        save_file(weights | masks, gpt2 / name)
    check_folder(gpt2)
    assert load_pretrained(gpt2).config.n_layers == 2


def test_a_class_named_in_a_config_is_an_unknown_key(state: dict[str, Any], tmp_path: Path) -> None:
    state["folio"]["config"]["model"]["_target_"] = "os.system"
    save_checkpoint(state, tmp_path / "target.ckpt")
    assert "model._target_" in refused(tmp_path / "target.ckpt")


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch {canary}']",
        "seed: !!python/object/apply:os.system ['touch {canary}']",
        "a: &a [x, x]\nb: [*a, *a]",
        "[" * 5000,
        "seed: " + "1" * 5000,
        "- a\n- b",
        "",
        "a: [",
        "\x00",
    ],
    ids=["a tag", "a tag inside", "a reference", "deep", "long", "a list", "empty", "broken", "NUL"],
)
def test_a_config_file_without_plain_values_is_reported_in_one_line(text: str, tmp_path: Path, canary: Path) -> None:
    (tmp_path / "config.yaml").write_text(text.replace("{canary}", str(canary)))
    with pytest.raises(FolioError) as caught:
        read_config(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "config.yaml") in str(caught.value)
    assert not canary.exists()
    if "!!python" in text:
        yaml.unsafe_load((tmp_path / "config.yaml").read_text())
        assert canary.exists()


def test_the_config_file_of_a_run_is_not_interpolated(tmp_path: Path, compose: Callable[..., RunConfig]) -> None:
    values = compose("model=debug").model_dump()
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values | {"resume": "${oc.env:HOME}"}))
    assert validate(read_config(tmp_path)).resume == "${oc.env:HOME}"


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "a/b", "..", "\x1b[2J"])
def test_a_config_cannot_name_a_folder_elsewhere(name: str, compose: Callable[..., RunConfig]) -> None:
    values = compose("model=debug").model_dump()
    for key in ("name", "model"):
        with pytest.raises(ConfigError, match=f"^{key}"):
            validate(values | {key: name if key == "name" else values["model"] | {"name": name}})


@pytest.mark.parametrize("which", ["../../x", "step=../../x", "step=1/../../x", "/etc/passwd", "*"])
def test_a_checkpoint_is_searched_only_in_its_run(which: str, tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "best.ckpt").touch()
    (tmp_path / "x.ckpt").touch()
    (tmp_path / "run" / "metrics.json").write_text('{"best_checkpoint": "../x.ckpt"}')
    assert find_checkpoint(str(tmp_path / "run"), tmp_path).name == "best.ckpt"
    with pytest.raises(FolioError, match="no such checkpoint"):
        find_checkpoint(str(tmp_path / "run"), tmp_path, which)


@pytest.mark.parametrize("piece", ["../secret.safetensors", "/etc/secret.safetensors", "a/b.safetensors", 5])
def test_an_index_can_only_name_files_beside_it(piece: object, gpt2: Path) -> None:
    (gpt2 / "model.safetensors").replace(gpt2.parent / "secret.safetensors")
    (gpt2 / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"wte.weight": piece}}))
    with pytest.raises(FormatError, match=r"which is no \.safetensors file beside it"):
        check_folder(gpt2)


@pytest.mark.parametrize("n_bytes", [2**63, 2**40, 10**8])
def test_a_header_of_absurd_size_is_refused(n_bytes: int, gpt2: Path) -> None:
    (gpt2 / "model.safetensors").write_bytes(n_bytes.to_bytes(8, "little") + b"{}")
    with pytest.raises(FormatError, match=r"model\.safetensors cannot be read"):
        check_folder(gpt2)


@pytest.mark.parametrize("change", [{"n_embd": 10**9}, {"n_layer": 10**9}, {"n_positions": 10**12}], ids=str)
def test_a_gpt2_config_of_absurd_size_is_refused(change: dict[str, int], gpt2: Path) -> None:
    values = json.loads((gpt2 / "config.json").read_text())
    (gpt2 / "config.json").write_text(json.dumps(values | change))
    with pytest.raises(FormatError, match=next(iter(change))):
        check_folder(gpt2)


def test_weights_larger_than_their_file_are_refused(gpt2: Path) -> None:
    (gpt2 / "model.safetensors").unlink()
    torch.save({"wte.weight": torch.zeros(1, 1).expand(2**24, 2**10)}, gpt2 / "pytorch_model.bin")
    with pytest.raises(FormatError, match="the file does not hold that many values"):
        load_pretrained(gpt2)


@pytest.mark.parametrize("model_type", ["gpt2", "mine"])
def test_code_in_a_model_folder_is_never_imported(model_type: str, gpt2: Path, canary: Path) -> None:
    """transformers would import it with trust_remote_code=True."""
    values = json.loads((gpt2 / "config.json").read_text())
    code = {"AutoConfig": "configuration_mine.MineConfig", "AutoModelForCausalLM": "modeling_mine.Mine"}
    wanted = {"auto_map": code, "trust_remote_code": True, "model_type": model_type, "architectures": ["Mine"]}
    (gpt2 / "config.json").write_text(json.dumps(values | wanted))
    for name in ("configuration_mine", "modeling_mine", "modeling_gpt2", "__init__"):
        (gpt2 / f"{name}.py").write_text(f"open({str(canary)!r}, 'w')")
    if model_type == "gpt2":
        load_pretrained(gpt2)
    else:
        with pytest.raises(FormatError, match="and code in a folder is never run; choose another folder"):
            load_pretrained(gpt2)
    assert not canary.exists()


def tokens_in(folder: Path) -> Path:
    path = folder / "train.bin"
    pieces = [(TOKENIZER.encode("abcdefg" * 10), UnknownTokens())]
    about = {"tokenizer": "char", "tokenizer_fingerprint": "", "split": "train", "n_bytes": 70, "source_sha256": ""}
    write_token_file(path, pieces, vocab_size=7, **about)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize(
    "change",
    [
        {"path": "/etc/passwd"},
        {"n_tokens": 10**15},
        {"n_tokens": -1},
        {"dtype": "|O"},
        {"dtype": "<u4"},
        {"vocab_size": 2},
        {"vocab_size": 2**40},
        {"format": 10**9},
        {"n_tokens": "70"},
        {"spelling_bits": -1e400},
        {"n_unknown": 71},
    ],
    ids=str,
)
def test_a_false_sidecar_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    path = tokens_in(tmp_path)
    assert TokenFile.open(path).info.n_tokens == 70
    fields = json.loads(sidecar_path(path).read_text())
    sidecar_path(path).write_text(json.dumps(fields | change))
    with pytest.raises(TokenFileError) as caught:
        TokenFile.open(path)
    assert "\n" not in str(caught.value)


DAMAGED_JSON = [b"", b"{", b"[1]", b"null", b'"x"', b"[" * 100_000, b"\xff", b"{}", b'{"name": 3}']


@pytest.mark.parametrize("content", DAMAGED_JSON, ids=lambda content: repr(content[:9]))
def test_damaged_json_is_reported_in_one_line(content: bytes, tmp_path: Path, gpt2: Path) -> None:
    with pytest.raises(ValueError, match=r"^.+$"):
        load_tokenizer(state_from_json(content))
    path = tokens_in(tmp_path)
    sidecar_path(path).write_bytes(content)
    with pytest.raises(TokenFileError):
        TokenFile.open(path)
    (tmp_path / "preflight.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"preflight\.json is damaged"):
        check_same_text(tmp_path, "abc")
    if not content.startswith(b"{"):
        (gpt2 / "config.json").write_bytes(content)
        with pytest.raises(FormatError, match=r"config\.json"):
            check_folder(gpt2)


def test_a_wheel_with_too_large_a_member_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "LARGEST_ASSET_BYTES", 2**16)
    (tmp_path / "wheels").mkdir()
    with zipfile.ZipFile(tmp_path / "wheels" / "bomb-1-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("text", b"\0" * 2**20)
    asset = Asset("text", "0" * 64, None, Wheel("bomb", "1", None, extract_member("text")))
    with pytest.raises(FolioError, match="a file of 1048576 bytes"):
        fetch(asset, tmp_path)
    assert not (tmp_path / "text").exists()


ESCAPES = "\x1b[2J\x1b]0;title\x07\r\x08\x7f\x9b31m\u202egnp\u2066\udcff"


def test_control_characters_are_made_visible() -> None:
    shown = printable(f"ROMEO:\n\t{ESCAPES} né 木")
    assert shown == r"ROMEO:" + "\n\t" + r"\x1b[2J\x1b]0;title\x07\r\x08\x7f\x9b31m\u202egnp\u2066\udcff né 木"


def test_a_path_with_rich_markup_is_shown_literally(capsys: pytest.CaptureFixture[str]) -> None:
    from folio.runtime.console import console

    kinds = RunSummary.__dataclass_fields__.items()
    of_kind = {int: 1, float: 1.0, list[str]: ["x"]}
    values: dict[str, Any] = {name: of_kind.get(field.type, "x") for name, field in kinds}
    figures = RunSummary(**(values | {"data": "[/b][link=http://x]a\x1b[2J.txt"}))
    console.print(figures.table())
    assert r"[/b][link=http://x]a\x1b[2J.txt" in capsys.readouterr().out
    assert asdict(figures)["data"] == "[/b][link=http://x]a\x1b[2J.txt"


def test_a_log_shows_escape_sequences_instead_of_sending_them(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from folio.runtime.console import log, start_log
start_log(Path({str(tmp_path / "train.log")!r}))
log.info("a\\x1b[2J<b>[red]")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "a\\x1b[2J<b>[red]\n"


def test_a_good_checkpoint_is_still_read(state: dict[str, Any], tmp_path: Path) -> None:
    save_checkpoint(state, tmp_path / "good.ckpt")
    assert load_checkpoint(tmp_path / "good.ckpt", "cpu").step == 7
    assert read_checkpoint(tmp_path / "good.ckpt")["global_step"] == 7
