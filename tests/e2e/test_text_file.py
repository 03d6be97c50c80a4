"""One's own text: prepared once, and again when it has changed."""

from pathlib import Path

from workspace import TINY, TINY_TEXT, Workspace

PREPARE = ("scripts/prepare_data.py", "tokenizer=char", "data=text_file", "data.path=tiny.txt")


def times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if not path.name.startswith(".")}


def test_a_text_is_prepared_once_and_again_when_it_changes(workspace: Workspace) -> None:
    assert "Prepared" in workspace.must(*PREPARE)
    prepared = workspace.folder / "data" / "text_file"
    before = times(prepared)
    assert before

    assert "Prepar" not in workspace.must("train.py", *TINY, "dry_run=true")
    assert times(prepared) == before

    (workspace.folder / "tiny.txt").write_text(TINY_TEXT + "Zounds!\n")
    said = workspace.must(*PREPARE)
    assert "again: the text has changed" in said
    assert f"{int(0.9 * len(TINY_TEXT + 'Zounds!' + chr(10))):,} training" in said
    assert times(prepared).keys() == before.keys()
    assert "Prepar" not in workspace.must(*PREPARE)


def test_a_run_on_a_text_that_has_changed_does_not_go_on(workspace: Workspace) -> None:
    run = workspace.train(*TINY)
    before = run.weights()
    (workspace.folder / "tiny.txt").write_text(TINY_TEXT.replace("ROMEO", "Zounds"))
    finished = workspace.run("train.py", f"resume={run.folder}", "training.max_steps=40")
    assert "the text of data.path has changed" in finished.error_line()
    assert all(value.equal(before[name]) for name, value in run.weights().items())


def test_a_text_can_be_cut_by_a_byte_pair_encoding(workspace: Workspace) -> None:
    run = workspace.train(*TINY, "tokenizer=gpt2", "logger=none")
    assert run.config["model"]["vocab_size"] == 50_257
    assert run.metrics["val/bits_per_byte"] < run.metrics["val/loss_nats"], "a token spans several bytes"
