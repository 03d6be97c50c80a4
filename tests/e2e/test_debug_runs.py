"""Debugging modes and profilers, as a user types them."""

import json

from workspace import TINY, Run, Workspace, choose


def test_a_profiler_changes_no_bit_and_reports_in_each_run_of_a_sweep(workspace: Workspace) -> None:
    workspace.must("train.py", *TINY, "-m", "trainer.profiler=null,simple,advanced")
    plain, *profiled = sorted(
        map(Run, workspace.runs()), key=lambda run: str(run.config["trainer"]["profiler"]) != "None"
    )
    assert plain.config["trainer"]["profiler"] is None
    assert not (plain.folder / "profile").exists()
    for run in profiled:
        report = (run.folder / "profile" / f"fit-{run.config['trainer']['profiler']}.txt").read_text()
        assert "LanguageModel.optimizer_step" in report
        assert run.equals(plain)
        assert run.results == plain.results


def test_each_process_writes_tables_and_traces_of_its_operations(workspace: Workspace) -> None:
    words = ("debug=limit", "trainer.profiler=pytorch", "callbacks=[default,device_stats]")  # which needs a logger
    finished = workspace.run("train.py", *choose(TINY, "trainer=ddp_cpu"), *words)
    assert finished.code == 0, finished.stderr
    (folder,) = workspace.runs()
    assert f"profile          {folder.relative_to(workspace.folder)}/profile" in finished.stdout
    for rank in (0, 1):
        assert "aten::mm" in (folder / "profile" / f"training-{rank}.txt").read_text()
        trace = json.loads((folder / "profile" / f"training-{rank}.trace.json").read_text())
        assert any("training_step" in event.get("name", "") for event in trace["traceEvents"])


def test_a_debugging_run_says_so_and_is_no_result(workspace: Workspace) -> None:
    printed = workspace.must("train.py", *TINY, "debug=overfit", "model.d_model=32", "optimizer.learning_rate=0.01")
    assert "overfit: one batch for training and validation; the numbers of this run are no results" in printed
    (folder,) = workspace.runs()
    assert folder.relative_to(workspace.folder).parts[:2] == ("outputs", "debug")
    run = Run(folder)
    assert run.metrics["debug"] == "overfit"
    assert run.metrics["val/loss_nats"] < 0.1
    evaluated = workspace.must("scripts/evaluate.py", str(folder))  # the whole validation split
    assert f"{run.metrics['val/loss_nats']:.6f} nats" not in evaluated
    report = workspace.must("scripts/report.py", str(folder))
    assert "1 debug=overfit" in report
