"""Documents in packed windows: each is read, and predicted, as it would be alone."""

import json
from functools import cache as memoized
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import OTHER_CHOICES, TINY, build, random_tokens

from folio.cli.compose import composed, load_config
from folio.cli.corpus import check_data, prepare_data
from folio.config.tokenizer import choose_tokenizer
from folio.data.batches.batch import Batch
from folio.data.batches.order import MicroBatch
from folio.data.batches.windows import TrainingWindows, ValidationWindows
from folio.data.corpora.mixture import join_corpora
from folio.data.corpora.text_files import TextFiles
from folio.data.document_index import DocumentIndex, DocumentTable, MarkedDocuments
from folio.data.prepared import PreparedData
from folio.data.sharded_tokens import ShardedTokens
from folio.data.token_file import TokenFileError
from folio.models import GPT
from folio.models.cache import KeyValueCache
from folio.models.positional import POSITIONAL_ENCODINGS
from folio.objectives.losses import batch_loss
from folio.runtime.commands import CHECKOUT
from folio.runtime.errors import FolioError

CONTEXT = TINY.context_length
each_encoding = pytest.mark.parametrize("encoding", POSITIONAL_ENCODINGS)
lengths_of_documents = st.lists(st.integers(2, 25), min_size=1, max_size=30).filter(lambda found: sum(found) > CONTEXT)


MODELS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "other": OTHER_CHOICES,
    "window": {"attention_window": "SL:5", "n_kv_heads": 2, "d_head": 6, "logit_softcap": 3.0},
}


@memoized
def model_of(encoding: str, options: str = "defaults") -> GPT:
    return build(GPT, positional_encoding=encoding, n_layers=2, tie_weights=False, **MODELS[options])


def index_of(*corpora: list[int]) -> DocumentIndex:
    """Return the index of corpora whose documents have these lengths."""
    return DocumentIndex([DocumentTable(np.cumsum(lengths), None) for lengths in corpora])


def numbers_one_by_one(lengths: list[int], start: int, width: int) -> list[int]:
    """Number the documents of a window by counting, token by token, the last tokens of separators after its first."""
    last_tokens = {end - 1 for end in accumulate(lengths)}
    return list(accumulate(position in last_tokens and position > start for position in range(start, start + width)))


@given(corpora=st.lists(lengths_of_documents, min_size=1, max_size=3), width=st.integers(1, 40))
def test_the_documents_of_windows_are_those_that_counting_finds(corpora: list[list[int]], width: int) -> None:
    index, lengths = index_of(*corpora), [length for corpus in corpora for length in corpus]
    starts = np.arange(max(1, sum(lengths) - width))
    expected = [numbers_one_by_one(lengths, start, width) for start in starts.tolist()]
    assert index.numbers(starts, width).tolist() == expected
    spans = index.spans(np.arange(len(lengths)))
    assert spans[1].tolist() == lengths
    assert spans[0].tolist() == [0, *accumulate(lengths)][:-1]


@given(ids=st.lists(st.integers(0, 3), min_size=2, max_size=60), n_first=st.integers(1, 40), width=st.integers(1, 9))
def test_documents_of_other_projects_begin_at_the_end_of_text(ids: list[int], n_first: int, width: int) -> None:
    """Two corpora, one with an index and one with end-of-text ids, give the numbers that counting gives."""
    marked = MarkedDocuments(ShardedTokens([np.array(ids[:1]), np.array(ids[1:])]), end_of_text=0)
    index = DocumentIndex([DocumentTable(np.array([n_first]), None), marked])
    begins = [n_first - 1, *(n_first + place for place, token in enumerate(ids) if token == 0)]
    starts = np.arange(max(1, n_first + len(ids) - width))
    expected = [
        list(accumulate(place in begins and place > start for place in range(start, start + width)))
        for start in starts.tolist()
    ]
    assert index.numbers(starts, width).tolist() == expected


def segments(batch: Batch, row: int) -> list[slice]:
    """Return the columns of each document of a row."""
    assert batch.documents is not None
    changes = np.flatnonzero(np.diff(batch.documents[row].numpy())) + 1
    return [slice(first, end) for first, end in pairwise([0, *changes.tolist(), batch.tokens.size(1)])]


@pytest.mark.parametrize("options", MODELS)
@each_encoding
@settings(max_examples=6)
@given(lengths=lengths_of_documents)
@torch.no_grad()
def test_logits_and_loss_of_packed_windows_are_those_of_each_document_alone(
    encoding: str, options: str, lengths: list[int]
) -> None:
    model, tokens = model_of(encoding, options), random_tokens(1, sum(lengths))[0].numpy()
    batch = ValidationWindows(tokens, CONTEXT, index_of(lengths)).batch(range(-(-(len(tokens) - 1) // CONTEXT)))
    logits = model(batch.tokens, documents=batch.documents)
    losses = []
    for row in range(len(batch.tokens)):
        for columns in segments(batch, row):
            alone = model(batch.tokens[row, columns][None])[0]
            torch.testing.assert_close(logits[row, columns], alone)
            losses.append(F.cross_entropy(alone, batch.targets[row, columns], reduction="none"))
    loss, _ = batch_loss(model, batch)
    n_targets = int((batch.targets != -100).sum())
    assert n_targets == len(tokens) - 1, "every token but the first is a target once"
    torch.testing.assert_close(loss.double(), torch.cat(losses).sum() / n_targets, rtol=1e-5, atol=1e-6)


@torch.no_grad()
@each_encoding
def test_a_document_does_not_depend_on_the_others_in_its_row(encoding: str) -> None:
    model, tokens = model_of(encoding), random_tokens(2, CONTEXT)
    documents = torch.tensor([[0] * 5 + [1] * 4 + [2] * 7, [3] * 16])
    other = tokens.clone()
    other[0, 3], other[0, 6] = (tokens[0, 3] + 1) % 61, (tokens[0, 6] + 1) % 61
    same = torch.isclose(model(tokens, documents=documents), model(other, documents=documents)).all(dim=-1)
    assert same[0].tolist() == [True] * 3 + [False] * 2 + [True] + [False] * 3 + [True] * 7
    assert same[1].all()


@each_encoding
def test_the_gradients_of_a_packed_row_are_those_of_its_documents(encoding: str) -> None:
    model, tokens = model_of(encoding), random_tokens(1, 9)
    documents, parameters = torch.tensor([[0] * 4 + [1] * 5]), list(model.parameters())
    packed = model(tokens, documents=documents).square().sum()
    alone = model(tokens[:, :4]).square().sum() + model(tokens[:, 4:]).square().sum()
    grads = (torch.autograd.grad(loss, parameters, allow_unused=True) for loss in (packed, alone))
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("options", ["defaults", "window"])
@each_encoding
@settings(max_examples=8)
@given(data=st.data())
@torch.no_grad()
def test_documents_compose_with_padding_and_a_cache(encoding: str, options: str, data: st.DataObject) -> None:
    """Padding stands anywhere, and the row is read in two parts."""
    model, tokens = model_of(encoding, options), random_tokens(1, CONTEXT)
    mask = torch.tensor([data.draw(st.lists(st.booleans(), min_size=CONTEXT, max_size=CONTEXT).filter(any))])
    begins = data.draw(st.lists(st.booleans(), min_size=CONTEXT, max_size=CONTEXT))
    documents, cut = torch.tensor([list(accumulate(begins, initial=0))[1:]]), data.draw(st.integers(1, CONTEXT - 1))
    together = model(tokens, mask, documents)
    assert together.isfinite().all()
    for number in documents.unique().tolist():
        own = mask[0] & (documents[0] == number)
        if own.any():
            torch.testing.assert_close(together[0, own], model(tokens[:, own])[0], rtol=0, atol=1e-6)
    cache = KeyValueCache(n_layers=2, capacity=CONTEXT)
    first = model.hidden(tokens[:, :cut], mask[:, :cut], documents[:, :cut], cache=cache)
    second = model.hidden(tokens[:, cut:], mask, documents, cache=cache)
    logits = model.output(torch.cat((first, second), dim=1))
    torch.testing.assert_close(logits[mask], together[mask], rtol=0, atol=1e-6)


@pytest.mark.parametrize("documents", [torch.zeros(1, 3), torch.zeros(1, 4, dtype=torch.int64)])
def test_documents_of_another_shape_or_type_are_refused(documents: torch.Tensor) -> None:
    with pytest.raises(
        ValueError, match=r"documents have the shape .* but must have the shape of the tokens, \(1, 3\)"
    ):
        model_of("rotary")(random_tokens(1, 3), documents=documents)


def prepare(folder: Path, texts: list[str], tokenizer: str = "byte", **options: str) -> PreparedData:
    folder.mkdir(exist_ok=True)
    if not (folder / "a.txt").exists():
        (folder / "a.txt").write_text("#".join(texts))
    source = TextFiles(path=str(folder / "a.txt"), document_separator="#", val_fraction=0.2, shard_tokens=50, **options)
    return source.prepare(choose_tokenizer(tokenizer), folder / "data", print)


TEXTS = [f"number {number} " * (1 + number % 3) for number in range(30)]


def test_a_prepared_corpus_knows_where_its_documents_are(tmp_path: Path) -> None:
    for name, data in (("one", prepare(tmp_path / "one", TEXTS)), ("joined", None)):
        if data is None:
            parts = [(name, 1.0, prepare(tmp_path / name, texts)) for name, texts in (("a", TEXTS), ("b", TEXTS[::-2]))]
            data = join_corpora(parts)
        for split in (data.train, data.val):
            assert split.documents is not None, name
            starts, lengths, _ = split.documents.spans(np.arange(len(split.documents)))
            for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
                text = data.tokenizer.decode(split.tokens[start : start + length].tolist())
                assert text.removesuffix("\n\n") in TEXTS
                assert text.endswith("\n\n")
    windows = TrainingWindows(data.train.tokens, 40, data.train.documents)
    batch = windows.batch(MicroBatch(0, np.arange(5), slice(0, 5)))
    assert batch.documents is not None
    newlines = (batch.tokens[:, 1:] == 10) & (batch.tokens[:, :-1] == 10)  # the last tokens of separators
    assert (batch.documents.diff(dim=1) == newlines).all()


@pytest.mark.parametrize("damage", [lambda ends: ends[::-1], lambda ends: ends[:-1], lambda ends: ends * 3])
def test_a_damaged_index_is_noticed(damage: object, tmp_path: Path) -> None:
    data = prepare(tmp_path, TEXTS)
    path = data.folder / "documents-train.ends"
    ends = np.fromfile(path, "<i8")
    path.write_bytes(damage(ends).astype("<i8").tobytes())  # type: ignore[operator]
    assert prepare(tmp_path, TEXTS).train.documents.spans(np.arange(3))[0][0] == 0  # prepared again
    assert np.fromfile(path, "<i8").tolist() == ends.tolist()


def test_ends_in_the_wrong_order_are_an_error_and_not_a_crash() -> None:
    index = DocumentIndex([DocumentTable(np.array([9, 3, 12]), None)])
    with pytest.raises(TokenFileError, match="wrong order"):
        index.spans(np.array([1]))


REFUSED = {
    ("data=tiny_shakespeare", "data.mask_documents=true"): "into documents, and data=tiny_shakespeare is not; leave it",
    (
        "data=mixture",
        "data.parts={tiny_shakespeare: 1}",
        "data.mask_documents=true",
    ): "and tiny_shakespeare in data.parts is not",
    ("data=tiny_shakespeare", "training.loss_on=completion"): "and data=tiny_shakespeare has none; name their fields",
    ("data=text_files", "data.path=a.jsonl", "training.loss_on=completion"): "JSON: data.prompt_field=prompt data.com",
    ("data=text_files", "data.path=a.jsonl", "data.prompt_field=q"): "needs it too; add data.completion_field=completi",
    ("data=text_files", "data.path=a", "data.prompt_field=q", "data.completion_field=q"): "=q must differ from data.pr",
    ("model=encoder_small", "objective=masked_lm", "data=text_files", "data.path=a", "data.mask_documents=true"): (
        "data.mask_documents=true needs objective=causal_lm, not objective=masked_lm"
    ),
    ("model=encoder_small", "objective=masked_lm", "training.loss_on=completion"): "needs objective=causal_lm, not obj",
}


@pytest.mark.parametrize("words", REFUSED, ids=" ".join)
def test_what_has_no_documents_is_refused_in_one_line(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CHECKOUT)
    with pytest.raises(FolioError) as refused, composed(["model=debug", *words], CHECKOUT / "conf") as cfg:
        prepare_data(load_config(cfg))
    assert REFUSED[words] in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_corpus_of_an_earlier_version_is_to_be_prepared_again(tmp_path: Path) -> None:
    """It has no index, and is opened as before for all else."""
    data = prepare(tmp_path, TEXTS)
    manifest = data.folder / "corpus.json"
    fields = json.loads(manifest.read_text())
    del fields["has_prompts"]
    for split in ("train", "val"):
        fields[split] = {
            key: value for key, value in fields[split].items() if "prompt" not in key and "index" not in key
        }
    manifest.write_text(json.dumps(fields))
    before = manifest.stat().st_mtime_ns
    old = prepare(tmp_path, TEXTS)
    assert manifest.stat().st_mtime_ns == before
    assert old.train.documents is None
    words = ["model=debug", "data=text_files", f"data.path={tmp_path}", "data.mask_documents=true", "tokenizer=byte"]
    with composed(words, CHECKOUT / "conf") as cfg:
        config = load_config(cfg)
    with pytest.raises(FolioError, match=r"was prepared by an earlier version of Folio.*remove it, and it is prepared"):
        check_data(config, old)
