"""When an API process looks for the next request instead of sleeping."""

import os
import time
from types import SimpleNamespace

import pytest

from service.http.spinning import Spinning

LONGEST_S = 0.05


class Clock:
    """A time in which nothing happens but what the test does."""

    now = 1000.0

    def pass_by(self, seconds):
        self.now += seconds


class Loop(list):
    """An event loop of which the test takes the turns."""

    def call_soon(self, callback, *arguments):
        self.append(lambda: callback(*arguments))


def lane(connections=1):
    return SimpleNamespace(loop=Loop(), server_state=SimpleNamespace(connections=range(connections)))


@pytest.fixture(autouse=True)
def _two_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    return clock


def answer(clock, spinning, client, times, gap_s=0.0):
    for _ in range(times):
        came = clock.now
        clock.pass_by(0.001)
        spinning.answered(came, client)
        clock.pass_by(gap_s)


def test_it_spins_while_requests_follow_answers_at_once_and_sleeps_once_none_does(clock):
    spinning, client = Spinning(LONGEST_S), lane()
    answer(clock, spinning, client, 8)  # before the first of them, nothing was answered
    assert not client.loop
    answer(clock, spinning, client, 3)
    assert len(client.loop) == 1  # once, however many requests
    client.loop.pop()()
    assert len(client.loop) == 1
    clock.pass_by(2 * LONGEST_S)
    client.loop.pop()()
    assert not client.loop
    answer(clock, spinning, client, 8)
    assert not client.loop  # it takes as many again
    answer(clock, spinning, client, 1)
    assert client.loop


@pytest.mark.parametrize(
    ("longest_s", "connections", "gap_s"), [(0.0, 1, 0.0), (LONGEST_S, 3, 0.0), (LONGEST_S, 1, 2 * LONGEST_S)]
)
def test_it_never_spins_where_it_may_not_or_has_others_to_look_at_or_nobody_hurries(
    clock, longest_s, connections, gap_s
):
    client = lane(connections)
    answer(clock, Spinning(longest_s), client, 12, gap_s)
    assert not client.loop


def test_it_never_spins_on_the_only_core(clock, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    client = lane()
    answer(clock, Spinning(LONGEST_S), client, 12)
    assert not client.loop
