"""A side in a process of its own: python -m benchmarks.contenders.worker SPEC.json ANSWERS

Started by `benchmarks.contenders.process`; ANSWERS is the number of an open file to answer into.
"""

import os
import sys
from pathlib import Path

from benchmarks.contenders.protocol import Line, Spec
from folio.runtime.errors import FolioError
from folio.runtime.memory import resident_bytes
from folio.runtime.startup import fast_imports


def main(spec_file: str, answers: str) -> None:
    spec = Spec.read(Path(spec_file))
    with os.fdopen(int(answers), "w", encoding="utf-8") as file:
        line = Line(sys.stdin, file)
        try:
            serve(spec, line)
        except FolioError as error:
            line.fail(str(error))


def serve(spec: Spec, line: Line) -> None:
    """Import what the side needs, note the memory that this takes, and let it work."""
    if spec.task == "generate":
        from benchmarks.contenders.generators import serve_writer

        prepare(spec)
        serve_writer(spec, line, resident_bytes())
    elif spec.side == "folio":
        with fast_imports():  # as train.py has it
            from benchmarks.contenders.folio_trainer import serve_folio
        prepare(spec)
        serve_folio(spec, line, resident_bytes())
    else:
        from benchmarks.contenders.peers import HuggingFaceLoop, NanoGPTLoop
        from benchmarks.contenders.training_loops import BareLoop, BuildLoop, serve_loop

        prepare(spec)
        loops: dict[str, BuildLoop] = {"bare": BareLoop, "hf": HuggingFaceLoop, "nanogpt": NanoGPTLoop}
        serve_loop(loops[spec.side], spec, line, resident_bytes())


def prepare(spec: Spec) -> None:
    """Set the threads, and import what a peer imports: it counts as memory before the model is built, too."""
    import torch

    from benchmarks.contenders.peers import import_nanogpt, import_transformers

    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
    if spec.side == "hf":
        import_transformers()
    elif spec.side == "nanogpt":
        assert spec.nanogpt is not None
        import_nanogpt(spec.nanogpt)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
