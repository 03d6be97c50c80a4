"""Kinds of files, recognized by their first bytes."""

import re

UTF8_BOM = b"\xef\xbb\xbf"
"""Byte order mark, which some editors write in front of a text. It is no part of the text."""

HEAD_BYTES = 512
"""Number of bytes that `recognize` needs."""

SIGNATURES: dict[bytes, str] = {
    rb"\x1f\x8b": (
        "is packed by gzip; unpack it (gunzip), or read it with data=text_files under a name such as a.txt.gz"
    ),
    rb"\x28\xb5\x2f\xfd": (
        "is packed by zstd; unpack it (unzstd), or read it with data=text_files under a name such as a.txt.zst"
    ),
    rb"BZh[1-9]1AY&SY": "is packed by bzip2; unpack it (bunzip2)",
    rb"\xfd7zXZ\0": "is packed by xz; unpack it (unxz)",
    rb"\x04\x22\x4d\x18": "is packed by lz4; unpack it (unlz4)",
    rb"7z\xbc\xaf\x27\x1c": "is packed by 7-Zip; unpack it (7z x)",
    rb"Rar!\x1a\x07": "is packed by RAR; unpack it (unrar x)",
    rb"PK[\x03\x05\x07]": "is packed by zip, as .docx and .epub files are; unpack it (unzip), or export its text",
    rb"[\s\S]{257}ustar": "is a tar archive; unpack it (tar -xf)",
    rb"PAR1": "is a Parquet file; read it with data=text_files under a name such as a.parquet",
    rb"%PDF-": "is a PDF; extract its text (pdftotext)",
    rb"\xff\xfe|\xfe\xff": "is UTF-16; convert it (iconv -f UTF-16 -t UTF-8)",
}
"""Patterns of first bytes, and the problem and the remedy."""


def recognize(head: bytes) -> str | None:
    """Return why a file that begins so is not UTF-8 text, and the remedy; None if that is not known."""
    return next((problem for pattern, problem in SIGNATURES.items() if re.match(pattern, head)), None)
