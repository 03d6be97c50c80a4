"""How a tokenizer is stored: its state as JSON, and the fingerprint of that file."""

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from folio.data.tokenizers.base import Tokenizer
from folio.runtime.errors import FolioError
from folio.runtime.untrusted import MIB, has_many_containers, read_bytes, shown

MAX_TOKENIZER_BYTES = 64 * MIB
"""Limit for a tokenizer.json. The largest vocabulary that Folio learns, of two million words, has 25 MB."""


def state_to_json(state: Mapping[str, Any]) -> bytes:
    """Return the state as JSON, always the same bytes for the same state. Bytes values become base64."""
    plain = {
        key: {"base64": base64.b64encode(value).decode("ascii")} if isinstance(value, bytes) else value
        for key, value in state.items()
    }
    return json.dumps(plain, sort_keys=True).encode("ascii")


def read_state_file(path: Path) -> bytes:
    """Return the content of a tokenizer.json, for `state_from_json`. Raises: UntrustedFileError; OSError."""
    return read_bytes(path, MAX_TOKENIZER_BYTES)


def state_from_json(data: bytes) -> dict[str, Any]:
    """Return the state that `state_to_json` wrote. Raises: ValueError if `data` is not such a JSON object."""
    try:
        text = data.decode("utf-8")
        if has_many_containers(text):
            raise ValueError("too many lists")
        return {
            key: base64.b64decode(value["base64"], validate=True) if isinstance(value, dict) else value
            for key, value in json.loads(text, parse_int=_parse_no_int).items()
        }
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"not a tokenizer state: {shown(error)}") from error


def _parse_no_int(digits: str) -> int:
    """Raises: ValueError, since no tokenizer's state holds a number; thousands of digits take quadratic time."""
    raise ValueError("it holds a number")


def fingerprint(state_json: bytes) -> str:
    """Return the sha256 of a tokenizer's file."""
    return hashlib.sha256(state_json).hexdigest()


def fingerprint_of(tokenizer: Tokenizer) -> str:
    """Return the fingerprint of the file that the tokenizer's state makes."""
    return fingerprint(state_to_json(tokenizer.state()))


def check_state(state: Mapping[str, Any], **fields: type) -> None:
    """Raises: FolioError unless the state has a name and exactly these fields, with values of these types."""
    wanted = {"name": str, **fields}
    if state.keys() != wanted.keys() or not all(isinstance(state[key], kind) for key, kind in wanted.items()):
        name, keys = shown(repr(state.get("name"))), shown(str(sorted(map(str, state))))
        raise FolioError(
            f"tokenizer state with name={name} and keys {keys} is not one that this version of Folio writes; prepare "
            "the data or train again"
        )
