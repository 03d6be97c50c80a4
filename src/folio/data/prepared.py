"""A corpus as training needs it, whatever it was prepared from."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from folio.data.document_index import DocumentIndex
from folio.data.sharded_tokens import Tokens
from folio.data.token_file import TokenFileInfo
from folio.data.tokenizers.base import Tokenizer


class TokenSplit(Protocol):
    """One of the splits: a TokenFile, TokenShards, or the JoinedSplit of a mixture."""

    @property
    def path(self) -> Path: ...

    @property
    def info(self) -> TokenFileInfo: ...

    @property
    def tokens(self) -> Tokens: ...

    @property
    def documents(self) -> DocumentIndex | None:
        """Where its documents are; None for a single text, and for what an earlier version prepared."""
        ...

    @property
    def completions_info(self) -> TokenFileInfo | None:
        """The text without its prompts; None if the documents have none."""
        ...

    def check_unchanged(self) -> None:
        """Raises: TokenFileError if the tokens were written to since they were opened."""
        ...


MIXTURE_BLOCK = 1 << 16
"""Number of training sequences in which the shares of a mixture are exact. Each corpus has at least one of them."""


@dataclass(frozen=True)
class MixturePart:
    """One corpus of a mixture. `share` is its share of the training sequences; all shares add up to 1.

    Example:

        >>> from folio.config.tokenizer import choose_tokenizer
        >>> from folio.data.corpora.single_text import TextFile
        >>> _ = Path("my.txt").write_text("To be, or not to be. " * 20)
        >>> data = TextFile("my.txt").prepare(choose_tokenizer("char"), Path("data"), log=lambda line: None)
        >>> MixturePart("my.txt", 0.5, data.train, data.val).share
        0.5
    """

    name: str
    share: float
    train: TokenSplit
    val: TokenSplit


@dataclass(frozen=True)
class PreparedData:
    """The splits and the tokenizer that made them. The splits of a mixture are those of its `parts`, concatenated.

    Example:

        >>> from folio.config.tokenizer import choose_tokenizer
        >>> from folio.data.corpora.single_text import TextFile
        >>> _ = Path("my.txt").write_text("To be, or not to be. " * 20)
        >>> data = TextFile("my.txt").prepare(choose_tokenizer("char"), Path("data"), log=lambda line: None)
        >>> len(data.train.tokens), len(data.val.tokens), data.tokenizer.vocab_size
        (378, 42, 10)
    """

    train: TokenSplit
    val: TokenSplit
    tokenizer: Tokenizer
    folder: Path
    parts: tuple[MixturePart, ...] = ()
    open_test: Callable[[], TokenSplit] | None = None
    """Opens the test split; None if there is none. Training never calls it, so it cannot read that split.

    Raises: FolioError if the split is missing or damaged.
    """

    @property
    def files(self) -> list[TokenSplit]:
        """The splits for training and validation; of a mixture, those of each part."""
        splits = [split for part in self.parts for split in (part.train, part.val)]
        return splits or [self.train, self.val]


def has_token_outside(tokens: Tokens, ids: Iterable[int]) -> bool:
    """Return whether any token is none of these ids. Reads no further than the first one."""
    excluded = np.array(list(ids))
    chunks = (tokens[first : first + 2**16] for first in range(0, len(tokens), 2**16))
    return any(not np.isin(chunk, excluded).all() for chunk in chunks)
