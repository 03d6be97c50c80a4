"""The jobs of a sweep, the names of their folders, and what sweep.json records about them."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from folio.runtime.errors import FolioError
from folio.sweeps import manifest
from folio.sweeps.manifest import OUTPUT_DIR
from folio.sweeps.planning import MAX_NAME_BYTES, GridAxis, Job, folder_name, plan_grid, trial_name
from folio.sweeps.runner import run_until_signal
from folio.sweeps.worker import STOPPING_FILE

ROOT = Path(__file__).parents[2]
COMMAND = ["train.py", "-m", "seed=1,2", "model=debug"]


def test_a_grid_has_every_combination_and_its_jobs_are_named_by_their_swept_values() -> None:
    axes = [
        GridAxis("model", ("debug",), is_swept=False),
        GridAxis("positional_encoding", ("learned", "rotary"), is_swept=True),
        GridAxis("seed", ("1", "2"), is_swept=True),
    ]
    jobs = plan_grid(axes)
    assert [job.folder for job in jobs] == [
        "positional_encoding=learned,seed=1",
        "positional_encoding=learned,seed=2",
        "positional_encoding=rotary,seed=1",
        "positional_encoding=rotary,seed=2",
    ]
    assert jobs[1].overrides == ("model=debug", "positional_encoding=learned", "seed=2")


def test_a_single_job_is_named_by_all_its_overrides_and_has_a_name_even_without_any() -> None:
    (job,) = plan_grid([GridAxis("model", ("debug",), is_swept=False), GridAxis("~schedule", (), is_swept=False)])
    assert job.overrides == ("model=debug", "~schedule")
    assert job.folder.startswith("model=debug,schedule-")
    assert plan_grid([])[0].folder.startswith("job")


def test_the_last_override_of_a_key_wins() -> None:
    axes = [GridAxis("seed", ("1", "2"), is_swept=True), GridAxis("seed", ("3",), is_swept=False)]
    assert [job.overrides for job in plan_grid(axes)] == [("seed=3",)]


@given(st.lists(st.text(min_size=1), min_size=1, max_size=6, unique=True))
def test_any_overrides_give_a_folder_name_that_every_file_system_allows(overrides: list[str]) -> None:
    name = folder_name(overrides)
    assert name == folder_name(overrides)
    assert 0 < len(name.encode(errors="surrogatepass")) <= MAX_NAME_BYTES
    assert not set(name) & set("/\\'\"`$*?[]{}();<>|&!# \0\n\t")
    assert name[0] not in ".-"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("data.path=a/b.txt",), ("data.path=a_b.txt",)),
        (("optimizer.betas=[0.9,0.95]",), ("optimizer.betas=[0.9,0.99]",)),
        (("name='a,b'",), ("name='a','b'",)),
        (tuple(f"key_{n}={'x' * 40}" for n in range(9)), (*(f"key_{n}={'x' * 40}" for n in range(8)), "key_8=y")),
    ],
)
def test_names_that_were_shortened_still_differ(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    assert folder_name(one) != folder_name(other)


def test_a_long_name_keeps_the_ends_of_the_keys() -> None:
    overrides = [f"callbacks.checkpoint.some_long_section.key_{n}={n}" for n in range(9)]
    name = folder_name(overrides)
    assert name.startswith("key_0=0,key_1=1,")
    assert "key_8=8-" in name


def test_trials_are_named_by_their_number_and_short_values() -> None:
    values = {"optimizer.learning_rate": 0.00316227766, "model.d_model": "144", "schedule": "wsd"}
    assert trial_name(3, values) == "trial=3,learning_rate=0.00316,d_model=144,schedule=wsd"


def make_sweep(folder: Path, **statuses: str) -> Path:
    """Create a sweep whose jobs seed=... ended with these statuses; a `missing` one has no folder."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest.create_manifest(folder, COMMAND)
    manifest.add_jobs(folder, [Job(f"seed={name}", (f"seed={name}",)) for name in statuses])
    for name, status in statuses.items():
        if status != "missing":
            (folder / f"seed={name}").mkdir()
            (folder / f"seed={name}" / "metrics.json").write_text(json.dumps({"status": status}))
    return folder


def statuses_in(folder: Path) -> list[str]:
    return [job["status"] for job in json.loads((folder / "sweep.json").read_text())["jobs"]]


def test_statuses_are_refreshed_from_the_folders(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "s", a="finished", b="failed", c="interrupted", d="diverged", e="pruned", f="missing")
    manifest.set_status(sweep, "seed=f", "running", pid=1)
    assert statuses_in(sweep)[-1] == "running"
    manifest.refresh_statuses(sweep)
    assert statuses_in(sweep) == ["finished", "failed", "interrupted", "diverged", "pruned", "missing"]
    assert "pid" not in (sweep / "sweep.json").read_text()


def test_a_killed_job_with_a_checkpoint_is_interrupted(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    assert manifest.job_status(tmp_path) == "missing"
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    assert manifest.job_status(tmp_path) == "interrupted"


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"status": "gone"}', '{"status": ["finished"]}', "\x00", "[" * 9999]
)
def test_a_job_with_damaged_metrics_runs_again(content: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text(content)
    assert manifest.job_status(tmp_path) == "missing"


def test_a_sweep_that_was_killed_while_it_stopped_runs_again(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "s", a="missing")
    (sweep / STOPPING_FILE).touch()
    is_stopping = []
    assert run_until_signal(sweep, lambda stop: is_stopping.append((sweep / STOPPING_FILE).exists()), 1) == 0
    assert is_stopping == [False]


def test_jobs_can_be_added_unless_a_folder_has_another_experiment(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "s", a="finished")
    manifest.add_jobs(sweep, [Job("seed=b", ("seed=b",)), Job("seed=a", ("seed=a", "paths.data_dir=x"))])
    assert [job["folder"] for job in manifest.read_manifest(sweep)["jobs"]] == ["seed=a", "seed=b"]
    with pytest.raises(FolioError, match=r"seed=a was started with fewer overrides, not with model=nano; run the same"):
        manifest.add_jobs(sweep, [Job("seed=a", ("seed=a", "model=nano"))])


def test_a_job_of_the_same_experiment_keeps_its_folder(tmp_path: Path) -> None:
    job = Job("seed=1", ("seed=1", "model=debug", "trainer=cpu"))
    manifest.create_manifest(tmp_path, COMMAND)
    assert manifest.with_known_folders(tmp_path, [job]) == [job]
    manifest.add_jobs(tmp_path, [Job("seed=1,model=debug", ("model=debug", "seed=1", "trainer=gpu"))])
    other = Job("seed=2", ("seed=2", "model=debug"))
    assert [known.folder for known in manifest.with_known_folders(tmp_path, [job, other])] == [
        "seed=1,model=debug",
        "seed=2",
    ]
    varied = manifest.with_known_folders(tmp_path, [job], varied={"trainer"})
    assert varied == [job], "a sweep that compares machines has a job for each"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"jobs": []}',
        '{"command": [1], "jobs": []}',
        '{"command": [], "jobs": [{"folder": "../x", "overrides": []}]}',
        '{"command": [], "jobs": [{"folder": "..", "overrides": []}]}',
        '{"command": [], "jobs": [{"folder": "x", "overrides": [null]}]}',
        '{"command": [], "jobs": [{"folder": "x\\u001b[31m", "overrides": []}]}',
        '{"command": [], "jobs": [{"folder": "x\\n", "overrides": []}]}',
        '{"command": [], "jobs": [], "search": []}',
        '{"command": ' + "[" * 5000 + "]" * 5000 + "}",
        '{"command": [], "jobs": [], "search": {"seed": ' + "9" * 5000 + "}}",
    ],
)
def test_a_damaged_sweep_json_is_one_line_of_error(content: str, tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(FolioError, match=r"sweep\.json is damaged; restore it, or start a new sweep"):
        manifest.read_manifest(tmp_path)


def test_latest_is_the_sweep_that_was_changed_last(tmp_path: Path) -> None:
    with pytest.raises(FolioError, match=r"no sweep below .*; start one with -m"):
        manifest.find_sweep("latest", tmp_path)
    old, new = make_sweep(tmp_path / "multirun" / "1"), make_sweep(tmp_path / "multirun" / "2")
    manifest.refresh_statuses(old)
    assert manifest.find_sweep("latest", tmp_path) == old
    assert manifest.find_sweep(str(new), tmp_path) == new
    with pytest.raises(FolioError, match="does not exist; give the folder of a sweep, or 'latest'"):
        manifest.find_sweep(str(tmp_path), tmp_path)


def test_a_sweep_varies_the_keys_in_which_its_jobs_differ(tmp_path: Path) -> None:
    jobs = [{"folder": str(seed), "overrides": ["model=debug", "+model.d_ff=8", f"seed={seed}"]} for seed in (1, 2)]
    manifest.write_manifest(tmp_path, {"command": [], "jobs": jobs})
    assert manifest.varied_keys(tmp_path / "1") == ["seed"]
    search = {"space": [{"key": "model.dropout", "low": 0.0, "high": 0.3}]}
    manifest.write_manifest(tmp_path, {"command": [], "jobs": jobs[:1], "search": search})
    assert manifest.varied_keys(tmp_path / "1") == ["model.dropout"], "the first trial differs from none yet"


def test_override_keys_are_sorted_and_without_signs() -> None:
    assert manifest.override_keys(["+model.d_ff=8", "seed=3", "model=debug", "~schedule"]) == [
        "model",
        "model.d_ff",
        "schedule",
        "seed",
    ]


def test_the_default_output_folder_is_that_of_the_config() -> None:
    assert f"output_dir: {OUTPUT_DIR}\n" in (ROOT / "conf" / "train.yaml").read_text()
