"""A real optimizer step follows the list in docs/architecture.md."""

import re

from workspace import ROOT, TINY, Workspace

PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
FUNCTION = re.compile(r"`([\w/]+\.py):([\w.]+)`")

RECIPE = (
    *TINY,
    "optimizer=muon",
    "training.max_steps=3",
    "training.micro_batch_size=6",  # two to a step
    "training.validate_every_steps=2",
    "training.checkpoint_every_steps=2",
    "training.log_every_steps=1",
    "callbacks.samples.max_new_tokens=3",
)

TRACER = """
import runpy, sys
calls = open(sys.argv[1], "w")

def trace(frame, event, argument):
    if event == "call" and "/src/folio/" in frame.f_code.co_filename:
        path = frame.f_code.co_filename.rpartition("/src/folio/")[2]
        print(f"{path}:{frame.f_code.co_qualname}", file=calls)

del sys.argv[:2]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
sys.setprofile(trace)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].partition("\n## ")[0]


def test_an_optimizer_step_calls_what_the_page_lists_in_that_order(workspace: Workspace) -> None:
    """The step is followed by a validation and saved; at the next and last one Lightning validates before it stops."""
    (workspace.folder / "tracer.py").write_text(TRACER)
    calls = workspace.folder / "calls.txt"
    workspace.must(str(workspace.folder / "tracer.py"), str(calls), str(ROOT / "train.py"), *RECIPE)
    first = "data/batches/order.py:TrainingBatches.indices"
    _, _, second_step, last_step = calls.read_text().split(f"{first}\n")
    remaining = iter([first, *second_step.splitlines()])
    for path, name in FUNCTION.findall(section("One optimizer step")):
        assert f"{path}:{name}" in remaining, f"{path}:{name} is not called, or earlier than listed"
    assert "training/module.py:LanguageModel.on_validation_epoch_end\n" in last_step
