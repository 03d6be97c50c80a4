"""Which jobs a sweep has, what they are called, and what sweep.json says of them."""

import json
import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from folio.runtime.errors import FolioError
from folio.sweeps import manifest
from folio.sweeps.planning import LONGEST_NAME, Job, Word, folder_name, planned_jobs, trial_name
from folio.sweeps.replay import OUTPUT_DIR, whole_command

CONF = Path(__file__).parents[2] / "conf"
COMMAND = ["train.py", "-m", "seed=1,2", "model=debug"]


def test_a_sweep_is_every_combination_and_its_jobs_are_named_by_what_sets_them_apart() -> None:
    words = [
        Word("model", ("debug",), is_swept=False),
        Word("positional_encoding", ("learned", "rotary"), is_swept=True),
        Word("seed", ("1", "2"), is_swept=True),
    ]
    jobs = planned_jobs(words)
    assert [job.folder for job in jobs] == [
        "positional_encoding=learned,seed=1",
        "positional_encoding=learned,seed=2",
        "positional_encoding=rotary,seed=1",
        "positional_encoding=rotary,seed=2",
    ]
    assert jobs[1].overrides == ("model=debug", "positional_encoding=learned", "seed=2")


def test_a_single_job_is_named_by_all_its_words_and_one_without_words_has_a_name() -> None:
    (job,) = planned_jobs([Word("model", ("debug",), is_swept=False), Word("~schedule", (), is_swept=False)])
    assert job.overrides == ("model=debug", "~schedule")
    assert job.folder.startswith("model=debug,schedule-")
    assert planned_jobs([])[0].folder.startswith("job")


def test_of_a_key_typed_twice_the_last_counts() -> None:
    words = [Word("seed", ("1", "2"), is_swept=True), Word("seed", ("3",), is_swept=False)]
    assert [job.overrides for job in planned_jobs(words)] == [("seed=3",)]


@given(st.lists(st.text(min_size=1), min_size=1, max_size=6, unique=True))
def test_any_words_make_one_folder_that_every_file_system_takes(words: list[str]) -> None:
    name = folder_name(words)
    assert name == folder_name(words)
    assert 0 < len(name.encode(errors="surrogatepass")) <= LONGEST_NAME
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
def test_names_that_lost_something_still_differ(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    assert folder_name(one) != folder_name(other)


def test_a_long_name_keeps_what_says_most() -> None:
    words = [f"callbacks.checkpoint.some_long_section.key_{n}={n}" for n in range(9)]
    name = folder_name(words)
    assert name.startswith("key_0=0,key_1=1,")
    assert "key_8=8-" in name


def test_trials_are_named_by_their_number_and_short_values() -> None:
    values = {"optimizer.learning_rate": 0.00316227766, "model.d_model": "144", "schedule": "wsd"}
    assert trial_name(3, values) == "trial=3,learning_rate=0.00316,d_model=144,schedule=wsd"


def sweep_of(folder: Path, **statuses: str) -> Path:
    """A sweep's folder whose jobs seed=... left these statuses; `missing` left nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest.add_jobs(folder, [Job(f"seed={name}", (f"seed={name}",)) for name in statuses], COMMAND)
    for name, status in statuses.items():
        if status != "missing":
            (folder / f"seed={name}").mkdir()
            (folder / f"seed={name}" / "metrics.json").write_text(json.dumps({"status": status}))
    return folder


def statuses_in(folder: Path) -> list[str]:
    return [job["status"] for job in json.loads((folder / "sweep.json").read_text())["jobs"]]


def test_sweep_json_says_what_the_folders_say(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path / "s", a="finished", b="failed", c="interrupted", d="diverged", e="pruned", f="missing")
    manifest.mark(sweep, "seed=f", "running", pid=1)
    assert statuses_in(sweep)[-1] == "running"
    manifest.settle(sweep)
    assert statuses_in(sweep) == ["finished", "failed", "interrupted", "diverged", "pruned", "missing"]
    assert "pid" not in (sweep / "sweep.json").read_text()


def test_a_job_that_was_killed_has_its_checkpoint_to_go_on_from(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    assert manifest.status_of(tmp_path) == "missing"
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    assert manifest.status_of(tmp_path) == "interrupted"


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"status": "gone"}', '{"status": ["finished"]}', "\x00", "[" * 9999]
)
def test_damaged_metrics_mean_that_the_job_is_run_again(content: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text(content)
    assert manifest.status_of(tmp_path) == "missing"


def test_more_jobs_can_be_added_and_none_is_taken_for_another(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path / "s", a="finished")
    manifest.add_jobs(sweep, [Job("seed=b", ("seed=b",))], COMMAND)
    assert [job["folder"] for job in manifest.read_record(sweep)["jobs"]] == ["seed=a", "seed=b"]
    with pytest.raises(FolioError, match=r"seed=a was begun with fewer words, not with model=nano; type the same"):
        manifest.add_jobs(sweep, [Job("seed=a", ("seed=a", "model=nano"))], COMMAND)


def test_a_job_of_the_same_words_keeps_its_folder(tmp_path: Path) -> None:
    job = Job("seed=1", ("seed=1", "model=debug"))
    assert manifest.with_known_names(tmp_path, [job]) == [job]
    manifest.add_jobs(tmp_path, [Job("seed=1,model=debug", job.overrides)], COMMAND)
    other = Job("seed=2", ("seed=2", "model=debug"))
    assert [known.folder for known in manifest.with_known_names(tmp_path, [job, other])] == [
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
def test_a_damaged_sweep_json_is_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(FolioError, match=r"sweep\.json is damaged; bring it back, or start a new sweep"):
        manifest.read_record(tmp_path)


def test_latest_is_the_sweep_last_worked_on(tmp_path: Path) -> None:
    with pytest.raises(FolioError, match=r"no sweep below .*; start one with -m"):
        manifest.find_sweep("latest", tmp_path)
    old, new = sweep_of(tmp_path / "multirun" / "1"), sweep_of(tmp_path / "multirun" / "2")
    manifest.settle(old)
    assert manifest.find_sweep("latest", tmp_path) == old
    assert manifest.find_sweep(str(new), tmp_path) == new
    with pytest.raises(FolioError, match="does not exist; give the folder of a sweep, or 'latest'"):
        manifest.find_sweep(str(tmp_path), tmp_path)


def test_a_sweep_varies_what_its_jobs_differ_in(tmp_path: Path) -> None:
    jobs = [{"folder": str(seed), "overrides": ["model=debug", "+model.d_ff=8", f"seed={seed}"]} for seed in (1, 2)]
    manifest.write_record(tmp_path, {"command": [], "jobs": jobs})
    assert manifest.varied_keys(tmp_path / "1") == ["seed"]
    search = {"space": [{"key": "model.dropout", "low": 0.0, "high": 0.3}]}
    manifest.write_record(tmp_path, {"command": [], "jobs": jobs[:1], "search": search})
    assert manifest.varied_keys(tmp_path / "1") == ["model.dropout"], "the first trial differs from none yet"


def test_a_run_is_told_by_the_keys_that_were_typed() -> None:
    assert manifest.keys_of(["+model.d_ff=8", "seed=3", "model=debug", "~schedule"]) == [
        "model",
        "model.d_ff",
        "schedule",
        "seed",
    ]


def test_sweep_alone_stands_for_the_whole_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sweep_of(Path(OUTPUT_DIR) / "multirun" / "x")
    for typed in (["-m", "sweep=latest"], ["sweep=latest"], ["-m", "sweep=outputs/multirun/x"]):
        assert whole_command(typed) == ["-m", "seed=1,2", "model=debug", typed[-1]]
    assert whole_command(["-m", "hydra/launcher=joblib", "sweep=latest"]) == [
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
def test_no_word_that_may_name_code_is_taken_from_a_file(word: str, tmp_path: Path) -> None:
    manifest.add_jobs(tmp_path, (), [*COMMAND, word])
    with pytest.raises(FolioError, match="is not taken from a file; type the whole command"):
        whole_command(["-m", f"sweep={tmp_path}"])


@pytest.mark.parametrize("word", ["hydra/launcher=joblib", "hydra.launcher.n_jobs=-1", "data.path=hydra.txt"])
def test_how_many_jobs_run_at_once_is_taken_from_a_file(word: str, tmp_path: Path) -> None:
    manifest.add_jobs(tmp_path, (), [*COMMAND, word])
    assert word in whole_command(["-m", f"sweep={tmp_path}"])


@pytest.mark.parametrize(
    "typed", [["-m", "sweep=x", "seed=3"], ["-m", "seed=1,2"], ["seed=1"], [], ["--help"], ["--cfg", "job", "sweep=x"]]
)
def test_any_other_command_is_what_was_typed(typed: list[str]) -> None:
    assert whole_command(typed) == typed


def test_the_command_to_go_on_can_be_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert manifest.resume_hint(Path("outputs/multirun/2025-01-01/10-00-00"), "python") == (
        "python train.py -m sweep=outputs/multirun/2025-01-01/10-00-00"
    )
    odd = sweep_of(tmp_path / "it's, odd")
    words = shlex.split(manifest.resume_hint(odd, "python"))[2:]
    assert whole_command(words)[:-1] == COMMAND[1:]


def test_the_usual_output_folder_is_that_of_the_config() -> None:
    assert f"output_dir: {OUTPUT_DIR}\n" in (CONF / "train.yaml").read_text()
