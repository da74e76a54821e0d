import asyncio
import time

import numpy as np
import pytest

from models.errors import BadVersion
from models.repository import Repository
from service.batching import inline
from service.batching.inline import Inline
from service.sessions.onnx import OnnxSession
from tests.service import tiny


async def opened(sessions, version):
    """The session of a version, once it is there; None if it never will be."""
    assert sessions.session(version) is None  # it is being opened
    await asyncio.gather(*sessions._tasks)
    return sessions.session(version)


def on_cpu(version):
    return OnnxSession(version, "cpu")


@pytest.mark.parametrize("name", ["line", "flowers"])
def test_a_version_that_is_asked_gets_a_session_of_the_same_answers(versions, name):
    session = asyncio.run(opened(Inline(on_cpu, 1.0), versions[name]))
    matrix = versions[name].schema.encode([tiny.ROWS[name]] * 3)
    for output, right in tiny.answer(name, matrix).items():
        np.testing.assert_allclose(session.run(matrix)[output], right, rtol=1e-6)
    assert session.most_rows >= 100


class Slow(OnnxSession):
    """A session that takes 8 ms, and 0.2 ms more for each row; longer where the machine is busy."""

    def run(self, matrix):
        time.sleep(0.008 + 0.0002 * len(matrix))
        return super().run(matrix)


def test_it_gets_no_more_rows_than_it_computes_in_time(versions):
    def most_rows(most_s):
        session = asyncio.run(opened(Inline(lambda version: Slow(version, "cpu"), most_s), versions["line"]))
        return None if session is None else session.most_rows

    assert most_rows(0.001) is None  # not even one
    assert 1 <= most_rows(2.0) < 256 * 2.0 / (0.008 + 256 * 0.0002) + 1


def test_what_many_rows_took_it_when_it_was_opened_is_told(versions):
    told = []
    session = asyncio.run(
        opened(Inline(lambda version: Slow(version, "cpu"), 2.0, lambda *them: told.append(them)), versions["line"])
    )
    ((key, rows, seconds),) = told
    assert (key, rows) == (versions["line"].key, 256)
    assert seconds == pytest.approx(256 * session.row_s)
    assert seconds >= 0.008 + 256 * 0.0002
    told.clear()
    asyncio.run(
        opened(Inline(lambda version: Slow(version, "cpu"), 0.001, lambda *them: told.append(them)), versions["line"])
    )
    assert not told  # not even one row is computed here


def test_without_a_way_to_open_there_is_never_a_session(versions):
    assert asyncio.run(opened(Inline(None, 1.0), versions["line"])) is None


def test_a_version_that_cannot_be_opened_is_left_to_the_workers(versions):
    def refuse(version):
        raise BadVersion(str(version), "it is damaged")

    assert asyncio.run(opened(Inline(refuse, 1.0), versions["line"])) is None


def test_a_version_that_was_deleted_is_left_to_the_workers(tmp_path):
    tiny.publish(tmp_path, "line")
    version = Repository(tmp_path).open("line", 1)
    (version.folder / "model.onnx").unlink()
    assert asyncio.run(opened(Inline(on_cpu, 1.0), version)) is None


def test_the_least_recently_used_session_goes(versions, monkeypatch):
    monkeypatch.setattr(inline, "_SESSIONS", 2)
    monkeypatch.setattr(inline, "_MOST_BYTES", 0)
    monkeypatch.setattr(inline, "_IN_USE", 1)

    async def ask():
        sessions = Inline(on_cpu, 1.0)
        for name in ("line", "coin"):
            assert await opened(sessions, versions[name]) is not None
        sessions.session(versions["line"])
        assert await opened(sessions, versions["pair"]) is not None
        return sessions.session(versions["line"]) is not None, sessions.session(versions["coin"]) is None

    assert asyncio.run(ask()) == (True, True)


def test_models_that_are_asked_in_turn_do_not_close_each_other_s_sessions(versions, monkeypatch):
    monkeypatch.setattr(inline, "_SESSIONS", 2)
    monkeypatch.setattr(inline, "_MOST_BYTES", 0)
    opened_so_far = []

    def count(version):
        opened_so_far.append(version.name)
        return on_cpu(version)

    async def ask():
        sessions = Inline(count, 1.0)
        for name in ("line", "coin"):
            await opened(sessions, versions[name])
        for _ in range(20):
            for name in ("line", "coin", "pair", "flowers"):
                got = sessions.session(versions[name])
                assert (got is not None) == (name in ("line", "coin"))
            await asyncio.gather(*sessions._tasks)
        assert opened_so_far == ["line", "coin"]
        for _ in range(2 * inline._IN_USE):  # the traffic has gone elsewhere
            sessions.session(versions["line"])
        assert await opened(sessions, versions["pair"]) is not None
        sessions.retire(versions["line"])
        assert await opened(sessions, versions["flowers"]) is not None

    asyncio.run(ask())


def test_a_version_that_workers_do_better_is_tried_once(versions):
    tried = []

    def slow(version):
        tried.append(version)
        return Slow(version, "cpu")

    async def ask():
        sessions = Inline(slow, 0.001)
        for _ in range(5):
            assert await opened(sessions, versions["line"]) is None

    asyncio.run(ask())
    assert len(tried) == 1


@pytest.mark.parametrize(("sessions_of_line", "room"), [(3.5, True), (2.5, False)])
def test_small_sessions_have_room_by_what_they_take(versions, monkeypatch, sessions_of_line, room):
    monkeypatch.setattr(inline, "_SESSIONS", 1)
    monkeypatch.setattr(inline, "_MOST_BYTES", sessions_of_line * inline._size(versions["line"]))

    async def ask():
        sessions = Inline(on_cpu, 1.0)
        opened_ones = [await opened(sessions, versions[name]) for name in ("line", "coin", "pair")]
        assert None not in opened_ones
        return await opened(sessions, versions["flowers"]) is not None

    assert asyncio.run(ask()) == room
