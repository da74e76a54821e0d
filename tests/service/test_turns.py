import threading
import time

import pytest

from service.processes.scheduling import Hunger
from service.processes.yielding import InlineRate
from service.workers.turns import Company, Turns

LONG_S = 0.05
FOR_EVER = 1e6


def test_long_runs_go_one_after_the_other():
    turns, order = Turns(1, FOR_EVER), []

    def run(name):
        with turns.turn(LONG_S):
            order.append(f"{name} begins")
            order.append(f"{name} ends")

    with turns.turn(LONG_S) as turn:
        others = [threading.Thread(target=run, args=(name,)) for name in "ab"]
        for other in others:
            other.start()
        order.append("the first ends")
    for other in others:
        other.join(60)
    assert turn.waited_s == 0
    assert order[0] == "the first ends"
    assert sorted(order[1::2]) == ["a begins", "b begins"]
    assert [line[0] for line in order[1::2]] == [line[0] for line in order[2::2]]


@pytest.mark.parametrize("seconds", [0.0, 0.001, 0.3], ids=["unknown", "short", "as long as one that hangs"])
def test_others_neither_wait_nor_are_waited_for(seconds):
    turns = Turns(1, FOR_EVER)
    with turns.turn(LONG_S), turns.turn(seconds) as turn:
        assert turn.waited_s == 0
    with turns.turn(seconds), turns.turn(LONG_S) as turn:
        assert turn.waited_s == 0


def test_as_many_go_at_a_time_as_there_are_cores():
    turns = Turns(2, FOR_EVER)
    with turns.turn(LONG_S), turns.turn(LONG_S) as turn:
        assert turn.waited_s == 0


def test_without_a_number_all_go_at_once():
    turns = Turns()
    with turns.turn(LONG_S), turns.turn(LONG_S), turns.turn(LONG_S) as turn:
        assert turn.waited_s == 0


def test_nobody_waits_much_longer_than_its_own_run_takes():
    turns = Turns(1, 2.0)
    with turns.turn(LONG_S), turns.turn(0.005) as turn:
        assert turn.waited_s >= 0.01
    with turns.turn(LONG_S) as turn:  # who had no turn gave none back
        assert turn.waited_s == 0
        with turns.turn(0.005) as other:
            assert other.waited_s >= 0.01


def test_a_run_that_fails_gives_its_turn_back():
    turns = Turns(1, FOR_EVER)
    with pytest.raises(MemoryError), turns.turn(LONG_S):
        raise MemoryError
    with turns.turn(LONG_S) as turn:
        assert turn.waited_s == 0


@pytest.fixture
def inline_rate():
    return InlineRate(1)


@pytest.fixture
def hunger():
    return Hunger()


def workers(inline_rate, hunger, lately=0.0):
    """The turns of a server's two workers, each of which has a core."""
    company = Company(2, inline_rate, hunger, lately)
    return [Turns(1, FOR_EVER, company=company, worker=worker) for worker in range(2)]


def test_a_run_is_alone_while_no_worker_has_another(inline_rate, hunger):
    one, other = workers(inline_rate, hunger)
    with one.turn(LONG_S) as first, other.turn(LONG_S) as second:
        assert (first.is_alone, second.is_alone) == (True, False)
    with other.turn(0.001), one.turn(LONG_S) as turn:
        assert turn.is_alone  # who is short is no company


def test_nor_is_one_that_had_company_of_late(inline_rate, hunger):
    one, other = workers(inline_rate, hunger, lately=FOR_EVER)
    with one.turn(LONG_S), other.turn(LONG_S):
        pass
    with one.turn(LONG_S) as turn:
        assert not turn.is_alone


def test_nor_one_beside_api_processes_that_compute_a_lot(inline_rate, hunger):
    one, _ = workers(inline_rate, hunger)
    inline_rate._per_s[0] = 5000.0
    with one.turn(LONG_S) as turn:
        assert not turn.is_alone


def test_nor_one_while_threads_starve(inline_rate, hunger):
    one, _ = workers(inline_rate, hunger)
    hunger._until[0] = time.monotonic() + FOR_EVER
    with one.turn(LONG_S) as turn:
        assert not turn.is_alone


def test_the_runs_of_a_worker_that_died_are_forgotten_once_another_takes_its_place(inline_rate, hunger):
    company = Company(2, inline_rate, hunger, 0.0)
    company.tell(0, 3)
    Turns(1, company=company, worker=0)
    with Turns(1, company=company, worker=1).turn(LONG_S) as turn:
        assert turn.is_alone


def test_where_as_many_go_as_come_none_is_alone():
    with Turns().turn(LONG_S) as turn:
        assert not turn.is_alone
