"""training.loss_on=completion: the loss is that of a plain loop over prompts and completions."""

import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from folio.config.tokenizer import choose_tokenizer
from folio.data.batches.completions import (
    CompletionDataset,
    CompletionTraining,
    CompletionValidation,
    fit_documents,
)
from folio.data.batches.loaders import validation_loader
from folio.data.batches.order import TrainingBatches
from folio.data.corpora.mixture import join_corpora
from folio.data.corpora.text_files import TextFiles
from folio.data.prepared import PreparedData
from folio.models import GPT, GPTConfig
from folio.objectives.evaluation import sum_over
from folio.objectives.losses import batch_loss
from folio.objectives.metrics import metrics_from_sums
from folio.runtime.errors import FolioError

CONTEXT = 24
PAIRS = [(f"What is {a} plus {a * b}?\n" * (1 + b % 2), f"{a + a * b} ö") for a in range(7) for b in range(5)]
PAIRS += [("Say it. ", "again and " * 6), ("", "no prompt")]


def write(path: Path, pairs: list[tuple[str, str]]) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text("\n".join(json.dumps({"q": q, "a": a, "other": 1}) for q, a in pairs) + "\n")
    return path


def prepare(folder: Path, pairs: list[tuple[str, str]] = PAIRS, tokenizer: str = "byte") -> PreparedData:
    path = write(folder / "pairs.jsonl", pairs)
    source = TextFiles(path=str(path), prompt_field="q", completion_field="a", val_fraction=0.2, shard_tokens=100)
    return source.prepare(choose_tokenizer(tokenizer), folder / "data", print)


def model(context_length: int = CONTEXT) -> GPT:
    torch.manual_seed(0)
    sizes = {"vocab_size": 256, "n_layers": 2, "n_heads": 2, "d_model": 16}
    return GPT(GPTConfig(context_length=context_length, positional_encoding="rotary", **sizes)).double().eval()


def pairs_of(data: PreparedData, split: str) -> list[tuple[str, str]]:
    """Return the pairs of a split, in its order, by the texts of its documents."""
    found = getattr(data, split)
    starts, lengths, _ = found.documents.spans(np.arange(len(found.documents)))
    texts = [bytes(found.tokens[start : start + n].tolist()).decode() for start, n in zip(starts, lengths, strict=True)]
    by_text = {f"{prompt}{completion}\n\n": (prompt, completion) for prompt, completion in PAIRS}
    return [by_text[text] for text in texts]


def plain_rows(pairs: list[tuple[str, str]], context_length: int) -> tuple[Tensor, Tensor]:
    """Return inputs and labels, as a plain loop pads, truncates and masks them."""
    rows = []
    for prompt, completion in pairs:
        before, after = list(prompt.encode()), [*completion.encode(), 10, 10]
        while len(before) > 1 and len(before) + len(after) > context_length + 1:
            before = before[1:]
        ids = (before + after)[: context_length + 1]
        labels = [-100 if number < len(before) else token for number, token in enumerate(ids)]
        rows.append((ids[:-1], labels[1:]))
    width = max(len(ids) for ids, _ in rows)
    inputs = torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in rows])
    return inputs, torch.tensor([labels + [-100] * (width - len(labels)) for _, labels in rows])


def plain_loss(gpt: GPT, inputs: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
    return F.cross_entropy(gpt(inputs).flatten(0, 1), labels.flatten(), ignore_index=-100, reduction=reduction)


@pytest.mark.parametrize("context_length", [8, CONTEXT, 200])
@pytest.mark.parametrize(("micro", "world_size"), [(6, 1), (2, 1), (1, 3)])
def test_loss_and_gradients_of_a_step_are_those_of_a_plain_loop(
    context_length: int, micro: int, world_size: int, tmp_path: Path
) -> None:
    data, gpt = prepare(tmp_path), model(context_length)
    assert data.train.documents is not None
    dataset = CompletionTraining(data.train.tokens, data.train.documents, context_length)
    parameters, total = list(gpt.parameters()), torch.zeros((), dtype=torch.float64)
    for rank in range(world_size):
        sizes = {"batch_size": 6, "micro_batch_size": micro, "first_step": 3, "n_steps": 4}
        order = TrainingBatches("shuffled", len(dataset), seed=1, rank=rank, world_size=world_size, **sizes)
        batches = [dataset.batch(micro_batch) for micro_batch in order]
        losses = [batch.weight * batch_loss(gpt, batch)[0].double() for batch in batches]
        total = total + torch.stack(losses).mean() / world_size
    pairs = [pairs_of(data, "train")[number] for number in order.indices(3)]
    expected = plain_loss(gpt, *plain_rows(pairs, context_length))
    torch.testing.assert_close(total, expected, rtol=1e-6, atol=0)
    for one, other in zip(*(torch.autograd.grad(loss, parameters) for loss in (total, expected)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("world_size", [1, 2])
def test_validation_counts_the_tokens_of_completions_once(world_size: int, tmp_path: Path) -> None:
    data, gpt, pairs = prepare(tmp_path), model(200), []
    assert data.val.documents is not None
    dataset = CompletionValidation(data.val.tokens, data.val.documents, 200)
    loaders = [validation_loader(dataset, 3, rank, world_size) for rank in range(world_size)]
    sums = torch.stack([sum_over(gpt, loader, torch.device("cpu")) for loader in loaders]).sum(dim=0)
    pairs = pairs_of(data, "val")
    nats = plain_loss(gpt, *plain_rows(pairs, 200), reduction="sum").item()
    n_bytes = sum(len(completion.encode()) for _, completion in pairs)
    assert all(prompt for prompt, _ in pairs)
    assert sums[0].item() == pytest.approx(nats)
    assert sums[2].item() == n_bytes + 2 * len(pairs)
    metrics = metrics_from_sums(sums, data.val.completions_info)
    assert metrics["bits_per_byte"] == pytest.approx(nats / math.log(2) / n_bytes)


@given(
    n_prompt=st.lists(st.integers(0, 40), min_size=1, max_size=5),
    n_completion=st.integers(2, 40),
    context=st.integers(1, 30),
)
def test_a_document_that_is_too_long_loses_the_start_of_its_prompt_and_then_the_end_of_its_completion(
    n_prompt: list[int], n_completion: int, context: int
) -> None:
    prompts = np.array(n_prompt)
    fitted = fit_documents(np.full(len(prompts), 100), prompts + n_completion, prompts, context)
    for prompt, start, length, kept in zip(n_prompt, fitted.starts, fitted.lengths, fitted.prompts, strict=True):
        whole = [*(["p"] * prompt), *(["c"] * n_completion)]
        while len(whole) > context + 1 and whole[:2] == ["p", "p"]:
            whole = whole[1:]
        whole = whole[: context + 1]
        assert (length, kept, start) == (len(whole), whole.count("p"), 100 + prompt - whole.count("p"))
    assert (fitted.n_targets >= 1).all()


def test_cut_documents_are_counted(tmp_path: Path) -> None:
    data = prepare(tmp_path)
    assert data.train.documents is not None
    dataset, lengths = CompletionDataset(data.train.tokens, data.train.documents, CONTEXT), []
    for prompt, completion in pairs_of(data, "train"):
        lengths.append((len(prompt.encode()), len(completion.encode()) + 2))
    n_prompts = sum(before + after > CONTEXT + 1 and before > 1 for before, after in lengths)
    n_completions = sum(min(before, 1) + after > CONTEXT + 1 for before, after in lengths)
    assert dataset.count_cut() == (n_prompts, n_completions)
    assert n_prompts > n_completions > 0


def test_a_mixture_draws_documents_of_each_part(tmp_path: Path) -> None:
    halves = PAIRS[::2], PAIRS[1::2]
    parts = [(str(number), 1.0, prepare(tmp_path / str(number), half)) for number, half in enumerate(halves)]
    data = join_corpora(parts)
    assert data.train.documents is not None
    assert data.train.completions_info is not None
    for one, other in pairwise((data.train, *(part.train for part in data.parts))):
        assert one.documents.has_prompts  # type: ignore[union-attr]
        assert other.completions_info is not None
    own = [part.train.completions_info for part in data.parts]
    assert data.train.completions_info.n_bytes == sum(info.n_bytes for info in own if info is not None)
    assert {*pairs_of(data, "train"), *pairs_of(data, "val")} == set(PAIRS)
    assert data.train.documents.firsts.tolist()[1] == len(parts[0][2].train.documents)  # type: ignore[arg-type]


REFUSED = {
    '{"q": "a"}': r"line 2 has no field data\.completion_field=a; it has q: name the one that holds the completion",
    '{"a": "b"}': r"line 2 has no field data\.prompt_field=q",
    '{"text": "plain"}': r"line 2 has no field data\.prompt_field=q; it has text",
    '{"q": "b", "a": ""}': "line 2: the field a is empty, so there is nothing to predict; fill it, or leave the line",
    '{"q": "b", "a": null}': "line 2: the field a is null; fill it, or leave the line out",
    '{"q": 3, "a": "b"}': "line 2: the field q holds not a string but int",
    json.dumps({"q": "b" * (1 << 22), "a": "b"}): "line 2: prompt and completion have more than 4 MiB",
}


@pytest.mark.parametrize("line", REFUSED, ids=lambda line: line[:30])
def test_a_line_that_is_no_pair_is_named(line: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", PAIRS[:1])
    path.write_text(path.read_text() + line + "\n")
    source = TextFiles(path=str(path), prompt_field="q", completion_field="a", val_fraction=0.2, shard_tokens=100)
    with pytest.raises(FolioError, match=REFUSED[line]) as refused:
        source.prepare(choose_tokenizer("byte"), tmp_path / "data", print)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "data").exists()


def test_text_files_among_pairs_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.jsonl", PAIRS)
    (tmp_path / "in" / "b.txt").write_text("plain")
    options = {"prompt_field": "q", "completion_field": "a"}
    source = TextFiles(path=str(tmp_path / "in"), val_fraction=0.2, shard_tokens=100, **options)
    with pytest.raises(FolioError, match=r"b\.txt, and data\.completion_field=a is read from lines of JSON"):
        source.prepare(choose_tokenizer("byte"), tmp_path / "data", print)


def test_lines_of_pairs_read_as_text_are_told_how_to_read_both(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    source = TextFiles(path=str(tmp_path), val_fraction=0.2, shard_tokens=100)
    with pytest.raises(FolioError, match=r"read both: data\.prompt_field=prompt data\.completion_field=completion"):
        source.prepare(choose_tokenizer("byte"), tmp_path / "data", print)


@pytest.mark.parametrize("tokenizer", ["char", "word"])
def test_a_learned_vocabulary_has_the_symbols_of_both_parts(tokenizer: str, tmp_path: Path) -> None:
    data = prepare(tmp_path, tokenizer=tokenizer)
    assert data.train.info.n_unknown == 0
    assert data.train.completions_info is not None
    assert 0 < data.train.completions_info.n_tokens < data.train.info.n_tokens
