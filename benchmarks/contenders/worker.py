"""A contender in a process of its own: python -m benchmarks.contenders.worker SPEC.json REPLIES

`benchmarks.contenders.process` starts it; REPLIES is the number of an open file descriptor for replies.
"""

import os
import sys
from pathlib import Path

from benchmarks.contenders.protocol import Channel, WorkerSpec
from folio.runtime.errors import FolioError
from folio.runtime.memory import resident_bytes
from folio.runtime.startup import fast_imports


def main(spec_file: str, replies: str) -> None:
    spec = WorkerSpec.read(Path(spec_file))
    with os.fdopen(int(replies), "w", encoding="utf-8") as file:
        channel = Channel(sys.stdin, file)
        try:
            serve(spec, channel)
        except FolioError as error:
            channel.reply_error(str(error))


def serve(spec: WorkerSpec, channel: Channel) -> None:
    """Import what the contender needs, measure the memory that this takes, then follow commands."""
    if spec.task == "generate":
        from benchmarks.contenders.generators import serve_generator

        prepare_process(spec)
        serve_generator(spec, channel, resident_bytes())
    elif spec.contender == "folio":
        with fast_imports():  # as in train.py
            from benchmarks.contenders.folio_trainer import serve_folio
        prepare_process(spec)
        serve_folio(spec, channel, resident_bytes())
    elif spec.contender == "lightning":
        with fast_imports():
            from benchmarks.contenders.lightning_loop import serve_lightning
        prepare_process(spec)
        serve_lightning(spec, channel, resident_bytes())
    else:
        from benchmarks.contenders.peers import HuggingFaceLoop, NanoGPTLoop
        from benchmarks.contenders.training_loops import BareLoop, TrainingLoop, serve_loop

        prepare_process(spec)
        loops: dict[str, type[TrainingLoop]] = {"bare": BareLoop, "hf": HuggingFaceLoop, "nanogpt": NanoGPTLoop}
        serve_loop(loops[spec.contender], spec, channel, resident_bytes())


def prepare_process(spec: WorkerSpec) -> None:
    """Set the threads, and import what a peer imports: that memory, too, is taken before the model is built."""
    import torch

    from benchmarks.contenders.peers import import_nanogpt, import_transformers

    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
    if spec.contender == "hf":
        import_transformers()
    elif spec.contender == "nanogpt":
        assert spec.nanogpt is not None
        import_nanogpt(spec.nanogpt)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
