"""Find the end of a text at a stop string while the text arrives in pieces."""

from collections.abc import Iterable, Iterator, Sequence


class StopSearch:
    """Releases a text up to its first stop string, which may start in one piece and end in a later one.

    The stop string that is complete first counts, so the result does not depend on how the text is cut into pieces.

        >>> search = StopSearch(["END"])
        >>> search.push("one E"), search.push("ND two"), search.is_complete
        ('one ', '', True)
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = stop
        self._held = ""
        self.is_complete = False
        """Whether a stop string was found; no more text follows."""

    def push(self, piece: str) -> str:
        """Add a piece; return the text that no stop string can begin in. What might be one is held back."""
        self._held += piece
        found = [(start + len(string), start) for string in self._stop if (start := self._held.find(string)) >= 0]
        if found:
            self.is_complete = True
            _, n_safe = min(found)
        else:
            n_safe = len(self._held) - self._n_possible()
        released, self._held = self._held[:n_safe], self._held[n_safe:]
        return released

    def finish(self) -> str:
        """Return the text that is still held back at the end; nothing of a stop string."""
        released, self._held = "" if self.is_complete else self._held, ""
        return released

    def _n_possible(self) -> int:
        """Return how many characters at the end could be the start of a stop string."""
        lengths = (n for string in self._stop for n in range(1, len(string)) if self._held.endswith(string[:n]))
        return max(lengths, default=0)


def until_stop(pieces: Iterable[str], stop: Sequence[str]) -> Iterator[str]:
    """Yield text until a stop string is complete, in pieces that are not empty."""
    search = StopSearch(stop)
    for piece in pieces:
        if released := search.push(piece):
            yield released
        if search.is_complete:
            return
    if released := search.finish():
        yield released
