import ctypes
import os
import platform
import struct
import threading
import time

import pytest

from service.processes.scheduling import FullShare, Hunger, Share, take_short_slices


def in_a_thread(do):
    """What `do` gives in a thread of its own, whose share of a core is nobody else's."""
    given = []
    thread = threading.Thread(target=lambda: given.append(do()))
    thread.start()
    thread.join()
    return given[0]


def niceness():
    return os.getpriority(os.PRIO_PROCESS, 0)


def less_by(steps):
    """The niceness of a thread that took so many from this one's; 19 is the most there is."""
    return min(19, niceness() + steps)


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
        share = Share(Hunger())
        return [clock.batch(share, 0.05, 0.04) for _ in range(3)]

    assert in_a_thread(batches) == [(before, None), (less_by(10), None), (less_by(10), None)]
    assert niceness() == before


def test_a_thread_that_starves_is_replaced_by_one_of_full_share(clock):
    before = niceness()

    def starve():
        share = Share(Hunger())
        clock.batch(share, 0.05, 0.04)
        return [clock.batch(share, 0.06, 0.01) for _ in range(2)]

    (nice, nobody), (_, others) = in_a_thread(starve)
    assert (nice, nobody) == (less_by(10), None)  # too soon to say

    def go_on():
        seen = [clock.batch(others, 0.5, 0.05)[0] for _ in range(3)]
        clock.now += 10
        return [*seen, clock.batch(others, 0.05, 0.04)[0]]

    assert in_a_thread(go_on) == [before, before, before, less_by(10)]


def test_one_batch_that_waited_for_a_core_is_enough_whatever_went_before(clock):
    def starve():
        share = Share(Hunger())
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

    assert in_a_thread(lambda: batches(Share(hunger))) == [(before, None)] * 2
    clock.now += 10
    assert in_a_thread(lambda: batches(Share(hunger))) == [(before, None), (less_by(10), None)]


def test_a_thread_with_a_small_share_is_replaced_once_another_one_starves(clock):
    hunger = Hunger()

    def small():
        share = Share(hunger)
        for _ in range(2):
            clock.batch(share, 0.05, 0.04)
        hunger.begins()
        return clock.batch(share, 0.05, 0.04)[1]

    assert isinstance(in_a_thread(small), Share)


def test_long_batches_are_computed_with_full_share(clock):
    before = niceness()

    def always():
        share = Share(Hunger())
        return [clock.batch(share, 0.3, 0.3) for _ in range(3)]

    assert in_a_thread(always) == [(before, None)] * 3

    def after_short_ones():
        share = Share(Hunger())
        clock.batch(share, 0.05, 0.04)
        return clock.batch(share, 0.3, 0.3)[1]

    assert isinstance(in_a_thread(after_short_ones), Share)


def test_on_a_gpu_nothing_changes(clock):
    before = niceness()
    assert in_a_thread(lambda: [clock.batch(share, 1, 0) for share in [FullShare()] * 3]) == [(before, None)] * 3


def test_opening_gives_way_once():
    def opening():
        share = Share(Hunger())
        for _ in range(3):
            share.opens()
        return niceness()

    assert in_a_thread(opening) == less_by(10)


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
