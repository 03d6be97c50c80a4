"""Lines of JSON, each with one document."""

import json
from pathlib import Path
from typing import Any

from folio.data.corpora.signatures import UTF8_BOM, recognize
from folio.runtime.commands import quote_for_shell
from folio.runtime.errors import FolioError
from folio.runtime.untrusted import shown

MAX_LINE_BYTES = 1 << 26
"""Longest line."""

MAX_STRUCTURE_BYTES = 1 << 22
"""Most bytes of a line outside strings. A list of two bytes takes 64 in memory."""

# Numbers are not read: a document is a string, and a number of millions of digits would take hours.
_decode = json.JSONDecoder(parse_int=lambda _: 0, parse_float=lambda _: 0.0).decode


def parse_line(line: bytes, number: int, text_field: str, path: Path) -> bytes | None:
    """Return the document of a line as UTF-8; None if the line is blank, or the document null.

    `text_field` is a key, or several joined by dots for an object in an object.

    Raises: FolioError with the number of the line.
    """
    where = f"{path}, line {number}"
    fields = _parse_object(line, number, text_field, path)
    value = None if fields is None else _find(fields, text_field, "text_field", where)
    return None if value is None else _encode(value, text_field, where)


def parse_pair(
    line: bytes, number: int, prompt_field: str, completion_field: str, path: Path
) -> tuple[bytes, bytes] | None:
    """Return prompt and completion of a line as UTF-8; None if the line is blank.

    Raises: FolioError with the number of the line, also if one of the two is null, or the completion is empty.
    """
    where = f"{path}, line {number}"
    fields = _parse_object(line, number, prompt_field, path)
    if fields is None:
        return None
    found = []
    for key, field in (("prompt_field", prompt_field), ("completion_field", completion_field)):
        value = _find(fields, field, key, where)
        if value is None:
            raise FolioError(f"{where}: the field {field} is null; fill it, or leave the line out")
        found.append(_encode(value, field, where))
    prompt, completion = found
    if not completion:
        raise FolioError(
            f"{where}: the field {completion_field} is empty, so there is nothing to predict; fill it, or leave the "
            "line out"
        )
    return prompt, completion


def _parse_object(line: bytes, number: int, example_field: str, path: Path) -> dict[str, Any] | None:
    """Return the JSON object of a line; None if the line is blank. Raises: FolioError with the number of the line."""
    where = f"{path}, line {number}"
    if number == 1:
        line = line.removeprefix(UTF8_BOM)
    if not line.strip():
        return None
    _check_structure(line, where)
    try:
        fields = _decode(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        if number == 1:
            _recognize(line, error, path)
        raise FolioError(
            f"{where} is not JSON ({shown(error)}); each line must be a JSON object (jq -c . makes one)"
        ) from error
    if not isinstance(fields, dict):
        if isinstance(fields, list) and number == 1 and fields and isinstance(fields[0], dict):
            refuse_array(path)
        raise FolioError(f'{where} is not a JSON object; each line must be one, such as {{"{example_field}": ...}}')
    return fields


def _encode(value: str, field: str, where: str) -> bytes:
    try:
        return value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise FolioError(
            f"{where}: the field {field} holds half of a surrogate pair, which has no UTF-8 form; "
            "fix the line, or leave it out"
        ) from error


def _check_structure(line: bytes, where: str) -> None:
    """Raises: FolioError for a line of megabytes that is not one long text but millions of values."""
    if len(line) <= MAX_STRUCTURE_BYTES:
        return
    unescaped = line.replace(b"\\\\", b"").replace(b'\\"', b"")
    n_strings = unescaped.count(b'"') // 2
    if n_strings <= MAX_STRUCTURE_BYTES // 4:
        n_bytes = sum(map(len, unescaped.split(b'"')[::2]))
        if n_bytes <= MAX_STRUCTURE_BYTES:
            return
    raise FolioError(f"{where} holds millions of values; give files in which a line has one document")


def _recognize(line: bytes, error: Exception, path: Path) -> None:
    """Raises: FolioError if the first line shows that the whole file is of another kind."""
    if isinstance(error, json.JSONDecodeError) and line.lstrip().startswith(b"["):
        refuse_array(path)
    if isinstance(error, UnicodeDecodeError) and (problem := recognize(line)):
        raise FolioError(f"{path} {problem}") from None


def refuse_array(path: Path) -> None:
    """Raises: FolioError for a file that is one array of all documents."""
    lines = path.with_suffix(".lines.jsonl" if path.suffix == ".jsonl" else ".jsonl")
    unpack = "unpack it, and " if path.suffix in (".gz", ".zst") else ""
    raise FolioError(
        f"{path} is one JSON array, and Folio reads a JSON object from each line; {unpack}make lines of it: "
        f"jq -c '.[]' {quote_for_shell(str(path))} > {quote_for_shell(str(lines))}"
    )


def _find(fields: dict[str, Any], field: str, key: str, where: str) -> str | None:
    """Return the text in a field, the value of data.<key>; None for null.

    Raises: FolioError if there is no such field, or it holds something else.
    """
    value: Any = fields
    # A key may itself contain a dot, so it is tried first.
    for part in [field] if field in fields else field.split("."):
        if not isinstance(value, dict) or part not in value:
            found = " ".join(", ".join(value).split()) if isinstance(value, dict) else "no fields"
            pair = isinstance(value, dict) and key == "text_field" and {"prompt", "completion"} <= value.keys()
            holds = key.removesuffix("_field")
            remedy = (
                "read both: data.prompt_field=prompt data.completion_field=completion"
                if pair
                else f"name the one that holds the {holds}"
            )
            raise FolioError(f"{where} has no field data.{key}={field}; it has {shown(found)}: {remedy}")
        value = value[part]
        if value is None:
            return None
    if isinstance(value, dict) and value:
        part = shown(" ".join(f"{field}.{next(iter(value))}".split()))
        raise FolioError(f"{where}: the field {field} has parts; name one, as in data.{key}={part}")
    if not isinstance(value, str):
        raise FolioError(f"{where}: the field {field} holds not a string but {type(value).__name__}")
    return value
