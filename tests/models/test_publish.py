import errno
import fcntl
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from models.errors import BadVersion
from models.repository import Repository, Version
from tests.models.sample import bytes_below, fill, manifest

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def repository(tmp_path):
    return Repository(tmp_path / "deep/inside/published")


def start_publishers(*arguments):
    """The program of publishers.py, under way."""
    command = [sys.executable, "-m", "tests.models.publishers", *map(str, arguments)]
    return subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def output_of(publishers):
    """The lines it printed, when it has ended well."""
    out, problem = publishers.communicate(timeout=300)
    assert publishers.returncode == 0, problem
    return out.splitlines()


def entries(repository):
    return sorted(path.name for path in (repository.root / "house").iterdir())


# -------------------------------------------------------------------------------------------------- what appears


def test_the_first_version_is_1_and_each_next_is_one_more(repository):
    assert [repository.publish("house", fill) for _ in range(3)] == [1, 2, 3]
    assert entries(repository) == [".last", ".lock", "1", "2", "3"]
    assert [str(repository.open("house", number)) for number in (1, 2, 3)] == ["house/1", "house/2", "house/3"]


def test_a_number_never_comes_back_even_if_its_version_was_deleted(repository):
    repository.publish("house", fill)
    repository.publish("house", fill)
    (repository.root / "house/2").rename(repository.root / "gone")
    assert repository.publish("house", fill) == 3


@pytest.mark.parametrize("last", [b"", b"x", b"-7", b"\xff", b"1\n", b"0"])
def test_a_damaged_note_of_the_last_number_gives_no_number_twice(repository, last):
    repository.publish("house", fill)
    repository.publish("house", fill)
    (repository.root / "house/.last").write_bytes(last)
    assert repository.publish("house", fill) == 3


def test_a_number_at_which_anything_stands_is_not_given(repository):
    repository.publish("house", fill)
    (repository.root / "house/2").touch()
    (repository.root / "house/3").mkdir()
    (repository.root / "house/4").symlink_to("nowhere")
    assert repository.publish("house", fill) == 5


def test_two_models_count_for_themselves(repository):
    assert repository.publish("house", fill) == 1
    assert repository.publish("barn", lambda draft: fill(draft, "barn")) == 1


def test_the_draft_has_the_permissions_that_the_publisher_gives_to_any_folder(repository):
    def fill_with_a_private_file(draft):
        describe = fill(draft)
        (draft / "model.onnx").chmod(0o600)  # as temporary files are
        return describe

    before = os.umask(0o027)
    try:
        repository.publish("house", fill_with_a_private_file)
    finally:
        os.umask(before)
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in (repository.root / "house/1").iterdir()}
    assert modes == {"manifest.json": "0o640", "model.onnx": "0o640", "proof.json": "0o640", "report": "0o750"}
    assert oct((repository.root / "house/1").stat().st_mode & 0o777) == "0o750"


# ---------------------------------------------------------------------------------------------- what is refused


def writing(name="house", number=None, files=None, also=None):
    """A fill that describes something else than it should."""

    def fill_wrongly(draft):
        fill(draft)
        if also:
            also(draft)
        return lambda real, digests: manifest(
            name=name, version=number or real, files=digests if files is None else files
        )

    return fill_wrongly


def nested(depth):
    value = 0
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (writing(name="barn"), "house/2: its manifest would say it is barn/2"),
        (writing(number=7), "house/2: its manifest would say it is house/7"),
        (writing(files={}), "house/2: its manifest would not list the files that were written, with their digests"),
        (writing(also=lambda draft: (draft / "proof.json").unlink()), "house/2: it would have no proof.json"),
        (
            writing(also=lambda draft: (draft / "link").symlink_to("model.onnx")),
            "house: link is a link, no plain file",
        ),
        (writing(also=lambda draft: os.mkfifo(draft / "pipe")), "house: pipe is no plain file"),
    ],
)  # fmt: skip
def test_what_could_not_be_opened_again_is_not_published(repository, wrong, sentence):
    repository.publish("house", fill)
    with pytest.raises(BadVersion) as caught:
        repository.publish("house", wrong)
    assert str(caught.value) == sentence
    assert entries(repository) == [".last", ".lock", "1"]


def test_a_plan_too_deep_to_be_read_is_not_published(repository):
    deep = manifest().provenance.model_copy(update={"plan": {"deep": nested(250)}})

    def fill_deeply(draft):
        fill(draft)
        return lambda number, files: manifest(version=number, files=files, provenance=deep)

    with pytest.raises(BadVersion, match=r"house/1: manifest\.json, as a whole: Invalid JSON: recursion limit"):
        repository.publish("house", fill_deeply)
    assert entries(repository) == [".lock"]


@pytest.mark.parametrize("stop", [ValueError("no"), KeyboardInterrupt(), SystemExit(3)])
@pytest.mark.parametrize("late", [False, True])
def test_whatever_stops_the_filling_nothing_is_published(repository, stop, late):
    repository.publish("house", fill)
    before = bytes_below(repository.root)

    def stopped(draft):
        def describe(*_):
            raise stop

        fill(draft)
        if late:
            return describe
        raise stop

    with pytest.raises(type(stop)):
        repository.publish("house", stopped)
    assert bytes_below(repository.root) == before
    assert repository.publish("house", fill) == 2


# ------------------------------------------------------------------------------------------- disks that fail


def test_everything_is_on_the_disk_before_the_version_appears_and_its_appearance_before_publish_returns(
    repository, monkeypatch
):
    steps = []
    sync, rename = os.fsync, os.rename

    def noted_sync(descriptor):
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        steps.append(path.name if not path.name.startswith(".draft-") else "draft")
        sync(descriptor)

    def noted_rename(old, new):
        steps.append(f"-> {Path(new).name}")
        rename(old, new)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(os, "rename", noted_rename)
    repository.publish("house", fill)

    made = [repository.root.parents[2].name, "deep", "inside", "published"]  # where a folder was made, outermost first
    files = ["model.onnx", "proof.json", "card.html"]
    numbering = [".last.new", "house"]
    assert steps == [*made, *files, "manifest.json", "report", "draft", *numbering, "-> 1", "house"]


def failing_at(call, real, calls):
    """The system call, failing when it is made for the `call`-th time."""

    def fails(*arguments, **keywords):
        calls.append(arguments)
        if len(calls) == call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*arguments, **keywords)

    return fails


@pytest.mark.parametrize(
    ("name", "first", "times"),
    [("fsync", 1, 10), ("rename", 1, 1), ("replace", 1, 1), ("chmod", 1, 3), ("mkdir", 2, 2)],
)  # the first mkdir is for the model's folder, which is there
def test_a_system_call_that_fails_anywhere_leaves_the_old_state(repository, name, first, times, monkeypatch):
    repository.publish("house", fill)
    repository.set_label("house", "stable", 1)
    before = all_but_the_last_number(repository)
    real = getattr(os, name)
    for call in range(first, first + times):
        monkeypatch.setattr(os, name, failing_at(call, real, []))
        with pytest.raises(OSError, match="No space left"):
            repository.publish("house", fill)
        assert all_but_the_last_number(repository) == before
        assert entries(repository) == [".last", ".lock", "1", "labels.json"]

    monkeypatch.setattr(os, name, failing_at(first + times, real, []))  # nobody calls it that often

    assert repository.open("house", repository.publish("house", fill))


def all_but_the_last_number(repository):
    return {path: raw for path, raw in bytes_below(repository.root).items() if path != "house/.last"}


@pytest.mark.parametrize("room", [0, 1, 33, 300])
def test_a_disk_without_room_for_a_file_leaves_the_old_state(repository, room):
    repository.publish("house", fill)
    before = bytes_below(repository.root)

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))  # writes beyond `room` bytes fail, as on a full disk
    try:
        with pytest.raises(OSError, match="File too large"):
            repository.publish("house", fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert bytes_below(repository.root) == before
    assert entries(repository) == [".last", ".lock", "1"]
    assert repository.publish("house", fill) == 2


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_label_that_cannot_be_written_stays_where_it_was(repository, name, monkeypatch):
    repository.publish("house", fill)
    repository.publish("house", fill)
    repository.set_label("house", "stable", 1)
    monkeypatch.setattr(os, name, failing_at(1, getattr(os, name), []))
    with pytest.raises(OSError, match="No space left"):
        repository.set_label("house", "stable", 2)
    assert repository.labels("house") == {"stable": 1}
    assert entries(repository) == [".last", ".lock", "1", "2", "labels.json"]


# --------------------------------------------------------------------------------------- publishers that die


def test_a_publisher_killed_at_any_step_leaves_a_valid_repository(tmp_path):
    kills = [line.split(" ", 1) for line in output_of(start_publishers("kill", tmp_path))]
    outcomes = [outcome for _, outcome in kills]

    assert len(kills) > 150
    assert len({place for place, _ in kills}) > 100
    before, between, after = "[1] 2", "[1] 3", "[1, 2] 3"  # versions left, and the number that the next publish gets
    assert outcomes == sorted(outcomes, key=[before, between, after].index)
    assert {before, between, after} == set(outcomes)


def test_what_a_dead_publisher_left_is_cleared_by_the_next(repository):
    repository.publish("house", fill)
    draft = repository.root / "house/.draft-of-the-dead"
    (draft / "report").mkdir(parents=True)
    (draft / "report/half").write_bytes(b"x")
    (repository.root / "house/..last.new").touch()
    (repository.root / "house/.last.new").write_bytes(b"9")

    assert repository.publish("house", fill) == 2

    assert entries(repository) == ["..last.new", ".last", ".lock", "1", "2"]


def test_a_draft_that_is_no_folder_of_ours_hinders_nobody(repository, tmp_path):
    repository.publish("house", fill)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/data").touch()
    (repository.root / "house/.draft-file").touch()
    (repository.root / "house/.draft-link").symlink_to(tmp_path / "precious")

    assert repository.publish("house", fill) == 2

    assert (tmp_path / "precious/data").exists()


def test_a_draft_whose_publisher_is_alive_is_left_alone(repository):
    def slowly(draft):
        describe = fill(draft)
        assert repository.publish("house", fill) == 1  # somebody else, meanwhile
        assert (draft / "model.onnx").exists()
        return describe

    assert repository.publish("house", slowly) == 2
    assert repository.open("house", 2)


# --------------------------------------------------------------------------------------- publishers that race


@pytest.mark.parametrize(("publishers", "each"), [(2, 10), (8, 5)])
def test_publishers_at_once_get_consecutive_numbers_and_what_a_reader_sees_opens(tmp_path, publishers, each):
    repository, seen = Repository(tmp_path), set()
    racing = start_publishers("race", tmp_path, publishers, each)
    while racing.poll() is None:
        seen |= {repository.open("house", number).number for number in set(repository.versions("house")) - seen}
    given = [list(map(int, line.split())) for line in output_of(racing)]

    numbers = list(range(1, publishers * each + 1))
    assert len(given) == publishers
    assert sorted(number for own in given for number in own) == numbers
    assert all(own == sorted(own) for own in given)
    assert [repository.open("house", number).number for number in repository.versions("house")] == numbers
    assert entries(repository) == sorted([".last", ".lock", *map(str, numbers)])


def test_labels_set_at_once_are_all_kept_and_a_reader_sees_no_half_of_them(tmp_path):
    repository, seen = Repository(tmp_path), 0
    repository.publish("house", fill)
    racing = start_publishers("label", tmp_path, 4, 20)
    while racing.poll() is None:
        before, seen = seen, len(repository.labels("house"))
        assert seen >= before
    assert output_of(racing) == ["20"] * 4
    assert repository.labels("house") == {f"label-{setter}-{i}": 1 for setter in range(4) for i in range(20)}


def test_a_publisher_waits_while_another_gives_a_number(repository):
    repository.publish("house", fill)
    with (repository.root / "house/.lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        signal.signal(signal.SIGALRM, lambda *_: fcntl.flock(lock, fcntl.LOCK_UN))
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        assert repository.publish("house", fill) == 2


def test_a_version_never_changes_after_it_appeared(repository):
    repository.publish("house", fill)
    before = bytes_below(repository.root / "house/1")
    repository.publish("house", fill)
    repository.set_label("house", "stable", 2)
    assert bytes_below(repository.root / "house/1") == before
    assert Version.open(repository.root / "house/1")
