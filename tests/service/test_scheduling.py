import asyncio
import contextlib
import ctypes
import os
import platform
import resource
import signal
import struct
import threading
import time

import pytest

from service.processes import yielding
from service.processes.scheduling import FullShare, Hunger, Share, take_short_slices
from service.processes.yielding import InlineRate
from tests.server.conftest import START_S


def in_a_thread(do):
    """What `do` gives in a thread of its own, whose share of a core is nobody else's."""
    given = []
    thread = threading.Thread(target=lambda: given.append(do()))
    thread.start()
    thread.join()
    return given[0]


def niceness():
    return os.getpriority(os.PRIO_PROCESS, 0)


def less_by_ten():
    """The niceness of a thread that took 10 steps from this one's; 19 is the most there is."""
    return min(19, niceness() + 10)


def share_of(hunger=None, inline_rate=None):
    return Share(hunger or Hunger(), inline_rate or InlineRate(1))


@pytest.fixture
def clock(monkeypatch):
    """Seconds by the clock, and those that this thread computed."""

    class Clock:
        now, computed = 1000.0, 0.0

        def batch(self, share, took_s, computed_s):
            with share:
                nice = niceness()
                self.now += took_s
                self.computed += computed_s
            return nice, share.next_share

    clock = Clock()
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(time, "thread_time", lambda: clock.computed)
    return clock


def test_a_thread_gives_way_from_its_second_batch_on_and_others_do_not(clock):
    before = niceness()

    def batches():
        share = share_of()
        return [clock.batch(share, 0.05, 0.04) for _ in range(3)]

    assert in_a_thread(batches) == [(before, None), (less_by_ten(), None), (less_by_ten(), None)]
    assert niceness() == before


def test_a_thread_that_starves_is_replaced_by_one_of_full_share(clock):
    before = niceness()

    def starve():
        share = share_of()
        clock.batch(share, 0.05, 0.04)
        return [clock.batch(share, 0.06, 0.01) for _ in range(2)]

    (nice, nobody), (_, others) = in_a_thread(starve)
    assert (nice, nobody) == (less_by_ten(), None)  # too soon to say

    def go_on():
        seen = [clock.batch(others, 0.3, 0.03)[0] for _ in range(3)]
        clock.now += 1
        return [*seen, clock.batch(others, 0.05, 0.04)[0]]

    assert in_a_thread(go_on) == [before, before, before, less_by_ten()]


def test_one_batch_that_waited_for_a_core_is_enough_whatever_went_before(clock):
    def starve():
        share = share_of()
        clock.batch(share, 0.05, 0.04)
        clock.batch(share, 0.09, 0.09)
        return clock.batch(share, 0.15, 0.005)[1]

    assert isinstance(in_a_thread(starve), Share)


def test_whoever_starves_speaks_for_all_workers_and_for_those_that_are_started_later(clock):
    before = niceness()
    hunger = Hunger()
    child = os.fork()
    if child == 0:  # another worker
        hunger.begins()
        os._exit(0)
    os.waitpid(child, 0)

    def batches(share):
        return [clock.batch(share, 0.05, 0.04) for _ in range(2)]

    assert in_a_thread(lambda: batches(share_of(hunger))) == [(before, None)] * 2
    clock.now += 1
    assert in_a_thread(lambda: batches(share_of(hunger))) == [(before, None), (less_by_ten(), None)]


def test_what_starves_again_soon_has_its_full_share_for_longer(clock):
    hunger = Hunger()

    def lasts_s():
        began = clock.now
        hunger.begins()
        while hunger.lasts:
            clock.now += 0.5
            if hunger.lasts:
                hunger.begins()  # as others do, one after the other
        return clock.now - began

    assert [lasts_s() for _ in range(3)] == [1, 10, 10]
    clock.now += 10
    assert lasts_s() == 1


def test_a_thread_with_a_small_share_is_replaced_once_another_one_starves(clock):
    hunger = Hunger()

    def small():
        share = share_of(hunger)
        for _ in range(2):
            clock.batch(share, 0.05, 0.04)
        hunger.begins()
        return clock.batch(share, 0.05, 0.04)[1]

    assert isinstance(in_a_thread(small), Share)


def test_long_batches_are_computed_with_full_share(clock):
    before = niceness()

    def always():
        share = share_of()
        return [clock.batch(share, 0.3, 0.3) for _ in range(3)]

    assert in_a_thread(always) == [(before, None)] * 3

    def after_short_ones():
        share = share_of()
        clock.batch(share, 0.05, 0.04)
        return clock.batch(share, 0.3, 0.3)[1]

    assert isinstance(in_a_thread(after_short_ones), Share)


def test_on_a_gpu_nothing_changes(clock):
    before = niceness()
    assert in_a_thread(lambda: [clock.batch(share, 1, 0) for share in [FullShare()] * 3]) == [(before, None)] * 3


def test_opening_gives_way_once():
    def opening():
        share = share_of()
        for _ in range(3):
            share.opens()
        return niceness()

    assert in_a_thread(opening) == less_by_ten()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the number of the system call")
def test_slices_are_short_where_the_kernel_has_them():
    def slices():
        take_short_slices()
        attributes = ctypes.create_string_buffer(48)
        assert ctypes.CDLL(None).syscall(315, 0, attributes, 48, 0) == 0  # sched_getattr
        return struct.unpack("=IIQiIQQQ", attributes.raw)

    _, policy, _, nice, _, slice_ns, _, _ = in_a_thread(slices)
    assert (policy, nice) == (os.SCHED_OTHER, niceness())
    if tuple(int(part) for part in platform.release().split(".")[:2]) >= (6, 12):
        assert slice_ns == 100_000


def signalled(threads_own, number=yielding._YIELD, seconds=START_S):
    """Whether a timer of service/processes/yielding.py signals the thread that calls, while `threads_own` lasts."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    with threads_own:
        came = signal.sigtimedwait({number}, seconds)
    return came is not None


A_WHILE_S = 0.3
"""Hundreds of times as long as a signal takes that comes."""


def test_a_thread_that_computes_is_told_to_yield_while_api_processes_compute_a_lot():
    rate = InlineRate(2)
    assert not in_a_thread(lambda: signalled(share_of(inline_rate=rate), seconds=A_WHILE_S))
    rate._per_s[0] = rate._per_s[1] = 501.0
    assert in_a_thread(lambda: signalled(share_of(inline_rate=rate)))
    assert not in_a_thread(lambda: signalled(FullShare(), seconds=A_WHILE_S))


def test_it_yields_no_longer_once_its_batch_is_computed_and_no_other_thread_does():
    rate = InlineRate(1)
    rate._per_s[0] = 1001.0
    share = share_of(inline_rate=rate)
    is_computed = threading.Event()

    def compute():
        with share:
            until = time.monotonic() + 0.05  # hundreds of signals end nothing, and another thread gets none of them
            while time.monotonic() < until:
                pass
        is_computed.set()
        return signalled(contextlib.nullcontext(), seconds=A_WHILE_S)

    others = []
    other = threading.Thread(target=lambda: others.append(signalled(waiting_for(is_computed), seconds=A_WHILE_S)))
    other.start()
    assert not in_a_thread(compute)
    other.join()
    assert others == [False]


def test_a_thread_that_opens_versions_rests_again_and_again_whatever_it_computes():
    def slept_while_computing(resting, seconds=START_S):
        before, until = slept(), time.monotonic() + seconds
        with resting:
            while slept() < before + 10 and time.monotonic() < until:
                pass
        return slept() - before

    def slept():
        return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw  # how often it gave its core away before its time

    assert in_a_thread(lambda: slept_while_computing(yielding.resting())) >= 10
    assert in_a_thread(lambda: slept_while_computing(contextlib.nullcontext(), 0.1)) < 10


@contextlib.contextmanager
def waiting_for(event):
    event.wait(60)
    yield


def test_api_processes_say_how_often_they_compute_by_themselves(monkeypatch):
    monkeypatch.setattr(yielding, "_TELL_S", 0.1)
    rate = InlineRate(2)
    given = iter(range(0, 10**15, 10**9))  # many a second, however long it takes
    seen = []

    async def tell():
        async with rate.told_by(1, lambda: next(given)):
            async with asyncio.timeout(START_S):
                while not rate._per_s[1]:  # noqa: ASYNC110 - it is memory
                    await asyncio.sleep(0.01)
            seen.extend(rate._per_s)

    child = os.fork()
    if child == 0:  # an API process; a worker reads what it says
        try:
            asyncio.run(tell())
            rate._per_s[0] = seen[1]
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    first, second = rate._per_s
    assert first > 1000
    assert second == 0  # it has ended
