"""Which tokenizer a corpus is prepared with."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from folio.data.tokenizers.base import LearnedTokenizer, Tokenizer
from folio.data.tokenizers.state import fingerprint_of, state_from_json


@dataclass(frozen=True)
class TokenizerChoice:
    """A kind of tokenizer and its options; `folio.config.tokenizer` has the choices by name.

    Example:

        >>> from folio.data.tokenizers.word import WordTokenizer
        >>> TokenizerChoice(WordTokenizer, "word", max_vocab_size=8192).folder_name
        'word-8192'
    """

    kind: type[Tokenizer]
    name: str
    max_vocab_size: int | None = None
    """Limit of a learned vocabulary; None: no limit."""
    vocab_size: int | None = None
    """Exact size of a learned vocabulary; None: as the text gives it."""
    shared: Tokenizer | None = None
    """Tokenizer that is there already, as one that was learned from several corpora together; None: `build` makes it.
    """

    @property
    def folder_name(self) -> str:
        """The name, the size if one was asked for, and a digest of the vocabulary if it is shared: word-8192."""
        size = self.vocab_size or self.max_vocab_size
        name = self.name if size is None else f"{self.name}-{size}"
        return name if self.shared is None else f"{name}-{fingerprint_of(self.shared)[:8]}"

    @property
    def learned_kind(self) -> type[LearnedTokenizer] | None:
        """Class that counts the vocabulary in the text; None if there is nothing to learn."""
        return self.kind if self.shared is None and issubclass(self.kind, LearnedTokenizer) else None

    @property
    def known_vocab_size(self) -> int | None:
        """Size of the vocabulary if it does not depend on a text, so that a model can be sized without one."""
        if self.shared is not None:
            return self.shared.vocab_size
        return self.vocab_size or self.kind.known_vocab_size(self.name)

    def build(self, assets_dir: Path, counts: Counter[str] | None = None) -> Tokenizer:
        """Return the tokenizer; one that is learned needs the `counts` of its units.

        Raises: FolioError if the text does not give the vocabulary, or a file cannot be obtained.
        """
        if self.shared is not None:
            return self.shared
        if self.learned_kind is not None:
            assert counts is not None
            return self.learned_kind.from_counts(counts, self.vocab_size or self.max_vocab_size)
        return self.kind.create(self.name, assets_dir)

    def allows(self, tokenizer: Tokenizer) -> bool:
        """Return whether this choice can have built the tokenizer."""
        is_small = self.max_vocab_size is None or tokenizer.vocab_size <= self.max_vocab_size
        fits = is_small and self.vocab_size in (None, tokenizer.vocab_size)
        is_shared = self.shared is None or fingerprint_of(self.shared) == fingerprint_of(tokenizer)
        return tokenizer.name == self.name and fits and is_shared

    def load(self, state_json: bytes) -> Tokenizer:
        """Return the tokenizer of a file that this choice has written. Raises: ValueError if the file is damaged."""
        return self.kind.from_state(state_from_json(state_json))
