"""What training needs of a corpus, whatever it was made from."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from folio.data.sharded_tokens import Tokens
from folio.data.token_file import TokenFileError, TokenFileInfo
from folio.data.tokenizers.registry import Tokenizer
from folio.runtime.errors import FolioError

Log = Callable[[str], None]
"""To be told what is done, a line at a time."""


class TokenSplit(Protocol):
    """One of the two splits: a TokenFile, TokenShards, or several of them as one."""

    @property
    def path(self) -> Path: ...

    @property
    def info(self) -> TokenFileInfo: ...

    @property
    def tokens(self) -> Tokens: ...

    def check_unchanged(self) -> None:
        """Raises: TokenFileError where something has written to it since it was opened."""
        ...


@dataclass(frozen=True)
class MixturePart:
    """One corpus of a mixture. `share` is that of the sequences in training; all shares together are 1."""

    name: str
    share: float
    train: TokenSplit
    val: TokenSplit


@dataclass(frozen=True)
class PreparedData:
    """Two splits and the tokenizer that made them. A mixture has `parts`, whose tokens stand in the splits in order."""

    train: TokenSplit
    val: TokenSplit
    tokenizer: Tokenizer
    folder: Path
    parts: tuple[MixturePart, ...] = ()

    @property
    def files(self) -> list[TokenSplit]:
        """The splits, of each part where there are some."""
        splits = [split for part in self.parts for split in (part.train, part.val)]
        return splits or [self.train, self.val]


class NotReusableError(Exception):
    """A folder cannot be used as it is; the message says why."""


@contextmanager
def opening(tokenizer_file: Path) -> Iterator[None]:
    """Around the reading of a prepared folder. Raises: NotReusableError for what is missing or damaged there."""
    try:
        yield
    except FileNotFoundError as error:
        raise NotReusableError(f"{error.filename} is missing") from error
    except TokenFileError as error:
        raise NotReusableError(error.fault) from error
    except ValueError as error:
        raise NotReusableError(f"{tokenizer_file} is damaged") from error


@contextmanager
def using(data_dir: Path) -> Iterator[None]:
    """Around all that reads and writes there. Raises: FolioError, which names paths.data_dir, where the disk fails."""
    try:
        yield
    except OSError as error:
        raise FolioError(
            f"paths.data_dir={data_dir} cannot be used: {error}; free space there, mend its permissions, "
            "or choose another folder"
        ) from error


def holds_other_than(tokens: Tokens, ids: Iterable[int]) -> bool:
    """Whether a token is none of these; reads no further than to the first."""
    unwanted = np.array(list(ids))
    pieces = (tokens[first : first + 2**16] for first in range(0, len(tokens), 2**16))
    return any(not np.isin(piece, unwanted).all() for piece in pieces)
