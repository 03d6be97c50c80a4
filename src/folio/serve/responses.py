"""OpenAI's JSON for texts and tokens: whole answers, and the events of a stream."""

import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from folio.serve.generation import Piece, TextRequest, Token
from folio.serve.models import ServedModel

Json = dict[str, Any]


class Answer:
    """The answer to one request. `CompletionAnswer` and `ChatAnswer` know the shape of a choice."""

    prefix: str
    object: str
    chunk_object: str

    def __init__(self, served: ServedModel, request: TextRequest) -> None:
        self._served = served
        self._n_prompt_tokens = sum(map(len, request.prompts))
        self._has_logprobs = request.n_logprobs is not None
        self._id = f"{self.prefix}-{secrets.token_hex(12)}"
        self._created = int(time.time())

    def whole(self, pieces: Sequence[Piece]) -> Json:
        """Return the answer to a request without `stream`."""
        by_choice: dict[int, list[Piece]] = {}
        for piece in pieces:
            by_choice.setdefault(piece.index, []).append(piece)
        choices = [self._join(index, parts) for index, parts in sorted(by_choice.items())]
        return {**self._head(self.object, choices), "usage": self._usage(pieces)}

    def events(self, piece: Piece) -> Iterator[Json]:
        """Yield the events of a stream for a piece; none if it adds nothing."""
        if piece.text or piece.tokens or piece.finish_reason:
            yield self._head(self.chunk_object, [self._chunk(piece)])

    def usage_event(self, pieces: Iterable[Piece]) -> Json:
        """Return the last event of a stream whose client asked for the numbers of tokens."""
        return {**self._head(self.chunk_object, []), "usage": self._usage(pieces)}

    def _head(self, kind: str, choices: list[Json]) -> Json:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._served.id,
            "choices": choices,
        }

    def _usage(self, pieces: Iterable[Piece]) -> Json:
        n_new = sum(piece.n_new for piece in pieces)
        return {
            "prompt_tokens": self._n_prompt_tokens,
            "completion_tokens": n_new,
            "total_tokens": self._n_prompt_tokens + n_new,
        }

    def _join(self, index: int, parts: Sequence[Piece]) -> Json:
        text, tokens = "".join(part.text for part in parts), [token for part in parts for token in part.tokens]
        return self._choice(Piece(index, text, tuple(tokens), finish_reason=parts[-1].finish_reason))

    def _choice(self, piece: Piece) -> Json:
        raise NotImplementedError

    def _chunk(self, piece: Piece) -> Json:
        raise NotImplementedError


class CompletionAnswer(Answer):
    """The answer of /v1/completions."""

    prefix, object, chunk_object = "cmpl", "text_completion", "text_completion"

    def _choice(self, piece: Piece) -> Json:
        return {
            "text": piece.text,
            "index": piece.index,
            "logprobs": self._logprobs(piece.tokens) if self._has_logprobs else None,
            "finish_reason": piece.finish_reason,
        }

    def _chunk(self, piece: Piece) -> Json:
        return self._choice(piece)

    def _logprobs(self, tokens: Sequence[Token]) -> Json:
        name = self._served.token_text
        return {
            "tokens": [name(token.id) for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            # With the token itself, as OpenAI's API: there may be one more than was asked for.
            "top_logprobs": [
                None if token.logprob is None else {name(id_): value for id_, value in with_itself(token)}
                for token in tokens
            ],
            "text_offset": [token.offset for token in tokens],
        }


class ChatAnswer(Answer):
    """The answer of /v1/chat/completions."""

    prefix, object, chunk_object = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(self, served: ServedModel, request: TextRequest) -> None:
        super().__init__(served, request)
        self._begun: set[int] = set()

    def events(self, piece: Piece) -> Iterator[Json]:
        """As OpenAI's, an answer begins with its role, and ends with a reason and no text."""
        if piece.index not in self._begun:
            self._begun.add(piece.index)
            role = {"index": piece.index, "delta": {"role": "assistant", "content": ""}}
            yield self._head(self.chunk_object, [{**role, "logprobs": None, "finish_reason": None}])
        if piece.text or piece.tokens:
            yield self._head(self.chunk_object, [self._chunk(Piece(piece.index, piece.text, piece.tokens))])
        if piece.finish_reason:
            yield self._head(self.chunk_object, [self._chunk(Piece(piece.index, "", (), 0, piece.finish_reason))])

    def _choice(self, piece: Piece) -> Json:
        message = {"role": "assistant", "content": piece.text, "refusal": None}
        return {"index": piece.index, "message": message, **self._rest(piece)}

    def _chunk(self, piece: Piece) -> Json:
        return {"index": piece.index, "delta": {"content": piece.text} if piece.text else {}, **self._rest(piece)}

    def _rest(self, piece: Piece) -> Json:
        content = [{**self._scored(*of(token)), "top_logprobs": self._top(token)} for token in piece.tokens]
        logprobs = {"content": content, "refusal": None} if self._has_logprobs and content else None
        return {"logprobs": logprobs, "finish_reason": piece.finish_reason}

    def _top(self, token: Token) -> list[Json]:
        return [self._scored(id_, value) for id_, value in token.top]

    def _scored(self, id_: int, logprob: float | None) -> Json:
        return {
            "token": self._served.token_text(id_),
            "logprob": logprob,
            "bytes": list(self._served.token_bytes(id_)),
        }


def of(token: Token) -> tuple[int, float | None]:
    """Return the id and the log-probability of a token."""
    return token.id, token.logprob


def with_itself(token: Token) -> list[tuple[int, float | None]]:
    """Return the likeliest tokens, and the token itself if it is not one of them."""
    return [*token.top, *([] if any(id_ == token.id for id_, _ in token.top) else [of(token)])]
