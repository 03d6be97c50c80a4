"""Serve trained models with OpenAI's API: python scripts/serve.py latest"""

from folio.runtime.startup import prepare_process

if __name__ == "__main__":  # before the imports, which take a second
    prepare_process()

import importlib
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from folio.cli.options import Accelerator, Quantization
from folio.cli.scripts import run_script
from folio.runtime.commands import quote_for_shell
from folio.runtime.console import console
from folio.runtime.errors import FolioError
from folio.serve.limits import Limits
from folio.serve.models import find_checkpoints, load_models

if TYPE_CHECKING:
    from folio.serve.models import ServedModels

ORIGIN = re.compile(r"https?://[^/\s]+")

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def main(
    runs: Annotated[list[str], typer.Argument(metavar="RUN", help="Run folders, checkpoint files, or 'latest'.")],
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen on; 0 is any that is free.")] = 8000,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="Another name of this server in requests. Can be repeated.")
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(help="Origin whose web pages may use this server, as https://example.org. Can be repeated."),
    ] = None,
    max_requests: Annotated[int, typer.Option(help="Requests that are answered at once.")] = Limits.max_requests,
    max_tokens: Annotated[int, typer.Option(help="New tokens that a request may ask for.")] = Limits.max_tokens,
    quantize: Annotated[
        Quantization | None, typer.Option(help="Round the weights to 8 bits: a quarter of the memory.")
    ] = None,
    checkpoint: Annotated[
        str, typer.Option(help="Which checkpoint of the run folders: best, last, epoch=N or step=N.")
    ] = "best",
    output_dir: Annotated[Path, typer.Option(help="The folder in which 'latest' looks for runs.")] = Path("outputs"),
    device: Annotated[Accelerator, typer.Option(help="The device to run on.")] = Accelerator.AUTO,
) -> None:
    """Offer trained models to programs: OpenAI's API at http://127.0.0.1:8000/v1, until Ctrl-C.

    Only the given runs can be used. Neither other machines nor web pages can use them, unless --host and --allow-origin
    say so.
    """
    require_packages()
    for option, value, least, most in (
        ("--port", port, 0, 2**16 - 1),
        ("--max-requests", max_requests, 1, 10_000),
        ("--max-tokens", max_tokens, 1, 10_000_000),
    ):
        if not least <= value <= most:
            raise FolioError(f"{option}={value} must be at least {least} and at most {most}")
    for origin in allow_origin or []:
        if origin not in ("*", "null") and not ORIGIN.fullmatch(origin):
            raise FolioError(
                f"--allow-origin={origin} is no origin; give scheme, host and port, as https://example.org"
            )
    from folio.serve.server import Server, open_socket, url_of

    paths = find_checkpoints(runs, output_dir, checkpoint)
    with open_socket(host, port) as bound:
        models = load_models(paths, device, quantize)

        from folio.serve.app import build_app
        from folio.serve.scheduler import Scheduler

        scheduler = Scheduler(max_requests)
        app = build_app(
            models,
            scheduler,
            Limits(max_requests, max_tokens),
            hosts=[host, *(allow_host or [])],
            origins=allow_origin or [],
        )
        if host not in LOOPBACK:
            print(f"warning: --host={host}: whoever reaches it can use the models", file=sys.stderr)
        Server(app, scheduler, lambda: announce(url_of(bound), models)).run(sockets=[bound])


def require_packages() -> None:
    """Raises: FolioError if the packages of the extra `serve` are not installed."""
    for package in ("starlette", "uvicorn"):
        try:
            importlib.import_module(package)
        except ImportError:
            raise FolioError(f"serving needs {package}; install it with: pip install '.[serve]'") from None


def announce(url: str, models: "ServedModels") -> None:
    """Print what is served where, and how to try it."""
    for served in models:
        console.print(f"{served.id}: {served.path}, step {served.step:,}, {served.n_parameters:,} parameters")
    first = next(iter(models))
    body = json.dumps({"model": first.id, "prompt": first.sample_prompt, "max_tokens": 40}, ensure_ascii=False)
    code = (
        f'from openai import OpenAI; client = OpenAI(base_url="{url}/v1", api_key="none"); '
        f"print(client.completions.create(model={json.dumps(first.id)}, prompt={json.dumps(first.sample_prompt)}, "
        "max_tokens=40).choices[0].text)"
    )
    console.print(
        f"""\
try it with
    curl {url}/v1/completions -H 'Content-Type: application/json' -d {quote_for_shell(body)}
    python -c {quote_for_shell(code)}
serving {url}/v1, until Ctrl-C"""
    )


if __name__ == "__main__":
    run_script(main)
