"""The packages and files that a GPU machine without network needs for a check, and those that it lacks.

Imports only the standard library at first: such a machine may lack any package of Folio.
"""

import re
import tomllib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

TEST_PACKAGES = ("pytest", "pytest-xdist", "hypothesis", "packaging")
"""Packages that the tests marked gpu need besides Folio's own dependencies."""

ASSETS = ("tiny_shakespeare.txt", "r50k_base.tiktoken")
"""Pinned files in data/assets: the text, and the tokens of GPT-2."""

ONLY_AS_SOURCE = ("antlr4-python3-runtime",)
"""Packages without a wheel on PyPI; theirs is the same for every Python."""

PYTHON = "3.12"
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def normalized(name: str) -> str:
    """Return a package's name as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def needed_packages() -> dict[str, str | None]:
    """Return the installed version of each package that a check needs besides torch's own; None if it is missing."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        direct: list[str] = tomllib.load(file)["project"]["dependencies"]
    torch = with_requirements(["torch"])
    return {name: found for name, found in with_requirements([*direct, *TEST_PACKAGES]).items() if name not in torch}


def with_requirements(requirements: Iterable[str]) -> dict[str, str | None]:
    """Return the installed versions of packages and of all that they require, by name; None for a missing one."""
    versions: dict[str, str | None] = {}
    waiting = list(requirements)
    while waiting:
        text, _, marker = waiting.pop().partition(";")
        name = normalized(re.split(r"[^\w.-]", text.strip(), maxsplit=1)[0])
        if name in versions or not applies(marker):
            continue
        try:
            found = distribution(name)
        except PackageNotFoundError:
            versions[name] = None
            continue
        versions[name] = found.version
        waiting += found.requires or []
    return dict(sorted(versions.items()))


def applies(marker: str) -> bool:
    """Return whether a requirement with this marker applies to Linux, without extras."""
    if not marker:
        return True
    from packaging.markers import Marker

    return Marker(marker).evaluate({"extra": "", "sys_platform": "linux", "platform_system": "Linux"})


def missing_packages() -> list[str]:
    """Return the names of the packages that this machine lacks."""
    try:
        return [name for name, version in needed_packages().items() if version is None]
    except ModuleNotFoundError as error:
        return [str(error.name)]


def describe(have: Path | None) -> str:
    """Return the list of what to carry.

    have: what `pip list` or `pip freeze` prints on the GPU machine; the packages in it are left out.
    """
    there = set() if have is None else {normalized(line.split()[0].partition("==")[0]) for line in lines_of(have)}
    packages = {name: version for name, version in needed_packages().items() if name not in there}
    wheels = [f"{name}=={version}" for name, version in packages.items() if name not in ONLY_AS_SOURCE]
    sources = [f"{name}=={version}" for name, version in packages.items() if name in ONLY_AS_SOURCE]
    platforms = " ".join(f"--platform {name}" for name in PLATFORMS)
    download = f"pip download --no-deps --only-binary=:all: --python-version {PYTHON} {platforms} --dest wheels"
    return "\n".join(
        [
            f"A check on a GPU machine without network needs Python {PYTHON}, torch 2.11 or newer for CUDA, and",
            "1. this checkout, without .venv, data and outputs;",
            "2. in it, at the same place:",
            *(f"     data/assets/{name}  {size_of(ROOT / 'data' / 'assets' / name)}" for name in ASSETS),
            "3. nanoGPT's model.py in a folder, for --nanogpt;",
            f"4. {len(packages)} packages; --have FILE leaves out those in FILE, the output of its pip list.",
            "",
            "Fetch the packages here:",
            f"  {download} {' '.join(wheels)}",
            *(f"  pip wheel --no-deps --wheel-dir wheels {one}" for one in sources),
            "Check there:",
            "  python3 -m pip install --no-index --no-deps --target site wheels/*.whl",
            "  PYTHONPATH=site python3 scripts/gpu_check.py --nanogpt PATH --output gpu_check.json",
        ]
    )


def lines_of(file: Path) -> list[str]:
    return [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def size_of(file: Path) -> str:
    return (
        f"{file.stat().st_size / 1e6:.1f} MB" if file.is_file() else "missing: any run with tokenizer=gpt2 fetches it"
    )
