"""Learned byte pairs and tokenizers from files, from the text to a model in transformers."""

import json
import math
import shutil
from pathlib import Path
from types import ModuleType

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from workspace import Workspace, choose

import folio
from folio.data.corpora.manifest import read_manifest
from folio.data.tokenizers.state import read_state_file, state_from_json

SMALL = ("model=debug", "trainer=cpu", "logger=none", "training.max_steps=4", "model.context_length=16")
PLAYS = [f"ROMEO: {n} times the quality of mercy.\nJULIET: It droppeth {n % 9} times.\n" for n in range(60)]


def write_corpus(folder: Path) -> None:
    folder.mkdir()
    (folder / "plays.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in PLAYS))


def write_lower_case_tokenizer(folder: Path) -> None:
    library = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    library.normalizer = normalizers.Lowercase()
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordPieceTrainer(vocab_size=90, special_tokens=["[UNK]", "[SEP]"])
    library.train_from_iterator(PLAYS, trainer)
    folder.mkdir()
    library.save(str(folder / "tokenizer.json"))


def test_byte_pairs_of_each_size_of_a_sweep_are_learned_from_a_mixture(
    workspace: Workspace, transformers: ModuleType
) -> None:
    write_corpus(workspace.folder / "corpus")
    (workspace.folder / "greek.txt").write_text("αβγ δε\n" * 60)
    parts = ("data=mixture", "data.parts={greek.txt: 1, corpus/*.jsonl: 1}")
    model = ("model=llama_nano", "model.d_model=16", "model.n_layers=1")  # transformers has such a model
    words = ("tokenizer=bpe", "tokenizer.vocab_size=280,300", "schedule=constant")
    workspace.must("train.py", "-m", *choose(SMALL, *model), *parts, *words)
    sizes = []
    for folder in sorted(path.parent for path in workspace.folder.glob("outputs/multirun/*/*/*/config.yaml")):
        run = folio.load(folder)
        sizes.append(run.tokenizer.vocab_size)
        text = "ROMEO: αβγ, \x00\N{ROSE} unlike the text"
        ids = run.tokenizer.encode(text).tolist()
        assert run.tokenizer.decode(ids) == text
        n_bytes, loss = len(text.encode()), run.loss(text)
        assert loss.bits_per_byte is not None
        assert math.isclose(loss.bits_per_byte, loss.nats / math.log(2) * len(ids) / n_bytes)
    assert sizes == [280, 300]
    workspace.must("scripts/export.py", str(folder), "exported")
    theirs = transformers.AutoTokenizer.from_pretrained(workspace.folder / "exported")
    assert theirs(text)["input_ids"] == ids


def test_a_tokenizer_that_changes_the_text_gives_no_bits_per_byte_and_stays_with_its_run(workspace: Workspace) -> None:
    write_corpus(workspace.folder / "corpus")
    write_lower_case_tokenizer(workspace.folder / "mine")
    words = ("data=text_files", "data.path=corpus", "tokenizer=huggingface", "tokenizer.path=mine")
    assert "its ids do not reproduce this text" in workspace.must("scripts/prepare_data.py", *words)
    run = workspace.train(*SMALL, *words, "schedule=constant")
    assert "val/loss_nats" in run.metrics
    assert "val/bits_per_byte" not in run.metrics
    (manifest,) = workspace.folder.rglob("corpus.json")
    assert read_manifest(manifest.parent).val.spelling_bits == math.inf
    kept = state_from_json(read_state_file(run.folder / "tokenizer.json"))
    assert json.loads((run.folder / "preflight.json").read_text())["tokenizer_sha256"] == kept["sha256"]
    assert kept["tokenizer_json"] == (workspace.folder / "mine" / "tokenizer.json").read_bytes()
    shutil.rmtree(workspace.folder / "mine")
    assert "the same" in workspace.must("scripts/evaluate.py", str(run.folder), "--checkpoint", "last")
    workspace.must("train.py", f"resume={run.folder}", "training.max_steps=6")
