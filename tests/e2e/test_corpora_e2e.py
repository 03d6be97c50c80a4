"""Corpora of many files, mixtures, and files larger than memory, with train.py in real processes."""

import gzip
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from workspace import FAMILIES, Workspace, choose

from folio.data.corpora.manifest import read_manifest, shard_path, write_manifest
from folio.data.token_file import TokenFile, sidecar_path

TINY = (
    "model=debug",
    "tokenizer=byte",
    "trainer=cpu",
    "logger=none",
    "training.max_steps=4",
    "model.context_length=16",
)
DOCUMENTS = [f"ROMEO: {n} times the quality of mercy.\nJULIET: It droppeth {n % 9} times.\n" for n in range(60)]


def write_files(folder: Path, kind: str, documents: Sequence[str] = DOCUMENTS) -> None:
    """Write the documents to files of that kind."""
    folder.mkdir(exist_ok=True)
    lines = "".join(json.dumps({"text": text}) + "\n" for text in documents).encode()
    if kind == "txt":
        for number, text in enumerate(documents):
            (folder / f"{number}.txt").write_text(text)
    elif kind == "jsonl.gz":
        (folder / "a.jsonl.gz").write_bytes(gzip.compress(lines))
    elif kind in ("txt.zst", "jsonl.zst"):
        zstd = pytest.importorskip("backports.zstd" if sys.version_info < (3, 14) else "compression.zstd")
        content = "<|end|>".join(documents).encode() if kind == "txt.zst" else lines
        (folder / f"a.{kind}").write_bytes(zstd.compress(content))
    elif kind == "parquet":
        parquet, pyarrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
        parquet.write_table(pyarrow.table({"text": documents}), folder / "a.parquet")


@pytest.mark.parametrize("kind", ["txt", "jsonl.gz", "txt.zst", "parquet"])
def test_files_of_each_kind_are_prepared_once_and_trained_on(kind: str, workspace: Workspace) -> None:
    write_files(workspace.folder / "corpus", kind)
    data = ["data=text_files", "data.path=corpus/**/*", "data.val_fraction=0.2", "data.document_separator='<|end|>'"]
    if kind == "txt":
        output = workspace.must("scripts/prepare_data.py", "tokenizer=byte", *data)
        assert "60 documents" in output
        assert "MB/s" in output
        assert "have the checksums" in workspace.must("scripts/prepare_data.py", "tokenizer=byte", *data)
    run = workspace.train(*TINY, *data)
    assert run.metrics["val/bits_per_byte"] < 20
    assert len(list(workspace.folder.rglob("corpus.json"))) == 1


@pytest.mark.slow
def test_parts_that_a_launcher_starts_at_once_join_to_what_one_machine_prepares(workspace: Workspace) -> None:
    """A vocabulary is learned by whichever part is first; then a faulty document is named in one line."""
    script, folder = "scripts/prepare_data.py", workspace.folder
    write_files(folder / "corpus", "txt")
    words = ("data=text_files", "data.path=corpus/*.txt", "tokenizer=word", "tokenizer.max_vocab_size=50")
    launched = ("part=1/3,2/3,3/3", "hydra/launcher=submitit_local", "hydra.launcher.timeout_min=20")
    workspace.must(script, *words, "paths.data_dir=one")
    workspace.must(script, "-m", *words, "paths.data_dir=many", *launched)
    workspace.must(script, *words, "paths.data_dir=many", "part=join/3")
    contents = [
        {str(path.relative_to(folder / name)): path.read_bytes() for path in (folder / name).rglob("*.*")}
        for name in ("one", "many")
    ]
    assert contents[0] == contents[1]
    (folder / "corpus" / "0.txt").write_bytes(b"\xff")
    line = workspace.run(script, "-m", *words, "paths.data_dir=other", *launched).error_line()
    assert "a part is not prepared: corpus/0.txt, document 1 is not valid UTF-8" in line


@pytest.mark.parametrize("family", ["causal_lm", *(pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES)])
def test_a_mixture_is_trained_on_by_every_objective_and_resumed_exactly(family: str, workspace: Workspace) -> None:
    write_files(workspace.folder / "corpus", "txt")
    words = [
        *TINY,
        *FAMILIES.get(family, ()),
        "data=mixture",
        "data.parts={tiny.txt: 3, corpus/*.txt: 1}",
        f"data.window_order={'shuffled' if family == 'causal_lm' else 'random'}",
        "training.validate_every_steps=2",
        "training.checkpoint_every_steps=2",
    ]
    whole = workspace.train(*words)
    metrics = whole.metrics
    parts = [metrics["val/tiny.txt/loss_nats"], metrics["val/corpus/*.txt/loss_nats"]]
    assert min(parts) < metrics["val/loss_nats"] < max(parts)
    if family == "causal_lm":
        evaluated = workspace.must("scripts/evaluate.py", str(whole.folder), "--checkpoint", "last")
        assert "the same" in evaluated
        assert "loss of tiny.txt" in evaluated
        half = workspace.train(*words, "training.max_steps=2", "schedule=constant")
        other = workspace.train(*words, "schedule=constant")
        workspace.must("train.py", f"resume={half.folder}", "training.max_steps=4")
        assert half.equals(other)


@pytest.mark.parametrize("tokenizer", ["char", "word"])
def test_a_tokenizer_learns_from_all_parts_of_a_mixture_once(tokenizer: str, workspace: Workspace) -> None:
    write_files(workspace.folder / "corpus", "txt")
    (workspace.folder / "greek.txt").write_text("αβγ δε\n" * 60)
    words = [f"tokenizer={tokenizer}", "data=mixture", "data.parts={greek.txt: 1, corpus/*.txt: 1}"]
    output = workspace.must("scripts/prepare_data.py", *words)
    assert "Learning the vocabulary of 2 corpora together" in output
    assert "unknown are" not in output or tokenizer == "word"
    assert "Learning" not in workspace.must("scripts/prepare_data.py", *words)


def test_a_prepared_folder_is_trained_on_where_its_text_is_gone(workspace: Workspace) -> None:
    write_files(workspace.folder / "corpus", "txt")
    workspace.must("scripts/prepare_data.py", "tokenizer=byte", "data=text_files", "data.path=corpus")
    (manifest,) = workspace.folder.rglob("corpus.json")
    manifest.parent.rename(workspace.folder / "moved")
    workspace.train(*TINY, "data=prepared", "data.path=moved")
    refused = workspace.run(
        "train.py", *choose(TINY, "data=prepared", "data.path=moved", "tokenizer=gpt2")
    ).error_line()
    assert "was prepared with tokenizer=byte, not gpt2; add tokenizer=byte" in refused


def test_documents_are_masked_and_completions_alone_predicted_by_every_command(workspace: Workspace) -> None:
    """Two parts of pairs; the loss that training logs is that of evaluate.py, also after resuming."""
    pairs = [{"prompt": f"{n} times two? ", "completion": f"{2 * n}."} for n in range(80)]
    for part in ("a", "b"):
        lines = pairs[part == "b" :: 2]
        (workspace.folder / f"{part}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    keys = "name: text_files, prompt_field: prompt, completion_field: completion, val_fraction: 0.2"
    parts = ", ".join(f"{part}: {{weight: 1, path: {part}.jsonl, {keys}}}" for part in "ab")
    words = [*TINY, "data=mixture", f"data.parts={{{parts}}}", "training.checkpoint_every_steps=2"]
    for key in ("training.loss_on=completion", "data.mask_documents=true"):
        whole = workspace.train(*words, key, "schedule=constant")
        assert whole.metrics["val/a/bits_per_byte"] > 0
        assert "the same" in workspace.must("scripts/evaluate.py", str(whole.folder), "--checkpoint", "last")
    half = workspace.train(*words, key, "training.max_steps=2", "schedule=constant")
    workspace.must("train.py", f"resume={half.folder}", "training.max_steps=4")
    assert half.equals(whole)


REFUSALS = {
    "data=text_files": "data=text_files needs a pattern of files; add data.path='corpus/**/*.txt'",
    "data=text_files data.path=nothing/*.txt": "data.path=nothing/*.txt matches no file in ",
    "data=mixture": "data=mixture needs corpora and their weights",
    "data=mixture data.parts={tiny.txt: -1}": "data.parts.tiny.txt",
    "data=mixture data.parts={tiny.txt: 1, nowhere/*.txt: 1}": "nowhere/*.txt matches no file in ",
    "data=mixture data.parts={mine: {weight: 1, name: text_file}}": "data.parts.mine.path=null must be a file",
    "data=prepared data.path=nowhere": "data.path=nowhere is not a prepared folder that can be used",
    "data=huggingface": "data=huggingface needs the name of a dataset",
}


@pytest.mark.parametrize("words", REFUSALS)
def test_what_is_missing_is_one_line(words: str, workspace: Workspace) -> None:
    data, *rest = words.split(" ", 1)
    line = workspace.run("train.py", "tokenizer=byte", data, *rest).error_line()
    assert REFUSALS[words] in line


SPARSE_BYTES = 20 * 10**9


def sparse_shards(folder: Path) -> None:
    """Make the training split of a prepared corpus 20 GB large, with zeros that take no space on disk."""
    manifest = read_manifest(folder)
    n_tokens, shard_tokens = SPARSE_BYTES // 2, 10**8
    n_shards = n_tokens // shard_tokens
    for number in range(n_shards):
        path = shard_path(folder, "train", number)
        path.unlink(missing_ok=True)
        path.touch()
        os.truncate(path, 2 * shard_tokens)
    train = replace(manifest.train, n_tokens=n_tokens, n_bytes=n_tokens, shard_sha256=["0" * 64] * n_shards)
    # The small split lies in one shard of the same size.
    assert manifest.val.n_tokens < shard_tokens
    write_manifest(folder, replace(manifest, train=train, shard_tokens=shard_tokens))


def sparse_file(folder: Path) -> None:
    """Do the same to a single token file."""
    path = folder / "train.bin"
    info = TokenFile.open(path).info
    path.unlink()
    path.touch()
    os.truncate(path, SPARSE_BYTES)
    large = replace(info, n_tokens=SPARSE_BYTES // 2, n_bytes=SPARSE_BYTES, tokens_sha256="0" * 64)
    sidecar_path(path).write_text(json.dumps(asdict(large)))


def resident_at_end(workspace: Workspace, folder: Path) -> int:
    """Return the resident bytes after the 400 steps of a run on that prepared folder."""
    words = choose(TINY, "tokenizer=gpt2", "data=prepared", f"data.path={folder}", "training.max_steps=400")
    process = workspace.start("train.py", *words, "training.validate_every_steps=400", "training.log_every_steps=400")
    assert process.stdout is not None
    found = 0
    for line in process.stdout:
        if ": val loss" in line:
            found = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    process.stdout.close()
    assert process.wait() == 0
    return found


CORPORA: dict[str, tuple[tuple[str, ...], Callable[[Path], None]]] = {
    "shards": (("data=text_files", "data.path=corpus"), sparse_shards),
    "a file": (("data=text_file", "data.path=tiny.txt"), sparse_file),
}


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads resident memory from /proc")
@pytest.mark.slow
@pytest.mark.parametrize("kind", CORPORA)
def test_20_gb_of_tokens_take_no_more_memory_than_a_few(kind: str, workspace: Workspace) -> None:
    write_files(workspace.folder / "corpus", "txt")
    words, enlarge = CORPORA[kind]
    workspace.must("scripts/prepare_data.py", "tokenizer=gpt2", *words)
    (state,) = workspace.folder.glob("data/*/*/gpt2/tokenizer.json")
    folder = state.parent
    small = resident_at_end(workspace, folder)
    enlarge(folder)
    size = sum(path.stat().st_size for path in folder.glob("train*.bin"))
    on_disk = sum(path.stat().st_blocks * 512 for path in folder.glob("train*.bin"))
    assert size == SPARSE_BYTES
    assert on_disk < 1 << 20
    large = resident_at_end(workspace, folder)
    print(f"resident with a small corpus: {small / 2**20:.1f} MiB, with 20 GB: {large / 2**20:.1f} MiB")
    assert large < 1.05 * small
