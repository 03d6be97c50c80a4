"""GPT-2's alphabet of 256 printable characters, one for each byte, in which Hugging Face's files write byte pairs.

Source: `bytes_to_unicode` in OpenAI's GPT-2 code. A byte that Latin-1 prints stands for itself; the others, such as the
space, are in turn U+0100, U+0101 and so on.
"""

_PRINTABLE = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]

BYTE_CHARACTERS = "".join(chr(byte if byte in _PRINTABLE else 0x100 + _OTHERS.index(byte)) for byte in range(256))
"""The character of each byte."""

_FROM_LATIN_1 = str.maketrans(dict(enumerate(BYTE_CHARACTERS)))
_TO_LATIN_1 = str.maketrans({character: chr(byte) for byte, character in enumerate(BYTE_CHARACTERS)})


def characters_of(data: bytes) -> str:
    """Return one character for each byte.

    >>> characters_of(b" be")
    'Ġbe'
    """
    return data.decode("latin-1").translate(_FROM_LATIN_1)


def bytes_of(characters: str) -> bytes | None:
    """Return the bytes that `characters_of` turns into these characters; None if there are none.

    >>> bytes_of("Ġbe"), bytes_of("▁be")
    (b' be', None)
    """
    if not set(characters) <= _ALPHABET:
        return None
    return characters.translate(_TO_LATIN_1).encode("latin-1")


_ALPHABET = frozenset(BYTE_CHARACTERS)
