"""Sweeps finish even if some jobs fail, and can be resumed: real processes and real faults."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from workspace import TINY, Finished, Run, Workspace, choose

from folio.training.assembly import build_initial_model

QUICK = (*TINY, "logger=none", "callbacks.samples.max_new_tokens=0")

# Seed 666 meets a bug, 667 changes everything it can in its process and then meets a bug, and 999 is killed.
SABOTAGE = """
import os, random, signal, sys, threading, warnings
from importlib.machinery import PathFinder

def change_everything():
    import numpy, torch
    os.environ["OMP_NUM_THREADS"] = "7"
    os.environ["PL_GLOBAL_SEED"] = "7"
    os.chdir("/")
    warnings.simplefilter("error")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.excepthook = print
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True)
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    torch.autograd.set_detect_anomaly(True)
    torch.set_float32_matmul_precision("medium")
    torch.manual_seed(7); numpy.random.seed(7); random.seed(7)

class Sabotage:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != "FAULTY_MODULE":
            return None
        spec = PathFinder.find_spec(name, path, target)
        execute = spec.loader.exec_module
        def exec_module(module):
            execute(module)
            original = module.FAULTY_FUNCTION
            def sabotaged(context):
                config = context.config
                if config.seed == 667:
                    change_everything()
                if config.seed in (666, 667):
                    raise ZeroDivisionError("a bug\\nof two lines")
                if config.seed == 999:
                    os.kill(os.getpid(), signal.SIGKILL)
                return original(context)
            module.FAULTY_FUNCTION = sabotaged
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Sabotage)
""".replace("FAULTY_MODULE", build_initial_model.__module__).replace("FAULTY_FUNCTION", build_initial_model.__name__)


@pytest.fixture(scope="module")
def sabotage(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the environment of a process with the faults above."""
    folder = tmp_path_factory.mktemp("sabotage")
    (folder / "sitecustomize.py").write_text(SABOTAGE)
    return {"PYTHONPATH": str(folder)}


def sweep_folder(workspace: Workspace) -> Path:
    (file,) = (workspace.folder / "outputs").rglob("sweep.json")
    return file.parent


def statuses(workspace: Workspace) -> dict[str, str]:
    manifest = json.loads((sweep_folder(workspace) / "sweep.json").read_text())
    return {job["folder"]: job["status"] for job in manifest["jobs"]}


def started_jobs(output: str) -> list[str]:
    """Return the names of the jobs that a sweep started, in order."""
    return re.findall(r"^job \d+ of \d+: (.*)$", output, re.MULTILINE)


@pytest.fixture(scope="module")
def failing(make_workspace: Callable[[], Workspace], sabotage: dict[str, str]) -> tuple[Workspace, Finished]:
    """Run a sweep of four jobs: two have an impossible width, and one of the others meets a bug."""
    workspace = make_workspace()
    return workspace, workspace.run("train.py", "-m", *QUICK, "seed=666,2", "model.d_model=5,4", **sabotage)


def test_a_failure_is_recorded_and_the_other_jobs_run(failing: tuple[Workspace, Finished]) -> None:
    workspace, finished = failing
    assert finished.code == 2
    assert not re.search("val loss|tokens/s,|run folder", finished.stdout), "a sweep prints one line for each job"
    assert started_jobs(finished.stdout) == [
        "seed=666,model.d_model=5",
        "seed=666,model.d_model=4",
        "seed=2,model.d_model=5",
        "seed=2,model.d_model=4",
    ]
    assert "job 3 of 4: " in finished.stdout
    assert "Traceback" not in finished.stdout + finished.stderr
    folder = sweep_folder(workspace)
    bug = folder / "seed=666,model.d_model=4"
    metrics = json.loads((bug / "metrics.json").read_text())
    assert metrics == {"status": "failed", "error": "ZeroDivisionError: a bug", "seed": 666}
    assert "Traceback" in (bug / "train.log").read_text()
    assert "of two lines" in (bug / "train.log").read_text()
    impossible = folder / "seed=2,model.d_model=5"
    metrics = json.loads((impossible / "metrics.json").read_text())
    assert metrics["error"].startswith("model.d_model=5 must be divisible by model.n_heads=2")
    assert metrics["seed"] == 2
    for line in (bug, impossible):
        assert f"failed: {line.name}: " in finished.stdout


def test_each_job_and_the_sweep_record_their_overrides(failing: tuple[Workspace, Finished]) -> None:
    workspace, _ = failing
    folder = sweep_folder(workspace)
    manifest = json.loads((folder / "sweep.json").read_text())
    assert manifest["command"] == ["train.py", "-m", *QUICK, "seed=666,2", "model.d_model=5,4"]
    for job in manifest["jobs"]:
        assert job["overrides"][-2:] == job["folder"].split(",")
        assert json.loads((folder / job["folder"] / "overrides.json").read_text()) == job["overrides"]


def test_the_summary_has_a_table_and_the_command_to_resume(failing: tuple[Workspace, Finished]) -> None:
    workspace, finished = failing
    place = sweep_folder(workspace).relative_to(workspace.folder)
    table = finished.stdout[finished.stdout.rindex("job 4 of 4") :]
    for text in (
        "seed=666,model.d_model=5",
        "loss (nats)",
        "bits per byte",
        f"train.py -m sweep={place}",
        "3 failed",
        "1 finished",
    ):
        assert text in table
    assert {"report.html", "report.csv", "report.md"} <= {path.name for path in sweep_folder(workspace).iterdir()}


def test_a_resumed_sweep_runs_only_missing_and_failed_jobs(failing: tuple[Workspace, Finished]) -> None:
    workspace, _ = failing
    run = Run(sweep_folder(workspace) / "seed=2,model.d_model=4")
    before = (run.folder / "metrics.json").stat().st_mtime_ns
    shorter = workspace.run("train.py", "-m", "sweep=latest")
    assert shorter.code == 2
    assert started_jobs(shorter.stdout) == [
        "seed=666,model.d_model=5",
        "seed=666,model.d_model=4",
        "seed=2,model.d_model=5",
    ]
    assert statuses(workspace) == {
        "seed=666,model.d_model=5": "failed",
        "seed=666,model.d_model=4": "finished",
        "seed=2,model.d_model=5": "failed",
        "seed=2,model.d_model=4": "finished",
    }
    assert (run.folder / "metrics.json").stat().st_mtime_ns == before
    # The full command, with only the possible width: all jobs are done.
    place = sweep_folder(workspace).relative_to(workspace.folder)
    output = workspace.must("train.py", "-m", *QUICK, "seed=666,2", "model.d_model=4", f"sweep={place}")
    assert started_jobs(output) == []
    assert f"2 of 2 jobs in {place} are done; 0 to run" in output
    assert len(statuses(workspace)) == 4


def test_a_sweep_in_which_every_job_would_fail_is_refused_before_anything_is_written(workspace: Workspace) -> None:
    for overrides, message in {
        ("seed=1,2", "model.d_model=5"): "model.d_model=5 must be divisible by",
        ("seed=1,2", "model.n_layer=5"): "did you mean model.n_layers?",
        ("seed=1,2", "sweep=nowhere"): "sweep=nowhere: nowhere/sweep.json does not exist",
        ("seed=1,2", "hydra.sweep.subdir=x"): "jobs are named by the values in which they differ",
        ("seed=1,2", "resume=latest"): "resume a sweep with -m sweep=latest",
        ("model.dropout=interval(0,1)",): "an interval is for a search",
        ("hparams_search=optuna", "seed=1,2"): "seed cannot be searched",
        ("hparams_search=optuna", "hparams_search.n_trial=3"): "did you mean hparams_search.n_trials?",
        ("hparams_search=optuna", "hparams_search.objective=loss"): "is not one of val/loss_nats",
        ("hparams_search=optuna", "schedule=wsd,wdd"): "schedule=wdd is not one of",
        ("hparams_search=optuna", "model.d_model=6,7"): "model.d_model=7 is impossible for every trial",
        ("hparams_search=optuna", "hparams_search.n_trials=2000"): "2,000 jobs, and max_jobs=1000; give fewer",
        ("seed=range(1,100000000)",): "99,999,999 jobs, and max_jobs=1000; give fewer values, or raise max_jobs",
        ("seed=range(1,5,0)",): "a range needs finite limits and a step other than 0",
    }.items():
        assert message in workspace.run("train.py", "-m", *QUICK, *overrides).error_line()
    assert "add -m" in workspace.run("train.py", *QUICK, "hparams_search=optuna").error_line()
    assert not (workspace.folder / "outputs").exists()


def test_a_value_that_hydra_cannot_compose_fails_alone(workspace: Workspace) -> None:
    values = ("optimizer=adamw,nope", 'callbacks.samples.prompt=JULIET,"${oc.env:NOPE}"')
    finished = workspace.run("train.py", "-m", *QUICK, *values, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    assert finished.code == 2
    assert sorted(statuses(workspace).values()) == ["failed", "failed", "failed", "finished"]
    assert statuses(workspace)["optimizer=adamw,callbacks.samples.prompt=JULIET"] == "finished"
    assert "optimizer=nope is not one of adam, adamw, muon, sgd" in finished.stdout
    assert "Environment variable 'NOPE' not found" in finished.stdout
    assert "Traceback" not in finished.stdout + finished.stderr
    # sweep.json is not trusted with ${...}, so the command to resume has all words.
    assert "train.py -m model=debug " in finished.stdout


def test_a_job_gives_the_same_results_alone_and_in_a_sweep(workspace: Workspace, sabotage: dict[str, str]) -> None:
    overrides = (*TINY, "logger=csv", "training.validate_every_steps=5")
    swept = ("deterministic=true,false", "trainer.detect_anomaly=true,false", "seed=1,667")
    workspace.run("train.py", "-m", *overrides, *swept, **sabotage)
    names = list(statuses(workspace))
    assert list(statuses(workspace).values()) == ["finished", "failed"] * 4
    fifth = Run(sweep_folder(workspace) / names[4])
    assert fifth.config["deterministic"] is False
    alone = workspace.train(*overrides, "deterministic=false", "trainer.detect_anomaly=true", "seed=1")
    assert fifth.equals(alone)
    assert fifth.samples == alone.samples
    assert fifth.results == alone.results
    for tag in ("train/loss_nats", "train/gradient_norm", "val/loss_nats"):
        assert fifth.curve(tag, "csv") == alone.curve(tag, "csv")
    assert (fifth.folder / "train.log").read_text().count("validation loss") == 1


def test_a_killed_sweep_resumes_from_the_last_checkpoint_of_the_killed_job(workspace: Workspace) -> None:
    steps = ("training.max_steps=60", "training.validate_every_steps=20", "training.checkpoint_every_steps=20")
    process = workspace.start("train.py", "-m", *QUICK, *steps, "seed=1,2")
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("job 2 of 2"):
            break
    workspace.wait_for_log("step 40: val", process, n_runs=2)
    process.kill()
    process.stdout.close()
    process.wait()
    assert statuses(workspace) == {"seed=1": "finished", "seed=2": "running"}
    file = sweep_folder(workspace) / "sweep.json"
    before = file.read_text()
    for word in ("seed=3", "training.max_steps=80", "model=nano"):
        line = workspace.run("train.py", "-m", "sweep=latest", word).error_line()
        assert f"{word} beside sweep=" in line
    listed = workspace.must("train.py", "-m", "sweep=latest", "dry_run=true")
    assert re.fullmatch(r"dry_run=true: 1 of 2 jobs in .* would run, and nothing is written\n  seed=2\n", listed)
    assert file.read_text() == before
    output = workspace.must("train.py", "-m", "sweep=latest", "paths.data_dir=elsewhere", "logger=csv")
    assert (workspace.folder / "elsewhere" / "text_file").is_dir()
    assert json.loads(file.read_text())["command"] == json.loads(before)["command"]
    assert started_jobs(output) == ["seed=2"]
    assert set(statuses(workspace).values()) == {"finished"}
    killed = Run(sweep_folder(workspace) / "seed=2")
    assert "resuming in" in (killed.folder / "train.log").read_text()
    assert killed.equals(workspace.train(*QUICK, *steps, "seed=2"))


def test_parallel_jobs_share_the_cpus_and_a_database_and_number_their_lines(workspace: Workspace) -> None:
    """One of the two workers has a second job, and the first two create the database."""
    environment = {key: value for key, value in workspace.environment.items() if key != "OMP_NUM_THREADS"}
    free = Workspace(workspace.folder, environment)
    launcher = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    output = free.must("train.py", "-m", *choose(QUICK, "logger=mlflow"), *launcher, "seed=1,2,3")
    assert set(statuses(workspace).values()) == {"finished"}
    n_threads = max(1, len(os.sched_getaffinity(0)) // 2)
    for run in map(Run, workspace.runs()):
        assert f", {n_threads} thread" in run.metrics["device"]
        logged = run.mlflow()
        assert (logged.info.run_name, logged.data.params["seed"]) == (run.folder.name, str(run.metrics["seed"]))
        assert logged.data.metrics["best/val/loss_nats"] == run.metrics["best/val/loss_nats"]
    for number in (1, 2, 3):
        assert f"[{number}] job {number} of 3: seed={number}\n" in output
    assert "\x1b" not in output


ENDLESS = ("training.max_steps=100000", "training.validate_every_steps=20", "training.checkpoint_every_steps=100000")


def test_parallel_jobs_save_and_end_if_the_main_process_is_killed(workspace: Workspace) -> None:
    launcher = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    process = workspace.start("train.py", "-m", *QUICK, *ENDLESS, *launcher, "seed=1,2,3")
    workspace.wait_for_log("step 20: val", process, n_runs=2)
    process.kill()
    output, _ = process.communicate()  # ends when the workers do, who have inherited the pipe
    assert output.count("stopped by SIGTERM; last.ckpt has step") == 2, output
    assert statuses(workspace) == {"seed=1": "interrupted", "seed=2": "interrupted", "seed=3": "missing"}
    assert "3 of 3 jobs" in workspace.must("train.py", "-m", "sweep=latest", "dry_run=true")


@pytest.mark.slow
def test_workers_end_if_the_main_process_is_killed_while_they_start(workspace: Workspace) -> None:
    launcher = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    process = workspace.start_until("3 jobs in", "train.py", "-m", *QUICK, *ENDLESS, *launcher, "seed=1,2,3")
    process.kill()
    process.communicate()
    assert set(statuses(workspace).values()) == {"missing"}


@pytest.mark.slow
def test_a_killed_worker_is_a_failed_job_and_the_jobs_beside_it_are_retried(
    workspace: Workspace, sabotage: dict[str, str]
) -> None:
    finished = workspace.run("train.py", "-m", *QUICK, "hydra/launcher=joblib", "seed=1,999,666,4", **sabotage)
    assert finished.code == 2
    assert list(statuses(workspace).values()) == ["finished", "failed", "failed", "finished"]
    assert "failed: seed=999: its process was killed" in finished.stdout
    assert "failed: seed=666: ZeroDivisionError: a bug" in finished.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_parallel_jobs_and_each_is_saved(
    number: signal.Signals, code: int, workspace: Workspace
) -> None:
    launcher = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    # In its own process group, which gets the signal as from a terminal.
    process = subprocess.Popen(
        workspace.command("train.py", "-m", *QUICK, *ENDLESS, *launcher, "seed=1,2,3"),
        cwd=workspace.folder,
        env=workspace.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    workspace.wait_for_log("step 20: val", process, n_runs=2)
    os.killpg(process.pid, number)
    output = process.stdout.read()
    process.stdout.close()
    assert process.wait() == code, output
    assert "Traceback" not in output
    assert statuses(workspace) == {"seed=1": "interrupted", "seed=2": "interrupted", "seed=3": "missing"}
    for run in map(Run, workspace.runs()):
        assert run.checkpoint()["global_step"] == run.metrics["step"] >= 20
    assert "train.py -m sweep=" in output.splitlines()[-1]


SEARCH = (
    *QUICK,
    "hparams_search=optuna",
    "hparams_search.space=null",
    "hparams_search.n_startup_trials=2",
    "training.validate_every_steps=5",
    "training.checkpoint_every_steps=5",
    "optimizer.learning_rate=tag(log,interval(1e-5,1e-1))",
    "model.d_model=choice(4,6)",
    "model.n_heads=choice(2,3)",
)


def test_a_search_survives_failed_trials_and_a_kill_and_prunes(workspace: Workspace) -> None:
    process = workspace.start("train.py", "-m", *SEARCH, "hparams_search.n_trials=3")
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("job 2 of 3"):
            break
    process.kill()
    process.stdout.close()
    process.wait()
    assert len(statuses(workspace)) == 2
    finished = workspace.run("train.py", "-m", *SEARCH, "hparams_search.n_trials=12", "sweep=latest")
    assert finished.code == 0, finished.stdout + finished.stderr
    output = finished.stdout
    found = statuses(workspace)
    assert len(found) == 12
    assert set(found.values()) == {"finished", "failed", "pruned"}
    for name, status in found.items():
        assert (status == "failed") == ("d_model=4,n_heads=3" in name)
    assert "best: val/bits_per_byte" in output
    assert re.search(r"^pruned after step \d+: val/bits_per_byte .* is worse than the median", output, re.MULTILINE)
    pruned = next(name for name, status in found.items() if status == "pruned")
    metrics = Run(sweep_folder(workspace) / pruned).metrics
    assert metrics["status"] == "pruned"
    assert metrics["step"] < 20


@pytest.mark.slow
def test_the_search_of_the_readme_runs_on_a_small_model(workspace: Workspace) -> None:
    output = workspace.must("train.py", "-m", "hparams_search=optuna", *QUICK, "hydra/launcher=joblib")
    assert len(statuses(workspace)) == 20
    assert set(statuses(workspace).values()) <= {"finished", "pruned", "diverged"}
    assert "best: val/bits_per_byte" in output
