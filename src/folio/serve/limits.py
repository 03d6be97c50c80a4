"""Limits of a request, and of all requests together. Beyond them the answer is 400, 408, 413 or 429."""

from dataclasses import dataclass

MAX_BODY_BYTES = 2**20
"""A body above it is answered with 413."""

MAX_DEPTH = 8
"""Nesting of the JSON of a body; a message with parts of text has four levels."""

MAX_PROMPT_TOKENS = 65_536
"""Tokens of all prompts of a request. With logprobs, the scores of each are part of the answer."""

MAX_CHOICES = 128
"""Texts in the answer to a request: the number of prompts times `n`."""

MAX_STOPS, MAX_STOP_LENGTH = 16, 256
"""Number of stop strings, and characters of each: a text is compared with all of them after each token."""

MAX_LOGPROBS = 20
"""Alternatives to a token, as OpenAI's API has for a chat."""

BODY_TIMEOUT_S = 30
"""Time in which a body must arrive, or the answer is 408."""

SEND_TIMEOUT_S = 60
"""Time for which a client may read nothing of its answer before it is disconnected."""

PART_BYTES = 2**16
"""Bytes of an answer that are handed to the system at once."""


@dataclass(frozen=True)
class Limits:
    """The limits that a command line sets."""

    max_requests: int = 64
    """Requests that are answered at once, which bounds memory. One more is answered with 429."""
    max_tokens: int = 4096
    """New tokens of a text."""
