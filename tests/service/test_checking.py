"""No file can hang, crash or fill a worker: it is opened elsewhere first."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from models.errors import BadVersion
from service.sessions.onnx import OnnxSession
from service.workers.checking import Checker, limits_for
from tests.service import hostile, tiny


def open_session(version):
    return OnnxSession(version, "cpu")


def soon(version):
    """Limits that a test can wait for; a busy machine is given its time, and whoever comes to an end its core."""
    limits = replace(limits_for(version), wall_s=600.0)
    is_endless = (version.folder / "model.onnx").read_bytes() == hostile.endless()
    return replace(limits, cpu_s=1) if is_endless else limits


@pytest.fixture
def checker(tmp_path):
    checker = Checker(open_session, tmp_path / "verdicts", soon)
    yield checker
    checker.close()


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (hostile.endless, r"^line/1: opening it computes for longer than 1 s$"),
        (hostile.deep, r"^line/1: (opening it|ONNX Runtime cannot open model.onnx)"),
        (hostile.gigabytes, r"^line/1: (opening it|the graph does not run on its proof|ONNX Runtime cannot open)"),
        (hostile.nan_weights, r"^line/1: output 'prediction' holds values that are not finite$"),
        (lambda: hostile.elsewhere("../../other/1/model.onnx"), r"^line/1: ONNX Runtime cannot open model.onnx"),
        (lambda: hostile.elsewhere("/etc/hostname"), r"^line/1: ONNX Runtime cannot open model.onnx"),
        (lambda: b"no graph", r"^line/1: ONNX Runtime cannot open model.onnx"),
    ],
)
def test_a_hostile_file_is_refused_in_one_sentence(tmp_path, checker, model, sentence):
    good, bad = tiny.publish(tmp_path, "coin"), tiny.publish(tmp_path, "line", model())
    with pytest.raises(BadVersion, match=sentence) as refused:
        checker.check(bad)
    assert len(str(refused.value)) < 500
    assert "\n" not in str(refused.value)
    checker.check(good)  # nothing is left of it


def test_a_constant_in_another_file_is_not_read_from_the_folder_of_the_process(tmp_path, monkeypatch):
    version = tiny.publish(tmp_path / "root", "line", hostile.elsewhere(hostile.beside(tmp_path)))
    (tmp_path / "nothing").mkdir()
    monkeypatch.chdir(tmp_path / "nothing")  # as a worker does
    checker = Checker(open_session, tmp_path / "verdicts")
    with pytest.raises(BadVersion, match=r"ONNX Runtime cannot open model.onnx"):
        checker.check(version)
    checker.close()


def test_a_verdict_is_kept_for_all_workers(tmp_path, checker):
    good, bad = tiny.publish(tmp_path, "line"), tiny.publish(tmp_path, "line", hostile.endless())
    checker.check(good)
    with pytest.raises(BadVersion):
        checker.check(bad)
    other = Checker(lambda _: os._exit(1), tmp_path / "verdicts")  # what it must open itself, it refuses otherwise
    other.check(good)
    with pytest.raises(BadVersion, match="line/2: opening it computes for longer"):
        other.check(bad)
    other.close()


def test_a_verdict_against_a_version_holds_until_one_of_its_files_changes(tmp_path, checker):
    version = tiny.publish(tmp_path, "line")
    graph = version.folder / "model.onnx"
    whole = graph.read_bytes()
    graph.write_bytes(whole[:100])
    for _ in range(2):
        with pytest.raises(BadVersion, match=r"model\.onnx is not the file"):
            checker.check(version)
    graph.write_bytes(whole)
    checker.check(version)


def test_a_version_that_waits_for_too_long_is_refused_and_tried_again(tmp_path):
    version, is_quiet = tiny.publish(tmp_path / "root", "line"), tmp_path / "quiet"

    def open_late(version):
        if not is_quiet.exists():
            time.sleep(600)
        return open_session(version)

    walls_s = [0.5, 600.0]
    checker = Checker(open_late, tmp_path / "verdicts", lambda _: replace(soon(version), wall_s=walls_s.pop(0)))
    with pytest.raises(BadVersion, match=r"^line/1: opening it takes longer than 0.5 s$"):
        checker.check(version)
    is_quiet.touch()
    checker.check(version)
    checker.close()


def test_a_session_that_ends_the_process_is_a_sentence(tmp_path):
    checker = Checker(lambda _: os._exit(0), tmp_path / "verdicts")
    with pytest.raises(BadVersion, match=r"line/1: opening it ends the process$"):
        checker.check(tiny.publish(tmp_path / "root", "line"))
    checker.close()


def test_hostile_files_among_many_are_refused_and_no_other_one_is(tmp_path, checker):
    models = [None, hostile.nan_weights(), None, hostile.endless(), b"no graph", None, hostile.deep(), None]
    versions = [tiny.publish(tmp_path, "line", model) for model in models]
    checker.expect(versions)
    later = Checker(lambda _: os._exit(1), tmp_path / "verdicts")  # what it must open itself, it refuses
    for version, model in zip(versions, models, strict=True):
        if model is None:
            later.check(version)
        else:
            with pytest.raises(BadVersion):
                checker.check(version)
    later.close()


def test_a_version_that_spoils_the_process_costs_those_behind_it_nothing(tmp_path):
    spoiled = []

    def open_one(version):
        if spoiled:
            raise RuntimeError(spoiled)
        spoiled.extend([1] * (version.name == "coin"))
        return open_session(version)

    versions = [tiny.publish(tmp_path / "root", name) for name in ("line", "coin", "pair", "coin", "line")]
    checker = Checker(open_one, tmp_path / "verdicts")
    checker.expect(versions)
    for version in versions:
        checker.check(version)
    checker.close()


def test_each_of_many_has_limits_of_its_own(tmp_path):
    def open_slowly(version):
        end = time.process_time() + (0.5 if version.name == "line" else 9.0)
        while time.process_time() < end:
            pass
        return open_session(version)

    many = [tiny.publish(tmp_path / "root", "line") for _ in range(3)]
    slow = tiny.publish(tmp_path / "root", "coin")
    checker = Checker(open_slowly, tmp_path / "verdicts", lambda version: replace(soon(version), cpu_s=1))
    checker.expect([*many, slow])
    later = Checker(lambda _: os._exit(1), tmp_path / "verdicts")
    for version in many:  # 1.5 s together
        later.check(version)
    with pytest.raises(BadVersion, match="computes for longer than 1 s"):
        checker.check(slow)
    for one in (later, checker):  # the later one holds the sockets of the earlier
        one.close()


def test_two_workers_check_one_version_once(tmp_path):
    opened = tmp_path / "opened"

    def open_one(version):
        time.sleep(0.3)  # so that the other one comes meanwhile
        (opened / str(os.getpid())).mkdir()
        return open_session(version)

    opened.mkdir()
    version = tiny.publish(tmp_path / "root", "line")
    checkers = [Checker(open_one, tmp_path / "verdicts") for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda checker: checker.check(version), checkers))
    for checker in reversed(checkers):
        checker.close()
    assert len(list(opened.iterdir())) == 1
