import asyncio
import contextlib
import resource
import shutil
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from models.errors import BadVersion
from models.repository import Repository
from service.batching.frames import LENGTH, Reply, Request, Status, What, read_reply, reply_bytes, request_bytes
from service.batching.lanes import LANES_PER_WORKER, Lanes, Opened
from service.processes.scheduling import FullShare
from service.processes.yielding import _REST
from service.workers import worker
from service.workers.engine import Engine, NothingToServe
from service.workers.turns import Turns
from tests.server.conftest import until
from tests.service import tiny
from tests.service.test_scheduling import signalled

PAIR_ROW = np.array([[5, 2]], dtype=np.float32)


class Honest:
    """A session that answers what the version's file would."""

    def __init__(self, version) -> None:
        self.version = version
        self.fail = False

    @property
    def signature(self):
        manifest = self.version.manifest
        outputs = {output.name: (output.datatype, output.width) for output in manifest.outputs}
        return {"features": (manifest.input.datatype, len(manifest.input.columns))} | outputs

    def run(self, matrix):
        if self.fail:
            raise RuntimeError("a secret of the machine")
        return tiny.answer(self.version.name, matrix)


class Lying(Honest):
    def run(self, matrix):
        return {name: values + 1 for name, values in super().run(matrix).items()}


class Breaking(Honest):
    def run(self, _):
        raise ZeroDivisionError


def test_a_version_is_proven_before_it_answers(root, versions):
    engine = Engine(Repository(root), Honest)
    engine.open_all(keep=4)
    answers = engine.run(versions["pair"].key, PAIR_ROW)[0]
    np.testing.assert_array_equal(answers["prediction"], [[7, 3]])


class Slow(Honest):
    """Takes 10 ms of a core."""

    def run(self, matrix):
        end = time.thread_time() + 0.01
        while time.thread_time() < end:
            pass
        return super().run(matrix)


class Spread(Honest):
    """Says how often it was asked; its proof is the first time."""

    asked = 0

    def run(self, matrix):
        self.asked += 1
        return super().run(matrix)


def spreading(root, open_session, open_spread):
    """How an engine answers PAIR_ROW that knows it to take long, and has `open_spread` for versions that do."""
    engine = Engine(Repository(root), open_session, turns=Turns(1), open_spread=open_spread)
    opened = engine.open(Repository(root).open("pair", 1).key)
    opened.merging._line.learn(1, 0.05)
    return engine.answer(Request(What.PREDICT, opened.version.key, PAIR_ROW))


def test_a_long_run_that_is_alone_is_spread_over_cores(root):
    spread = []
    reply = spreading(root, Slow, lambda version: spread.append(Spread(version)) or spread[-1])
    np.testing.assert_array_equal(reply.answers["prediction"], [[7, 3]])
    assert [one.asked for one in spread] == [2]


def test_a_version_that_takes_little_has_no_session_for_that(root):
    spread = []
    reply = spreading(root, Honest, lambda version: spread.append(Spread(version)) or spread[-1])
    np.testing.assert_array_equal(reply.answers["prediction"], [[7, 3]])
    assert spread == []


def no_threads(version):
    raise BadVersion(str(version), "no more threads")


@pytest.mark.parametrize("open_spread", [no_threads, Lying, lambda _: None], ids=["no threads", "lies", "too large"])
def test_where_it_cannot_be_had_one_core_answers(root, open_spread):
    reply = spreading(root, Slow, open_spread)
    np.testing.assert_array_equal(reply.answers["prediction"], [[7, 3]])


def test_when_all_versions_are_refused_the_worker_says_so_in_one_sentence(root):
    with pytest.raises(NothingToServe) as refused:
        Engine(Repository(root), Lying).open_all(keep=4)
    assert str(refused.value).startswith(f"no version in {root} can be served: coin/1: the proof does not come out")
    assert str(refused.value).endswith("(and 4 more)")


def test_a_bad_version_does_not_stop_the_others(root, tmp_path, versions):
    shutil.copytree(root, tmp_path / "published")
    graph = tmp_path / "published/coin/1/model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1])
    engine = Engine(Repository(tmp_path / "published"), Honest)
    engine.open_all(keep=4)
    assert engine.answer(Request(What.PREDICT, versions["pair"].key, PAIR_ROW)).status is Status.OK
    refused = engine.answer(Request(What.OPEN, versions["coin"].key, PAIR_ROW))
    assert (refused.status, refused.sentence.startswith("coin/1: model.onnx is not the file")) == (Status.REFUSED, True)


def test_an_empty_repository_opens(tmp_path):
    Engine(Repository(tmp_path), Honest).open_all(keep=4)


def test_a_version_published_later_is_opened_when_asked_for(root, versions):
    engine = Engine(Repository(root), Honest)
    assert engine.answer(Request(What.OPEN, versions["pair"].key, PAIR_ROW)).status is Status.OK


def test_a_session_that_breaks_on_the_proof_refuses_its_version(root, versions):
    with pytest.raises(BadVersion, match="does not run on its proof"):
        Engine(Repository(root), Breaking).open(versions["pair"].key)


def test_another_version_in_the_same_place_is_not_taken_for_the_first(tmp_path):
    first = tiny.publish(tmp_path, "pair")
    key = first.key.replace("@", "@0")
    with pytest.raises(BadVersion, match="another version stands in its place"):
        Engine(Repository(tmp_path), Honest).open(key)


def test_a_failing_session_fails_its_batch_and_tells_nothing_of_the_machine(root, versions):
    opened = []
    engine = Engine(Repository(root), lambda version: opened.append(Honest(version)) or opened[-1])
    engine.open(versions["pair"].key)
    opened[0].fail = True
    reply = engine.answer(Request(What.PREDICT, versions["pair"].key, PAIR_ROW))
    assert (reply.status, reply.sentence) == (Status.FAILED, "the session failed: RuntimeError")


def test_a_row_whose_answer_is_not_finite_leaves_its_batch_mates_alone(root, versions):
    """Each request is refused by itself where its answer is written, and nothing is computed twice."""
    engine = Engine(Repository(root), Honest)
    matrix = np.array([[5, 2], [3e38, 3e38], [1, 1]], dtype=np.float32)
    with np.errstate(over="ignore"):  # ONNX Runtime says nothing either
        reply = engine.answer(Request(What.PREDICT, versions["pair"].key, matrix))
    assert reply.status is Status.OK
    np.testing.assert_array_equal(reply.answers["prediction"], [[7, 3], [np.inf, 0], [2, 0]])


def test_the_newest_versions_and_those_with_a_label_are_opened_at_the_start(tmp_path):
    for _ in range(5):
        tiny.publish(tmp_path, "pair")
    tiny.publish(tmp_path, "coin")
    Repository(tmp_path).set_label("pair", "stable", 2)
    graph = tmp_path / "pair/5/model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1])
    opened = []
    engine = Engine(Repository(tmp_path), lambda version: opened.append(str(version)) or Honest(version))
    engine.open_all(keep=2, unloaded={"coin"})
    assert opened == ["pair/4", "pair/3", "pair/2"]


def test_a_retired_version_is_closed_after_a_minute_unless_it_is_opened_again(tmp_path, monkeypatch):
    one, other = tiny.publish(tmp_path, "pair"), tiny.publish(tmp_path, "pair")
    opened = []
    engine = Engine(Repository(tmp_path), lambda version: opened.append(str(version)) or Honest(version))
    engine.open_all(keep=4)
    for version in (one, other):
        engine.retire(version.key)
    engine.open(one.key)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 61)
    engine.forget_retired()
    del opened[:]
    engine.run(one.key, PAIR_ROW)
    assert opened == []
    engine.run(other.key, PAIR_ROW)
    assert opened == ["pair/2"]


@pytest.mark.parametrize("left", ["nothing", "an empty folder", "a file for the model"])
def test_versions_of_a_repository_that_is_away_for_minutes_are_kept(tmp_path, monkeypatch, left):
    root = tmp_path / "repository"
    version = tiny.publish(root, "pair")
    engine = Engine(Repository(root), Honest)
    engine.open_all(keep=4)
    root.rename(tmp_path / "away")
    if left != "nothing":
        root.mkdir()
    if left == "a file for the model":
        (root / "pair").touch()
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 61)
    engine.forget_retired()
    np.testing.assert_array_equal(engine.run(version.key, PAIR_ROW)[0]["prediction"], [[7, 3]])


def test_a_version_is_forgotten_that_was_deleted_and_never_retired(tmp_path, monkeypatch):
    version, _ = tiny.publish(tmp_path, "pair"), tiny.publish(tmp_path, "pair")
    engine = Engine(Repository(tmp_path), Honest)
    engine.open_all(keep=4)
    shutil.rmtree(version.folder)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 61)
    engine.forget_retired()
    with pytest.raises(BadVersion):
        engine.run(version.key, PAIR_ROW)


def test_a_deleted_version_is_kept_while_it_is_asked_for_and_then_forgotten(tmp_path, monkeypatch):
    version = tiny.publish(tmp_path, "pair")
    engine = Engine(Repository(tmp_path), Honest)
    engine.open_all(keep=4)
    shutil.rmtree(version.folder)
    engine.retire(version.key)
    engine.forget_retired()
    np.testing.assert_array_equal(engine.run(version.key, PAIR_ROW)[0]["prediction"], [[7, 3]])
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 61)
    engine.forget_retired()
    with pytest.raises(BadVersion):
        engine.run(version.key, PAIR_ROW)


def test_what_is_to_be_closed_does_not_wait_for_an_opening(root, versions):
    begun, may_end = threading.Event(), threading.Event()

    def open_session(version):
        begun.set()
        assert may_end.wait(60)
        return Honest(version)

    engine = Engine(Repository(root), open_session)
    opening = threading.Thread(target=engine.open, args=(versions["pair"].key,))
    looking = threading.Thread(target=engine.forget_retired)
    opening.start()
    try:
        assert begun.wait(60)
        looking.start()
        looking.join(30)
        assert not looking.is_alive()
    finally:
        may_end.set()
        opening.join()
        looking.join()


# ------------------------------------------------------------------------------------------- over a real unix socket


@pytest.fixture
def end():
    return worker.End()


@pytest.fixture
def serving(root, sockets, end):
    """A worker in a thread of this process; where it listens."""
    path = sockets / "worker-0.sock"
    thread = threading.Thread(target=worker.serve, args=(Engine(Repository(root), Honest), path, 0.05, end))
    thread.start()
    until(path.exists)
    yield path
    end.tell()
    thread.join(60)
    assert not thread.is_alive()


def test_a_batch_goes_to_a_worker_and_back(serving, versions):
    async def ask():
        lanes = Lanes([serving])
        is_idle = asyncio.Event()
        lanes.start(is_idle.set)
        await lanes.someone_is_up()
        await is_idle.wait()
        lane = lanes.idle()
        reply = asyncio.get_running_loop().create_future()
        lane.run(versions["pair"], PAIR_ROW, reply.set_result)
        answered = await reply
        refusal = await lanes.open([versions["pair"]])
        await lanes.stop()
        return answered, refusal

    answered, refusal = asyncio.run(ask())
    assert (answered.status, refusal) == (Status.OK, [None])
    np.testing.assert_array_equal(answered.answers["prediction"], [[7, 3]])


def test_batches_that_belong_together_meet_in_one_worker_while_it_has_a_lane():
    def lanes(*idle):
        one = Lanes([])
        one._openers = dict.fromkeys(range(3))
        one._lanes = {Idle(worker) for worker in idle}
        return one

    class Idle:
        is_idle = True

        def __init__(self, worker) -> None:
            self.worker = worker

    workers = {key: {lanes(0, 1, 2).idle(key).worker for _ in range(10)} for key in map(str, range(20))}
    assert all(len(some) == 1 for some in workers.values())
    assert set.union(*workers.values()) == {0, 1, 2}
    (worker,) = workers["0"]
    others = {0, 1, 2} - {worker}
    assert lanes(*others).idle("0").worker in others


@pytest.mark.parametrize(("workers", "at_once"), [(1, 1), (2, 1), (5, 3)])
def test_half_of_the_workers_open_a_version_at_a_time(versions, workers, at_once):
    most = []

    class Opener:
        is_connected, opening = True, 0

        async def open(self, _):
            Opener.opening += 1
            await asyncio.sleep(0.01)
            most.append(Opener.opening)
            await asyncio.sleep(0)
            Opener.opening -= 1
            return [Opened("")]

    async def ask():
        lanes = Lanes([])
        lanes._openers = {number: Opener() for number in range(workers)}
        return await lanes.open([versions["pair"]])

    assert asyncio.run(ask()) == [None]
    assert (len(most), max(most)) == (workers, at_once)


def test_a_connection_goes_on_in_another_thread_when_its_own_must_be_replaced(root, sockets, versions, end):
    threads = []

    class Hasty(FullShare):
        def __enter__(self):
            threads.append(threading.current_thread())

        def __exit__(self, *_):
            self.next_share = Hasty()

    path = sockets / "worker-0.sock"
    serving = threading.Thread(target=worker.serve, args=(Engine(Repository(root), Honest), path, 60.0, end, Hasty))
    serving.start()
    until(path.exists)
    replies = []
    with socket.socket(socket.AF_UNIX) as api, api.makefile("rb") as replied:
        api.connect(str(path))
        for _ in range(3):
            for part in request_bytes(What.PREDICT, versions["pair"].key, PAIR_ROW):
                api.sendall(part)
            (length,) = LENGTH.unpack(replied.read(LENGTH.size))
            replies.append(read_reply(replied.read(length)))
        end.tell()
    serving.join(60)
    assert not serving.is_alive()
    assert [reply.status for reply in replies] == [Status.OK] * 3
    assert len(set(threads)) == 3


def test_a_worker_that_dies_is_lost_once_though_it_still_seems_to_listen(sockets, versions):
    """Else a job is sent to the same dead worker three times and is blamed for it."""
    connected = []

    async def die(reader, writer):
        connected.append(writer)
        if len(connected) <= LANES_PER_WORKER + 1:
            await reader.readexactly(*LENGTH.unpack(await reader.readexactly(LENGTH.size)))
            writer.write(reply_bytes(Reply(Status.OK, answers={})))
            await reader.read(1)
            writer.close()

    async def ask():
        server = await asyncio.start_unix_server(die, sockets / "w.sock")
        lanes = Lanes([sockets / "w.sock"])
        lanes.start(lambda: None)
        while not (lanes.living and lanes.idle()):  # noqa: ASYNC110 - there is nothing to wait on
            await asyncio.sleep(0)
        lane, lost = lanes.idle(), asyncio.get_running_loop().create_future()
        lane.run(versions["pair"], PAIR_ROW, lost.set_result)
        assert await lost is None
        while len(connected) <= LANES_PER_WORKER + 1:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        seen = lanes.idle()
        await lanes.stop()
        server.close()
        for writer in connected:
            writer.close()
        return seen

    assert asyncio.run(ask()) is None


def test_garbage_ends_its_connection_and_no_other(serving, versions):
    with socket.socket(socket.AF_UNIX) as rude:
        rude.connect(str(serving))
        rude.sendall((20).to_bytes(8, "little") + b"\xff" * 20)
        assert rude.recv(1) == b""
    test_a_batch_goes_to_a_worker_and_back(serving, versions)


def test_a_worker_serves_with_more_descriptors_than_select_can_count(versions, root, sockets):
    """`select` fails from descriptor 1024 on."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < 2048:
        pytest.skip("this machine gives a process fewer")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with contextlib.ExitStack() as many:
        for _ in range(1100):
            many.enter_context(Path("/dev/null").open())
        end, path = worker.End(), sockets / "w.sock"
        thread = threading.Thread(target=worker.serve, args=(Engine(Repository(root), Honest), path, 0.05, end))
        thread.start()
        until(path.exists)
        test_a_batch_goes_to_a_worker_and_back(path, versions)
        end.tell()
        thread.join(60)
        assert not thread.is_alive()


def test_a_worker_that_is_told_to_end_waits_for_its_connections(serving, end, versions):
    with socket.socket(socket.AF_UNIX) as api:
        until(lambda: api.connect_ex(str(serving)) == 0)
        api.sendall(b"".join(request_bytes(What.PREDICT, versions["pair"].key, PAIR_ROW)))
        assert api.recv(1)  # it is being served
        end.tell()
        api.recv(1000)
        api.sendall(b"".join(request_bytes(What.PREDICT, versions["pair"].key, PAIR_ROW)))
        assert api.recv(1)  # and still is
    # the fixture sees that it ends now


def test_versions_that_are_opened_together_are_checked_together_and_answered_for_one_by_one(tmp_path):
    checked = []
    versions = [tiny.publish(tmp_path, name) for name in ("line", "pair", "coin", "flowers")]

    def open_session(version):
        if version.name == "pair":
            raise RuntimeError("a secret\nof the machine")
        return (Lying if version.name == "coin" else Honest)(version)

    engine = Engine(Repository(tmp_path), open_session, expect=lambda some: checked.append([str(one) for one in some]))
    engine.open(versions[0].key)
    keys = [*(version.key for version in versions), "nobody/1@00"]
    reply = engine.answer(Request(What.OPEN, "\n".join(keys), np.empty((0, 0), np.float32)))
    line, pair, coin, flowers, nobody = reply.sentence.split("\n")
    assert (reply.status, line, flowers) == (Status.REFUSED, "", "")
    assert pair == "pair/1: the session failed: RuntimeError"
    assert coin.startswith("coin/1: the proof does not come out")
    assert nobody == "nobody/1: manifest.json is absent; publish it again"
    assert checked == [["pair/1", "coin/1", "flowers/1"]]


def said_by(engines, sockets, versions, tell=lambda *_: None):
    """What several workers say of new versions; `tell` as of Lanes."""
    paths = [sockets / f"worker-{number}.sock" for number in range(len(engines))]
    ends = [worker.End() for _ in engines]
    serving = [
        threading.Thread(target=worker.serve, args=(engine, path, 0.05, end))
        for engine, path, end in zip(engines, paths, ends, strict=True)
    ]
    for thread in serving:
        thread.start()

    async def ask():
        lanes = Lanes(paths, tell)
        lanes.start(lambda: None)
        while lanes.living < len(paths):  # noqa: ASYNC110 - there is nothing to wait on
            await asyncio.sleep(0.01)
        try:
            return await lanes.open(versions)
        finally:
            await lanes.stop()

    try:
        return asyncio.run(ask())
    finally:
        for end in ends:
            end.tell()
        for thread in serving:
            thread.join(60)
            assert not thread.is_alive()


def test_each_of_several_versions_hears_what_any_worker_says_of_it(root, sockets, versions):
    """The first worker finds nothing wrong, the second refuses `coin`."""
    opening = [Honest, lambda version: (Lying if version.name == "coin" else Honest)(version)]
    engines = [Engine(Repository(root), open_session) for open_session in opening]
    pair, coin = said_by(engines, sockets, [versions["pair"], versions["coin"]])
    assert pair is None
    assert coin.startswith("coin/1: the proof does not come out")


def test_a_version_that_takes_long_is_tried_with_one_row_and_with_several(root, sockets, versions):
    """`pair` takes 10 ms of a core for a run, `coin` none to speak of."""
    told = []
    engine = Engine(Repository(root), lambda version: (Slow if version.name == "pair" else Honest)(version))
    said_by([engine], sockets, [versions["coin"], versions["pair"]], lambda *one: told.append(one))
    assert [(key, rows) for key, rows, _ in told] == [(versions["pair"].key, 1), (versions["pair"].key, 8)]
    assert all(seconds >= 0.01 for _, _, seconds in told)


def test_who_opens_a_version_rests_meanwhile(root, sockets, versions):
    rested = []

    def open_session(version):
        rested.append(signalled(contextlib.nullcontext(), _REST))
        return Honest(version)

    assert said_by([Engine(Repository(root), open_session)], sockets, [versions["pair"]]) == [None]
    assert rested == [True]


def test_a_worker_that_cannot_look_at_versions_says_nothing_of_them(root, sockets, versions):
    def no_room(_):
        raise OSError("too many open files")

    asked = [versions["pair"], versions["coin"]]
    unable = Engine(Repository(root), Honest, expect=no_room)
    assert said_by([unable, Engine(Repository(root), Honest)], sockets, asked) == [None, None]
    with pytest.raises(ConnectionError):
        said_by([Engine(Repository(root), Honest, expect=no_room)], sockets, asked)
