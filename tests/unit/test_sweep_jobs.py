"""The jobs of a sweep, the names of their folders, and what sweep.json records about them."""

import json
import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from folio.runtime.commands import python_command
from folio.runtime.errors import FolioError
from folio.sweeps import manifest
from folio.sweeps.manifest import OUTPUT_DIR, replay_command
from folio.sweeps.planning import MAX_NAME_BYTES, GridAxis, Job, folder_name, plan_grid, trial_name

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
    manifest.add_jobs(folder, [Job(f"seed={name}", (f"seed={name}",)) for name in statuses], COMMAND)
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


def test_jobs_can_be_added_unless_a_folder_has_other_overrides(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "s", a="finished")
    manifest.add_jobs(sweep, [Job("seed=b", ("seed=b",))], COMMAND)
    assert [job["folder"] for job in manifest.read_manifest(sweep)["jobs"]] == ["seed=a", "seed=b"]
    with pytest.raises(FolioError, match=r"seed=a was started with fewer overrides, not with model=nano; run the same"):
        manifest.add_jobs(sweep, [Job("seed=a", ("seed=a", "model=nano"))], COMMAND)


def test_a_job_with_the_same_overrides_keeps_its_folder(tmp_path: Path) -> None:
    job = Job("seed=1", ("seed=1", "model=debug"))
    assert manifest.with_known_folders(tmp_path, [job]) == [job]
    manifest.add_jobs(tmp_path, [Job("seed=1,model=debug", job.overrides)], COMMAND)
    other = Job("seed=2", ("seed=2", "model=debug"))
    assert [known.folder for known in manifest.with_known_folders(tmp_path, [job, other])] == [
        "seed=1,model=debug",
        "seed=2",
    ]


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


def test_sweep_alone_is_replaced_by_the_recorded_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_sweep(Path(OUTPUT_DIR) / "multirun" / "x")
    for typed in (["-m", "sweep=latest"], ["sweep=latest"], ["-m", "sweep=outputs/multirun/x"]):
        assert replay_command(typed) == ["-m", "seed=1,2", "model=debug", typed[-1]]
    assert replay_command(["-m", "hydra/launcher=joblib", "sweep=latest"]) == [
        *COMMAND[1:],
        "hydra/launcher=joblib",
        "sweep=latest",
    ]


@pytest.mark.parametrize(
    "word",
    [
        "+hydra.callbacks.x._target_=os.system",
        "hydra/job_logging=x",
        "hydra/launcher=a/b",
        "hydra.launcher._target_=x",
        "hydra.launcher.n_jobs=1,2",
        "~hydra.mode",
        "--config-dir=.",
        "--config-path",
        "name=${oc.env:HOME}",
    ],
)
def test_no_override_that_may_name_code_is_replayed(word: str, tmp_path: Path) -> None:
    manifest.add_jobs(tmp_path, (), [*COMMAND, word])
    with pytest.raises(FolioError, match="is not read from a file; type the whole command"):
        replay_command(["-m", f"sweep={tmp_path}"])


@pytest.mark.parametrize("word", ["hydra/launcher=joblib", "hydra.launcher.n_jobs=-1", "data.path=hydra.txt"])
def test_the_number_of_parallel_jobs_is_replayed(word: str, tmp_path: Path) -> None:
    manifest.add_jobs(tmp_path, (), [*COMMAND, word])
    assert word in replay_command(["-m", f"sweep={tmp_path}"])


@pytest.mark.parametrize(
    "typed", [["-m", "sweep=x", "seed=3"], ["-m", "seed=1,2"], ["seed=1"], [], ["--help"], ["--cfg", "job", "sweep=x"]]
)
def test_any_other_command_is_unchanged(typed: list[str]) -> None:
    assert replay_command(typed) == typed


@pytest.mark.parametrize("name", ["10-00-00", "it's, odd", 'a "b" c', "a\\\\b", "back\\", '\\"', "${x}", "\\\\${x}"])
def test_the_command_to_resume_can_be_typed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    command = manifest.resume_sweep_command(make_sweep(tmp_path / name))
    assert command.startswith(f"{python_command()} train.py -m ")
    words = shlex.split(command.removeprefix(python_command()))[1:]
    assert replay_command(words)[:-1] == COMMAND[1:]


def test_the_default_output_folder_is_that_of_the_config() -> None:
    assert f"output_dir: {OUTPUT_DIR}\n" in (ROOT / "conf" / "train.yaml").read_text()
