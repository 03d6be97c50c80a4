"""Check and measure Folio on a GPU, in less than nine minutes: python scripts/gpu_check.py --nanogpt PATH

With --rehearse it runs every step on the CPU, with tiny sizes; --carry lists what a machine without network needs.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[1:1] = [str(ROOT), str(ROOT / "src")]  # a machine that is lent for an hour need not install this checkout

from benchmarks.gpu_day.carry import describe, missing_packages  # noqa: E402
from folio.runtime.startup import prepare_process  # noqa: E402

if __name__ == "__main__":
    if missing := missing_packages():
        message = f"{', '.join(missing)}: not installed; scripts/gpu_check.py --carry, on a complete machine, says how"
        print(f"error: {message}", file=sys.stderr)
        raise SystemExit(2)
    prepare_process()

from typing import Annotated  # noqa: E402

import typer  # noqa: E402

from benchmarks.gpu_day.day import run_day  # noqa: E402
from benchmarks.gpu_day.page import publish  # noqa: E402
from benchmarks.gpu_day.steps import STEPS, Machine  # noqa: E402
from folio.cli.scripts import run_script  # noqa: E402
from folio.runtime.errors import FolioError  # noqa: E402
from folio.runtime.terminal import did_you_mean  # noqa: E402

STEP_HELP = "; ".join(f"{name}: {step.title}" for name, step in STEPS.items())


def main(
    steps: Annotated[list[str] | None, typer.Argument(metavar="STEP...", help=f"{STEP_HELP}. Default: all.")] = None,
    rehearse: Annotated[bool, typer.Option("--rehearse", help="Run on the CPU, with tiny sizes.")] = False,
    nanogpt: Annotated[Path | None, typer.Option(help="Folder with nanoGPT's model.py, to compare with.")] = None,
    output: Annotated[Path, typer.Option(help="JSON file, written after each step.")] = Path("gpu_check.json"),
    carry: Annotated[bool, typer.Option("--carry", help="List what a machine without network needs.")] = False,
    have: Annotated[Path | None, typer.Option(help="With --carry: a file of what pip list prints there.")] = None,
    publish_from: Annotated[
        Path | None, typer.Option("--publish", help="Write docs/performance.md's GPU part from this JSON file.")
    ] = None,
) -> None:
    """Run each step within its budget, report, and go on. Exit code 1 if a step failed or took too long."""
    if carry:
        print(describe(have))
        return
    if publish_from is not None:
        print(publish(publish_from))
        return
    for name in steps or []:
        if name not in STEPS:
            raise FolioError(f"step={name} is not one of {', '.join(STEPS)}{did_you_mean(name, list(STEPS))}")
    if nanogpt is not None and not (nanogpt / "model.py").is_file():
        raise FolioError(f"--nanogpt={nanogpt} has no model.py; give the folder of a checkout of nanoGPT")
    if output.is_dir() or not output.absolute().parent.is_dir():
        raise FolioError(f"--output={output} cannot be written: it is a folder, or its folder is missing; name a file")
    chosen = [step for name, step in STEPS.items() if not steps or name in steps]
    machine = Machine(rehearse, None if nanogpt is None else nanogpt.resolve())
    passed = run_day(chosen, machine, output)
    print(output)
    if not passed:
        raise typer.Exit(1)


if __name__ == "__main__":
    run_script(main)
