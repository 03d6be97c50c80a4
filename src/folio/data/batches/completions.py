"""Prompts with their completions, for a loss on the completions alone.

A sequence is one document from its first token, padded with zeros to the longest of its batch. Of a document that is
longer than context_length + 1 tokens, the prompt loses its beginning, as a prompt does in generation, and then the
completion its end. The separator after a completion is a target, so that a model learns to stop.

Shapes: B documents in a batch, T tokens in the longest of them without its last one, which is only a target.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from folio.data.batches.batch import IGNORE_INDEX, Batch, BatchDataset
from folio.data.batches.order import MicroBatch
from folio.data.batches.windows import as_tensor, gather_spans
from folio.data.document_index import CHUNK, DocumentIndex
from folio.data.sharded_tokens import Tokens

MAX_DOCUMENTS_READ = 1 << 22
"""Number of documents whose lengths are looked at before a run: a fraction of a second."""


class FittedDocuments(NamedTuple):
    """Documents as far as they fit: first token, length, and tokens before the first target. All (B,) int64.

    Example:

        >>> fit_documents(np.array([0]), np.array([9]), np.array([6]), context_length=4)  # 6 + 3 tokens, 5 of which fit
        FittedDocuments(starts=array([4]), lengths=array([5]), prompts=array([2]))
    """

    starts: np.ndarray
    lengths: np.ndarray
    prompts: np.ndarray

    @property
    def n_targets(self) -> np.ndarray:
        """(B,) int64, at least 1: a document begins with a token that nothing predicts, if it has no prompt."""
        return self.lengths - np.maximum(self.prompts, 1)


def fit_documents(starts: np.ndarray, lengths: np.ndarray, prompts: np.ndarray, context_length: int) -> FittedDocuments:
    """Cut documents to context_length + 1 tokens. A prompt keeps its last token."""
    excess = np.maximum(lengths - (context_length + 1), 0)
    cut = np.minimum(excess, np.maximum(prompts - 1, 0))
    return FittedDocuments(starts + cut, np.minimum(lengths - cut, context_length + 1), prompts - cut)


class CompletionDataset(BatchDataset):
    """Documents by their number. The documents of `index` are in `tokens` (N,).

    Example:

        >>> from folio.data.document_index import DocumentTable
        >>> index = DocumentIndex([DocumentTable(np.array([5, 8]), prompt_lengths=np.array([2, 1]))])
        >>> CompletionDataset(np.arange(10, 18), index, context_length=3).count_cut()  # prompts, completions
        (1, 0)
    """

    def __init__(self, tokens: Tokens, index: DocumentIndex, context_length: int) -> None:
        assert index.has_prompts
        self.index = index
        self._tokens = tokens
        self._context_length = context_length

    def __len__(self) -> int:
        return len(self.index)

    def mean_length(self) -> float:
        """Return the mean number of tokens that a model reads of a document. Only the first ones of many are read."""
        return float((self.fit(np.arange(min(len(self), MAX_DOCUMENTS_READ))).lengths - 1).mean())

    def count_cut(self) -> tuple[int, int]:
        """Return of how many documents the prompt is cut, and of how many the completion."""
        n_prompts = n_completions = 0
        for first in range(0, min(len(self), MAX_DOCUMENTS_READ), CHUNK):
            _, lengths, prompts = self.index.spans(np.arange(first, min(first + CHUNK, len(self))))
            n_prompts += int(((lengths > self._context_length + 1) & (prompts > 1)).sum())
            n_completions += int((lengths - np.maximum(prompts - 1, 0) > self._context_length + 1).sum())
        return n_prompts, n_completions

    def fit(self, documents: np.ndarray) -> FittedDocuments:
        """Return the documents (B,) as far as they fit into the context."""
        return fit_documents(*self.index.spans(documents), self._context_length)

    def batch_of(self, fitted: FittedDocuments, weight: float = 1.0) -> Batch:
        """Return the batch of these documents."""
        spans = gather_spans(self._tokens, fitted.starts, fitted.lengths)  # (B, T + 1)
        columns = np.arange(1, spans.shape[1])
        is_target = (columns >= fitted.prompts[:, None]) & (columns < fitted.lengths[:, None])
        lengths = fitted.lengths - 1
        return Batch(
            as_tensor(np.where(columns <= lengths[:, None], spans[:, :-1], 0)),
            as_tensor(np.where(is_target, spans[:, 1:], IGNORE_INDEX)),
            n_tokens=int(lengths.sum()),
            lengths=as_tensor(lengths),
            weight=weight,
        )


class CompletionTraining(CompletionDataset):
    """The documents of a `MicroBatch`, whose indices are their numbers.

    Example:

        >>> from folio.data.document_index import DocumentTable
        >>> index = DocumentIndex([DocumentTable(np.array([5, 8]), prompt_lengths=np.array([2, 1]))])
        >>> dataset = CompletionTraining(np.arange(10, 18), index, context_length=8)
        >>> dataset.batch(MicroBatch(step=0, batch_indices=np.array([0, 1]), rows=slice(1, 2))).targets.tolist()
        [[16, 17]]
    """

    def batch(self, micro_batch: MicroBatch) -> Batch:
        n_targets = self.fit(micro_batch.batch_indices).n_targets
        weight = float(n_targets[micro_batch.rows].mean() / n_targets.mean())
        return self.batch_of(self.fit(micro_batch.indices), weight)


class CompletionValidation(CompletionDataset):
    """Every document once, in order.

    Example:

        >>> from folio.data.document_index import DocumentTable
        >>> index = DocumentIndex([DocumentTable(np.array([5, 8]), prompt_lengths=np.array([2, 1]))])
        >>> batch = CompletionValidation(np.arange(10, 18), index, context_length=8).batch([0, 1])
        >>> batch.tokens.tolist(), batch.targets.tolist()
        ([[10, 11, 12, 13], [15, 16, 0, 0]], [[-100, 12, 13, 14], [16, 17, -100, -100]])
    """

    def batch(self, indices: Sequence[int]) -> Batch:
        return self.batch_of(self.fit(np.asarray(indices, dtype=np.int64)))
