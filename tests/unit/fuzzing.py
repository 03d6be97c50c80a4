"""Try damaged and hostile files on every reader of Folio, in a process with limits of memory and time.

    python tests/unit/fuzzing.py FOLDER EXAMPLES SEED [READER ...]

prints one line of JSON for each reader: how many files were tried, how many of them were refused, and the faults found.
A reader may return a value or raise the error that its documentation names, with a message of one line; anything else
is a fault: another error, a message about memory, much memory, much time. `current` in FOLDER is the file being read,
should the process die of it.
"""

import copy
import gzip
import importlib
import io
import json
import logging
import math
import os
import pickle
import pickletools
import resource
import shutil
import signal
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import torch
import yaml
from hydra import compose, initialize_config_dir
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from folio.cli.compose import validate
from folio.cli.config_files import read_config_file
from folio.cli.errors import single_line
from folio.cli.resume import check_same_experiment, check_same_text
from folio.config.checks import check_config
from folio.config.migrations import migrate_config
from folio.config.run import RunConfig
from folio.config.tokenizer import TOKENIZERS, choose_tokenizer, read_tokenizer_file
from folio.data.corpora.prepared_folder import PreparedFolder
from folio.data.corpora.single_text import TextFile
from folio.data.corpora.text_files import TextFiles
from folio.data.tokenizers.state import state_to_json
from folio.figures.curves import read_curves
from folio.models import GPT, GPTConfig
from folio.models.formats.fields import FormatError
from folio.models.formats.folder import check_folder
from folio.models.pretrained import load_pretrained, save_pretrained
from folio.models.rotary_scaling import RotaryScaling
from folio.report.page import to_html
from folio.report.report import make_report, report_commands
from folio.report.tables import groups_csv, runs_csv, to_markdown
from folio.report.writing import write_report
from folio.runs.checkpoints import CheckpointMetadata, load_checkpoint, save_checkpoint, stored_config
from folio.runs.description import write_description
from folio.runs.folders import read_config
from folio.runs.rewind import rewind
from folio.runtime.errors import FolioError
from folio.runtime.memory import peak_bytes, reset_peak, resident_bytes
from folio.sweeps.manifest import listed_jobs, read_manifest, refresh_statuses, varied_keys
from folio.sweeps.search import intermediate_values, objective_value

CONF = Path(__file__).parents[2] / "conf"
TEXT = "The quality of mercy is not strain'd, it droppeth as the gentle rain from heaven.\n" * 12

ADDRESS_SPACE = 2**30
"""Bytes that a reader may ask for beyond what the process has before."""

MAX_GROWTH = 2**28
"""Bytes by which the memory of the process may grow over the reading of one file."""

MAX_CPU_S = 5.0
"""Seconds of the processor that the reading of one file may take. Folio promises 2; a busy machine needs more."""

# What to read, and how


@dataclass
class Reader:
    """A kind of file: a good folder, the file in it that is changed, and the function that reads it."""

    name: str
    make: Callable[[Path], None]
    file: str
    read: Callable[[Path], Any]
    changes: "list[Change]"
    errors: tuple[type[Exception], ...] = (FolioError,)
    share: float = 1.0
    """Share of the examples that are tried, for readers that take long."""


@dataclass
class Outcome:
    """What was tried on one reader."""

    reader: str
    tried: int = 0
    refused: int = 0
    faults: list[str] = field(default_factory=list)


Change = Callable[[bytes], st.SearchStrategy[bytes]]
"""Takes the content of a good file, and returns the strategy of its changed contents."""

# Changes

INTERESTING = (
    b"\0",
    b"\xff",
    b"\n",
    b"\r",
    b'"',
    b"{",
    b"[",
    b"9" * 5000,
    b"[" * 5000,
    b"\xff" * 8,
    b"\x7f" * 4,
    b"-",
    b"e",
)

HOSTILE: list[Any] = [
    None, True, False, -1, 0, 1, 2**31, 2**53, 2**63, 2**70, 10**300, 10**399, -(10**350), 0.5, -0.0, 1e308, math.inf,
    math.nan, "", "x" * 5000, "\x1b[2J", "\udcff", "\0", "../../x", "/etc/passwd", "${oc.env:HOME}", "$x$", "$\\frac{",
    "[/b]", "!!python/name:os.system", "1e400", "inf", "nan", "9" * 5000, "step=1", [], {}, [[]], [None], {"": None},
    {"_target_": "os.system"}, [1, "a", None], "latest", "\u202e", "\n", "a\nb", "é", 7.0,
]  # fmt: skip
"""Values that a careless reader does not expect."""


def nested(value: Any, depth: int) -> Any:
    for _ in range(depth):
        value = [value]
    return value


VALUES = (
    st.sampled_from(HOSTILE)
    | st.integers(1, 200).map(lambda depth: nested("x", depth))
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        max_leaves=6,
    )
)


def any_bytes(good: bytes) -> st.SearchStrategy[bytes]:
    return st.binary(max_size=200)


def changed_bytes(good: bytes) -> st.SearchStrategy[bytes]:
    """Some bytes overwritten, inserted or removed."""
    edit = st.tuples(
        st.integers(0, len(good)),
        st.sampled_from(["overwrite", "insert", "remove", "cut", "repeat"]),
        st.binary(min_size=1, max_size=8) | st.sampled_from(INTERESTING),
    )

    def apply(edits: list[tuple[int, str, bytes]]) -> bytes:
        data = bytearray(good)
        for position, kind, put in edits:
            if kind == "cut":
                del data[position:]
            elif kind == "repeat":
                data[position:position] = data[position : position + 64]
            else:
                n_removed = {"overwrite": len(put), "insert": 0, "remove": len(put)}[kind]
                data[position : position + n_removed] = b"" if kind == "remove" else put
        return bytes(data)

    return st.lists(edit, min_size=1, max_size=4).map(apply)


@st.composite
def changed_value(draw: st.DrawFn, good: Any, values: st.SearchStrategy[Any] = VALUES) -> Any:
    """A plain value with some of its parts replaced, removed or added."""
    value = [copy.deepcopy(good)]
    for _ in range(draw(st.integers(1, 3))):
        places = list(places_in(value))
        container, key = draw(st.sampled_from(places))
        action = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
        new = copy.copy(draw(values))
        if action == "replace" or container is value:
            container[key] = new
        elif action == "remove":
            del container[key]
        elif isinstance(container, dict):
            container[draw(st.text(max_size=4) | st.sampled_from(["_target_", "name", "hydra"]))] = new
        else:
            container.insert(key, new)
    return value[0]


def places_in(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each container with each of its keys."""
    if isinstance(value, dict | list):
        for key, child in list(value.items() if isinstance(value, dict) else enumerate(value)):
            yield value, key
            yield from places_in(child)


def changed_json(good: bytes) -> st.SearchStrategy[bytes]:
    return changed_value(json.loads(good)).map(lambda value: json.dumps(value).encode())


def changed_yaml(good: bytes) -> st.SearchStrategy[bytes]:
    return changed_value(yaml.safe_load(good)).map(lambda value: yaml.safe_dump(value).encode("utf-8", "replace"))


def changed_state(good: bytes) -> st.SearchStrategy[bytes]:
    """What torch.save writes, of changed values and tensors."""
    tensors: list[Any] = [
        torch.tensor(math.nan), torch.ones(0), torch.ones(3).to(torch.complex64), torch.zeros(1).expand(2**20, 2**20),
        torch.ones(2, 3).T, torch.ones(3).to_sparse(), torch.ones(2, dtype=torch.int8), (), (1, 2), b"\xff",
        torch.float16,
        torch.Size([1]), torch.nn.Parameter(torch.ones(1)), {1: 2, None: 3}, torch.device("cpu"), torch.tensor([2**62]),
    ]  # fmt: skip
    state = torch.load(io.BytesIO(good), weights_only=True)

    def saved(value: Any, zipped: bool) -> bytes:
        buffer = io.BytesIO()
        torch.save(value, buffer, _use_new_zipfile_serialization=zipped)
        return buffer.getvalue()

    values = changed_value(state, VALUES | st.sampled_from(tensors))
    return st.builds(saved, values, st.sampled_from([True, True, True, False]))


def changed_structure(good: bytes) -> st.SearchStrategy[bytes]:
    """A torch archive whose pickle was changed, with the right checksum; opcodes are swapped, repeated and removed."""
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    main = next(name for name in members if name.endswith("/data.pkl"))

    def packed(data: bytes) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, data if name == main else content)
        return buffer.getvalue()

    return (changed_bytes(members[main]) | changed_opcodes(members[main])).map(packed)


def changed_opcodes(good: bytes) -> st.SearchStrategy[bytes]:
    starts = [position for _, _, position in pickletools.genops(good) if position is not None]
    pieces = [good[a:b] for a, b in zip(starts, [*starts[1:], len(good)], strict=True)]
    edit = st.tuples(st.integers(0, len(pieces) - 1), st.integers(0, len(pieces) - 1), st.sampled_from("sdrk"))
    known = [getattr(pickle, name) for name in pickle.__all__ if isinstance(getattr(pickle, name), bytes)]

    def apply(edits: list[tuple[int, int, str]], opcode: bytes) -> bytes:
        changed = list(pieces)
        for a, b, kind in edits:
            if kind == "s":
                changed[a], changed[b] = changed[b], changed[a]
            elif kind == "d":
                changed[a] = b""
            elif kind == "r":
                changed[a] = changed[a] + pieces[b] * 3
            else:
                changed[a] = opcode
        return b"".join(changed)

    opcodes = st.sampled_from(known) if known else st.binary(min_size=1, max_size=1)
    return st.builds(apply, st.lists(edit, min_size=1, max_size=4), opcodes)


def changed_legacy(good: bytes) -> st.SearchStrategy[bytes]:
    """The same values as torch wrote them before 1.6, with changed bytes."""
    buffer = io.BytesIO()
    state = torch.load(io.BytesIO(good), weights_only=True)
    torch.save(state, buffer, _use_new_zipfile_serialization=False)
    return changed_bytes(buffer.getvalue())


def changed_safetensors(good: bytes) -> st.SearchStrategy[bytes]:
    (n_header,) = struct.unpack("<Q", good[:8])
    header, data = good[8 : 8 + n_header], good[8 + n_header :]

    def packed(header: bytes) -> bytes:
        return struct.pack("<Q", len(header)) + header + data

    return (changed_json(header) | changed_bytes(header)).map(packed)


def changed_events(good: bytes) -> st.SearchStrategy[bytes]:
    """A record whose bytes were changed, with the right length and checksums, after the good ones."""
    records = []
    position = 0
    while position < len(good):
        (length,) = struct.unpack("<Q", good[position : position + 8])
        records.append(good[position + 12 : position + 12 + length])
        position += 16 + length
    changed = st.sampled_from(records).flatmap(changed_bytes) | st.binary(max_size=60)
    return st.lists(changed, min_size=1, max_size=3).map(lambda data: good + b"".join(map(record, data)))


def record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + masked_crc(length) + data + masked_crc(data)


def masked_crc(data: bytes) -> bytes:
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    return struct.pack("<I", masked_crc32c(data))


def changed_lines(good: bytes) -> st.SearchStrategy[bytes]:
    """JSON Lines in which one was changed."""
    lines = good.splitlines(keepends=True)

    def put(number: int, line: bytes) -> bytes:
        return b"".join([*lines[:number], line + b"\n", *lines[number:]])

    return st.builds(put, st.integers(0, len(lines)), changed_json(lines[0]))


def compressed(pack: Callable[[bytes], bytes]) -> Change:
    """Lines changed before they are compressed."""
    return lambda good: changed_lines(DOCUMENTS).map(pack)


# Good files

DOCUMENTS = b"".join(json.dumps({"text": f"{number} {TEXT}", "id": number}).encode() + b"\n" for number in range(12))


def config(*words: str) -> RunConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        values = OmegaConf.to_container(compose("train", ["model=debug", "model.d_model=8", *words]), resolve=True)
    return RunConfig.model_validate(values)


CONFIG = config("tokenizer=char")
CHAR = TOKENIZERS["char"].load_code()("".join(sorted(set(TEXT))))


def make_checkpoint(folder: Path) -> None:
    model = GPT(CONFIG.transformer_config(CHAR.vocab_size))
    state = {
        "state_dict": {f"model.{name}": tensor for name, tensor in model.state_dict().items()},
        "global_step": 7,
        "callbacks": {"metrics": {"n": 1}},
        "folio": {**CheckpointMetadata(CONFIG, model.config, CHAR).to_dict(), "val": {"loss_nats": 1.5}},
    }
    save_checkpoint(state, folder / "last.ckpt")


def make_gpt2(folder: Path) -> None:
    save_pretrained(GPT(config("model.bias=true").transformer_config(11)), folder, overwrite=True)


def make_qwen3(folder: Path) -> None:
    """Use every key that other folders lack."""
    options = {"norm": "rms_norm", "activation": "swiglu", "qk_norm": True, "bias": False, "d_head": 4, "n_kv_heads": 1}
    stretched = RotaryScaling(name="yarn", factor=2.0, original_context_length=4, attention_factor=1.1)
    rotary = {"positional_encoding": "rotary", "rotary_scaling": stretched, "attention_window": "SL:3"}
    sizes = {"vocab_size": 11, "context_length": 8, "n_layers": 2, "n_heads": 2, "d_model": 8, "d_ff": 6}
    save_pretrained(GPT(GPTConfig(**sizes, **options, **rotary)), folder, overwrite=True)


def make_gpt2_of_torch(folder: Path) -> None:
    from safetensors.torch import load_file

    make_gpt2(folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def make_gpt2_of_pieces(folder: Path) -> None:
    make_gpt2(folder)
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    index = {"metadata": {"total_size": 1}, "weight_map": {"transformer.wte.weight": "a.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


METRICS = {
    "status": "finished", "val/loss_nats": 1.5, "val/bits_per_byte": 2.0, "n_parameters": 1234, "step": 40,
    "elapsed_s": 12.5, "train/tokens_per_s": 1000.0, "peak_memory_bytes": 2**20, "seed": 1, "device": "CPU",
    "versions": {"torch": "2", "folio": "0.1"}, "error": "", "git_commit": "0" * 40,
}  # fmt: skip


def make_run(folder: Path) -> None:
    summary = {"n_parameters": 1234, "tokens_per_step": 100, "text_sha256": "0" * 64}
    write_description(folder, CONFIG, CHAR, summary, ["model=debug", "seed=1"])
    (folder / "metrics.json").write_text(json.dumps(METRICS))
    (folder / "objective.json").write_text(json.dumps({"10": 1.5, "20": 1.25}))
    (folder / "csv").mkdir()
    rows = [f"{step},{name},{1 + 1 / step}\n" for step in (10, 20, 30) for name in ("train/loss_nats", "val/loss_nats")]
    (folder / "csv" / "metrics.csv").write_text("step,name,value\n" + "".join(rows))
    (folder / "samples.md").write_text("# Samples\n\n## Step 20\n\n    early\n\n## Step 40\n\n    late\n\n")


def make_runs(folder: Path) -> None:
    """Two runs of one configuration, of which the first is changed, and one of another."""
    for name, seed, loss in (("a", 1, 1.5), ("b", 2, 1.25), ("c", 3, 1.0)):
        (folder / name).mkdir()
        make_run(folder / name)
        values = CONFIG.model_dump() | {"seed": seed}
        values["optimizer"]["learning_rate"] = 1e-3 if name == "c" else 2e-3
        (folder / name / "config.yaml").write_text(yaml.safe_dump(values))
        (folder / name / "metrics.json").write_text(json.dumps(METRICS | {"val/loss_nats": loss, "seed": seed}))
    jobs = [
        {"folder": "a", "overrides": ["seed=1", "model=debug"], "status": "finished"},
        {"folder": "z", "overrides": ["seed=9", "model=debug"], "status": "failed", "trial": {"seed": 9}},
    ]
    search = {"objective": "val/loss_nats", "space": [{"key": "seed"}]}
    manifest = {"command": ["train.py", "-m", "seed=1,9"], "jobs": jobs, "search": search}
    (folder / "sweep.json").write_text(json.dumps(manifest))


def make_events(folder: Path) -> None:
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog
    from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary

    (folder / "tensorboard").mkdir()
    events = [Event(wall_time=1.0, file_version="brain.Event:2")]
    for step in (10, 20):
        value = Summary.Value(tag="train/loss_nats", simple_value=1.5)
        events.append(Event(wall_time=float(step), step=step, summary=Summary(value=[value])))
    histogram = HistogramProto(min=0, max=1, num=2, sum=1, sum_squares=1, bucket_limit=[0.5, 1], bucket=[1, 1])
    events.append(Event(step=20, summary=Summary(value=[Summary.Value(tag="weights", histo=histogram)])))
    image = Summary.Image(height=1, width=1, encoded_image_string=b"\x89PNG")
    events.append(Event(step=20, summary=Summary(value=[Summary.Value(tag="figure", image=image)])))
    events.append(Event(step=20, session_log=SessionLog(status=SessionLog.START)))
    content = b"".join(record(event.SerializeToString()) for event in events)
    (folder / "tensorboard" / "events.out.tfevents.1.host").write_bytes(content)


def make_tokenizer(name: str, units: Any) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        kind = TOKENIZERS[name].load_code()
        (folder / "tokenizer.json").write_bytes(state_to_json((kind(units) if units else kind()).state()))

    return make


def make_prepared_text(folder: Path) -> None:
    (folder / "text.txt").write_text(TEXT)
    prepared = TextFile(folder / "text.txt").prepare(choose_tokenizer("char"), folder / "data", lambda _: None)
    prepared.folder.rename(folder / "prepared")


def documents(folder: Path) -> TextFiles:
    return TextFiles(path=str(folder / "in"), val_fraction=0.3, shard_tokens=5000)


def make_prepared_documents(folder: Path) -> None:
    (folder / "in").mkdir()
    (folder / "in" / "a.jsonl").write_bytes(DOCUMENTS)
    prepared = documents(folder).prepare(choose_tokenizer("char"), folder / "data", lambda _: None)
    prepared.folder.rename(folder / "prepared")


def make_documents(name: str, pack: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / "in").mkdir()
        (folder / "in" / name).write_bytes(pack(DOCUMENTS))

    return make


def to_zst(data: bytes) -> bytes:
    zstd = importlib.import_module("backports.zstd" if sys.version_info < (3, 14) else "compression.zstd")
    return bytes(zstd.compress(data))


def to_parquet(data: bytes) -> bytes:
    import pyarrow
    from pyarrow import parquet

    rows = [json.loads(line) for line in data.splitlines()]
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.table({"text": [row["text"] for row in rows]}), buffer, row_group_size=4)
    return buffer.getvalue()


def make_conf(folder: Path) -> None:
    shutil.copy(CONF / "model" / "debug.yaml", folder / "debug.yaml")


# Reading


def use_checkpoint(folder: Path) -> None:
    loaded = load_checkpoint(folder / "last.ckpt", "cpu")
    loaded.model(torch.zeros(1, 2, dtype=torch.int64))
    loaded.tokenizer.decode([0])
    f"{loaded.step} {loaded.val.get('loss_nats', 0.0):.3f}"
    check_same_experiment(CONFIG, stored_config(folder / "last.ckpt"), folder)


def use_gpt2(folder: Path) -> None:
    check_folder(folder)
    load_pretrained(folder)(torch.zeros(1, 2, dtype=torch.int64))


def use_run(folder: Path) -> None:
    check_config(validate(migrate_config(read_config(folder))))
    write_description(folder, CONFIG, CHAR, {}, [], resumed_at=3)


def use_report(folder: Path) -> None:
    report = make_report([folder])
    assert {"b", "c"} <= {run.folder.name for run in report.runs}, "a bad run took good ones along"
    runs_csv(report), groups_csv(report), to_markdown(report, []), to_html(report, {}), report_commands(report)


def use_report_with_plots(folder: Path) -> None:
    write_report(make_report([folder]), folder / "report")
    shutil.rmtree(folder / "report")


def use_sweep(folder: Path) -> None:
    manifest = read_manifest(folder)
    listed_jobs(manifest)
    use_report(folder)
    varied_keys(folder / "a")
    refresh_statuses(folder)


def use_tokenizer(folder: Path) -> None:
    tokenizer = read_tokenizer_file(folder / "tokenizer.json")
    tokenizer.decode(tokenizer.encode(tokenizer.decode([0, tokenizer.vocab_size - 1])).tolist())


def use_prepared(folder: Path) -> None:
    data = PreparedFolder(folder / "prepared").prepare(choose_tokenizer("char"), folder / "data", lambda _: None)
    for split in (data.train, data.val):
        split.info.bits_per_byte(1.5)
        tokens = np.asarray(split.tokens[: len(split.tokens)])
        data.tokenizer.decode(tokens.tolist())


def use_documents(folder: Path) -> None:
    try:
        documents(folder).prepare(choose_tokenizer("char"), folder / "data", lambda _: None)
    finally:
        shutil.rmtree(folder / "data", ignore_errors=True)


def use_text(folder: Path) -> None:
    try:
        TextFile(folder / "text.txt").prepare(choose_tokenizer("char"), folder / "data", lambda _: None)
    finally:
        shutil.rmtree(folder / "data", ignore_errors=True)


def use_objective(folder: Path) -> None:
    intermediate_values(folder)
    objective_value(folder, "val/loss_nats")
    check_same_text(folder, "0" * 64)


JSON: list[Change] = [any_bytes, changed_bytes, changed_json]

READERS = [
    Reader("checkpoint", make_checkpoint, "last.ckpt", use_checkpoint,
           [any_bytes, changed_bytes, changed_structure, changed_state, changed_legacy]),
    Reader("model.safetensors", make_gpt2, "model.safetensors", use_gpt2,
           [any_bytes, changed_bytes, changed_safetensors], (FormatError,)),
    Reader("pytorch_model.bin", make_gpt2_of_torch, "pytorch_model.bin", use_gpt2,
           [any_bytes, changed_bytes, changed_structure, changed_state, changed_legacy], (FormatError,)),
    Reader("config.json of GPT-2", make_gpt2, "config.json", use_gpt2, JSON, (FormatError,)),
    Reader("config.json of Qwen3", make_qwen3, "config.json", use_gpt2, JSON, (FormatError,)),
    Reader("index of weights", make_gpt2_of_pieces, "model.safetensors.index.json", use_gpt2, JSON, (FormatError,)),
    Reader("config.yaml", make_run, "config.yaml", use_run, [any_bytes, changed_bytes, changed_yaml]),
    Reader("config.yaml in a report", make_runs, "a/config.yaml", use_report, [changed_bytes, changed_yaml], share=0.5),
    Reader("metrics.json", make_runs, "a/metrics.json", use_report, JSON, share=0.5),
    Reader("metrics.json of a trial", make_run, "metrics.json", use_objective, JSON),
    Reader("preflight.json", make_runs, "a/preflight.json", use_report, JSON, share=0.5),
    Reader("preflight.json of a resumed run", make_run, "preflight.json", use_objective, JSON),
    Reader("objective.json", make_run, "objective.json", use_objective, JSON),
    Reader("overrides.json", make_runs, "a/overrides.json", use_report, JSON, share=0.5),
    Reader("samples.md", make_run, "samples.md", lambda folder: rewind(folder, 20), [any_bytes, changed_bytes]),
    Reader("samples.md in a report", make_runs, "a/samples.md", use_report, [changed_bytes], share=0.5),
    Reader("metrics.csv", make_run, "csv/metrics.csv", read_curves, [any_bytes, changed_bytes]),
    Reader("metrics.csv of a resumed run", make_run, "csv/metrics.csv", lambda folder: rewind(folder, 20),
           [any_bytes, changed_bytes]),
    Reader("metrics.csv in plots", make_runs, "a/csv/metrics.csv", use_report_with_plots, [changed_bytes], share=0.02),
    Reader("config.yaml in plots", make_runs, "a/config.yaml", use_report_with_plots, [changed_yaml], share=0.02),
    Reader("event file", make_events, "tensorboard/events.out.tfevents.1.host", read_curves,
           [any_bytes, changed_bytes, changed_events]),
    Reader("sweep.json", make_runs, "sweep.json", use_sweep, JSON, share=0.5),
    Reader("tokenizer.json: char", make_tokenizer("char", "abcdefg"), "tokenizer.json", use_tokenizer, JSON,
           (ValueError,)),
    Reader("tokenizer.json: word", make_tokenizer("word", ["of", "the", "!"]), "tokenizer.json", use_tokenizer, JSON,
           (ValueError,)),
    Reader("tokenizer.json: byte", make_tokenizer("byte", None), "tokenizer.json", use_tokenizer, JSON, (ValueError,)),
    Reader("sidecar of tokens", make_prepared_text, "prepared/train.json", use_prepared, JSON),
    Reader("tokens", make_prepared_text, "prepared/train.bin", use_prepared, [any_bytes, changed_bytes]),
    Reader("corpus.json", make_prepared_documents, "prepared/corpus.json", use_prepared, JSON),
    Reader("shard", make_prepared_documents, "prepared/train-00000.bin", use_prepared, [any_bytes, changed_bytes]),
    Reader("text file", make_prepared_text, "text.txt", use_text, [any_bytes, changed_bytes], share=0.5),
    Reader("JSON Lines", make_documents("a.jsonl", bytes), "in/a.jsonl", use_documents,
           [any_bytes, changed_bytes, changed_lines], share=0.3),
    Reader("JSON Lines, gzip", make_documents("a.jsonl.gz", gzip.compress), "in/a.jsonl.gz", use_documents,
           [any_bytes, changed_bytes, compressed(gzip.compress)], share=0.3),
    Reader("JSON Lines, zstd", make_documents("a.jsonl.zst", to_zst), "in/a.jsonl.zst", use_documents,
           [any_bytes, changed_bytes, compressed(to_zst)], share=0.3),
    Reader("Parquet", make_documents("a.parquet", to_parquet), "in/a.parquet", use_documents,
           [any_bytes, changed_bytes], share=0.3),
    Reader("a file of conf/", make_conf, "debug.yaml", lambda folder: read_config_file(folder / "debug.yaml", "model"),
           [any_bytes, changed_bytes, changed_yaml]),
]  # fmt: skip

# Trying


class TooSlowError(BaseException):
    """A reader took more time than it may."""


class FaultError(Exception):
    """A reader did what it may not."""


@contextmanager
def limited_time() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TooSlowError

    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, MAX_CPU_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def try_one(reader: Reader, folder: Path, outcome: Outcome) -> None:
    """Read a changed file. Raises: FaultError."""
    outcome.tried += 1
    reset_peak()
    before = resident_bytes()
    try:
        with limited_time():
            reader.read(folder)
    except reader.errors as error:
        outcome.refused += 1
        message = single_line(str(error))  # as an entry point prints it
        if not message or len(message) > 4000:
            raise FaultError(f"a message of {len(message)} characters: {message[:200]!r}") from error
        if any(word in message for word in ("MemoryError", "allocate", "out of memory")):
            raise FaultError(f"memory ran out: {message[:200]}") from error
    except TooSlowError:
        raise FaultError(f"more than {MAX_CPU_S} s") from None
    except Exception as error:
        raise FaultError(f"{type(error).__name__}: {str(error)[:300]}") from error
    if (growth := peak_bytes() - before) > MAX_GROWTH:
        raise FaultError(f"{growth >> 20} MiB of memory")


def fuzz(reader: Reader, folder: Path, n_examples: int, seed: int) -> Outcome:
    """Try changed files on one reader."""
    outcome = Outcome(reader.name)
    good = folder / "good"
    good.mkdir(parents=True)
    reader.make(good)
    content = (good / reader.file).read_bytes()
    work = folder / "work"

    def run(data: bytes) -> None:
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(good, work)
        (work / reader.file).write_bytes(data)
        (folder.parent / "current").write_bytes(data)
        try_one(reader, work, outcome)

    run(content)  # loads modules, so that only the reading is measured
    assert outcome.refused == 0, f"{reader.name}: the good file was refused"
    allow_memory()
    for change in reader.changes:
        test = given(change(content))(run)
        n_here = max(2, int(n_examples * reader.share))
        test = settings(
            max_examples=n_here, database=None, deadline=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )(hypothesis.seed(seed)(test))  # fmt: skip
        try:
            test()
        except BaseExceptionGroup as group:
            outcome.faults += [describe(error, change) for error in group.exceptions]
        except Exception as error:
            outcome.faults.append(describe(error, change))
    return outcome


def describe(error: BaseException, change: Change) -> str:
    notes = " ".join(getattr(error, "__notes__", []))
    return f"{getattr(change, '__name__', 'change')}: {error} {notes[:1000]}"


def allow_memory() -> None:
    """Limit the address space to what the process has now, and ADDRESS_SPACE more."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    n_bytes = pages * os.sysconf("SC_PAGE_SIZE") + ADDRESS_SPACE
    resource.setrlimit(resource.RLIMIT_AS, (n_bytes, resource.getrlimit(resource.RLIMIT_AS)[1]))


def main() -> None:
    folder, n_examples, seed, *names = sys.argv[1:]
    torch.set_num_threads(1)
    logging.disable()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for number, reader in enumerate(READERS):
        if not names or reader.name in names:
            outcome = fuzz(reader, Path(folder) / str(number), int(n_examples), int(seed))
            print(json.dumps(outcome.__dict__), flush=True)


if __name__ == "__main__":
    main()
