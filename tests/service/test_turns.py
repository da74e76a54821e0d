import threading

import pytest

from service.workers.turns import Turns

LONG_S = 0.05
FOR_EVER = 1e6


def test_long_runs_go_one_after_the_other():
    turns, order = Turns(1, FOR_EVER), []

    def run(name):
        with turns.turn(LONG_S):
            order.append(f"{name} begins")
            order.append(f"{name} ends")

    with turns.turn(LONG_S) as waited_s:
        others = [threading.Thread(target=run, args=(name,)) for name in "ab"]
        for other in others:
            other.start()
        order.append("the first ends")
    for other in others:
        other.join(60)
    assert waited_s == 0
    assert order[0] == "the first ends"
    assert sorted(order[1::2]) == ["a begins", "b begins"]
    assert [line[0] for line in order[1::2]] == [line[0] for line in order[2::2]]


@pytest.mark.parametrize("seconds", [0.0, 0.001, 0.3], ids=["unknown", "short", "as long as one that hangs"])
def test_others_neither_wait_nor_are_waited_for(seconds):
    turns = Turns(1, FOR_EVER)
    with turns.turn(LONG_S), turns.turn(seconds) as waited_s:
        assert waited_s == 0
    with turns.turn(seconds), turns.turn(LONG_S) as waited_s:
        assert waited_s == 0


def test_as_many_go_at_a_time_as_there_are_cores():
    turns = Turns(2, FOR_EVER)
    with turns.turn(LONG_S), turns.turn(LONG_S) as waited_s:
        assert waited_s == 0


def test_without_a_number_all_go_at_once():
    turns = Turns()
    with turns.turn(LONG_S), turns.turn(LONG_S), turns.turn(LONG_S) as waited_s:
        assert waited_s == 0


def test_nobody_waits_much_longer_than_its_own_run_takes():
    turns = Turns(1, 2.0)
    with turns.turn(LONG_S), turns.turn(0.005) as waited_s:
        assert waited_s >= 0.01
    with turns.turn(LONG_S) as waited_s:  # who had no turn gave none back
        assert waited_s == 0
        with turns.turn(0.005) as longer_s:
            assert longer_s >= 0.01


def test_a_run_that_fails_gives_its_turn_back():
    turns = Turns(1, FOR_EVER)
    with pytest.raises(MemoryError), turns.turn(LONG_S):
        raise MemoryError
    with turns.turn(LONG_S) as waited_s:
        assert waited_s == 0
