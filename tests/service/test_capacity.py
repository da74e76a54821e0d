import pytest

from service.batching.capacity import Capacity
from service.problems import Overloaded


def is_let_in(capacity, waiting, *, key="line", rows=1, in_all=None, within_s=5.0, at_once=1):
    in_all = waiting if in_all is None else in_all
    try:
        capacity.check(key, rows, waiting=waiting, waiting_in_all=in_all, within_s=within_s, at_once=at_once)
    except Overloaded:
        return False
    return True


def capacity(rows=200, seconds=0.2):
    """One at whose version "line" batches go at 1000 rows per second."""
    one = Capacity(0.5, 10_000)
    one.learn("line", rows, seconds)
    return one


def test_a_request_is_let_in_if_its_turn_comes_soon_enough():
    assert is_let_in(capacity(), waiting=499)
    assert not is_let_in(capacity(), waiting=501)


def test_two_workers_take_twice_as_many():
    assert is_let_in(capacity(), waiting=999, at_once=2)
    assert not is_let_in(capacity(), waiting=1001, at_once=2)


def test_who_has_less_time_is_refused_sooner():
    assert not is_let_in(capacity(), waiting=101, within_s=0.1)


def test_the_backlog_of_a_slow_version_refuses_nobody_of_another():
    one = capacity()
    one.learn("slow", 1, 0.2)
    assert not is_let_in(one, waiting=6, key="slow")
    assert is_let_in(one, waiting=6, key="line", in_all=12)


def test_before_the_first_batch_and_while_no_worker_lives_rows_alone_count():
    assert is_let_in(Capacity(0.5, 10_000), waiting=9_000)
    assert is_let_in(capacity(), waiting=9_000, at_once=0)
    assert not is_let_in(Capacity(0.5, 10_000), waiting=9_000, rows=1001)


def test_two_trials_are_a_pace_until_the_first_batch_is_back():
    one = Capacity(0.5, 10_000)
    one.know("line", 1, 0.006)
    assert is_let_in(one, waiting=9_000)
    one.know("line", 8, 0.041)  # a row takes 5 ms, and a batch 1 ms more
    assert is_let_in(one, waiting=90)
    assert not is_let_in(one, waiting=110)
    one.learn("line", 64, 0.064)
    assert is_let_in(one, waiting=490)
    assert not is_let_in(one, waiting=510)


def test_trials_of_a_version_that_takes_as_long_for_many_rows_refuse_no_burst():
    one = Capacity(0.5, 10_000)
    one.know("line", 1, 0.05)
    one.know("line", 8, 0.05)
    assert is_let_in(one, waiting=5_000)


def test_the_pace_is_that_of_the_last_batches():
    one = capacity()
    for _ in range(16):
        one.learn("line", 100, 0.2)
    assert is_let_in(one, waiting=249)
    assert not is_let_in(one, waiting=251)


def test_a_batch_or_two_that_were_held_up_refuse_nobody():
    one = capacity()
    for seconds in (0.001,) * 14 + (1.0, 2.0):
        one.learn("line", 1, seconds)
    assert is_let_in(one, waiting=400)
    one.learn("line", 1, 1.5)
    assert not is_let_in(one, waiting=400)


def test_a_burst_after_small_quick_batches_is_taken_to_go_eight_times_as_fast_and_grows_in_steps():
    one = capacity(rows=1, seconds=0.001)
    assert is_let_in(one, waiting=3999)
    assert not is_let_in(one, waiting=4001)
    assert one.most_rows("line", 0.0) == 64
    one.learn("line", 64, 0.002)
    assert one.most_rows("line", 0.0) == 512


def test_what_single_rows_wait_for_a_core_is_not_taken_for_the_cost_of_each():
    one = Capacity(0.5, 10_000)
    for _ in range(16):
        one.learn("line", 1, 0.06, 0.0002)
    assert is_let_in(one, waiting=60)
    assert not is_let_in(one, waiting=70)  # 16.7 batches/s of 8 times as many rows


def test_what_many_rows_wait_for_a_core_is_their_cost_as_no_batch_has_eight_times_as_many():
    one = Capacity(0.5, 100_000)
    for _ in range(16):
        one.learn("line", 1000, 0.2, 0.1)
    assert is_let_in(one, waiting=2499)
    assert not is_let_in(one, waiting=2501)


def test_a_burst_after_single_rows_is_let_in_where_a_batch_takes_as_long_for_many():
    one = Capacity(0.5, 10_000)
    for rows, seconds in ((32, 0.0505), *[(1, 0.05)] * 20):
        one.learn("line", rows, seconds, seconds)
    assert is_let_in(one, waiting=315)
    assert not is_let_in(one, waiting=318)  # 634 rows/s, as there were


def test_a_burst_after_single_rows_is_refused_where_each_row_takes_as_long():
    one = Capacity(0.5, 10_000)
    for rows, seconds in ((32, 1.6), *[(1, 0.05)] * 16):
        one.learn("line", rows, seconds, seconds)
    assert is_let_in(one, waiting=9)
    assert not is_let_in(one, waiting=11)


def test_a_burst_of_many_rows_after_single_ones_is_let_in_where_a_trial_showed_their_cost():
    one = Capacity(0.5, 100_000)
    one.know("line", 256, 0.001)
    assert is_let_in(one, waiting=99_000)  # nothing waits for long before the first batch
    for _ in range(20):
        one.learn("line", 1, 0.001)
    assert is_let_in(one, waiting=99_000)  # 256,000 rows/s
    for _ in range(16):
        one.learn("line", 1, 0.004)
    assert is_let_in(one, waiting=31_000)  # a quarter of that, as single ones became slower
    assert not is_let_in(one, waiting=33_000)
    one.learn("line", 2_000, 2.0)
    assert not is_let_in(one, waiting=1_000)  # what came back says more than a trial


def costing(fixed_s, row_s):
    """One that was asked something urgent at 100 s, at whose version "line" batches cost so much."""
    one = Capacity(0.5, 10_000)
    one.urgent_came("line", 100.0)
    for rows in (1, 5, 32):
        one.learn("line", rows, fixed_s + rows * row_s)
    return one


@pytest.mark.parametrize(
    ("fixed_s", "row_s", "ordinary", "beside_urgent"),
    [(0.0, 0.003, 1, 1), (0.01, 0.0, 256, 256), (0.01, 0.001, 90, 10)],
)
def test_where_somebody_urgent_may_come_batches_have_the_rows_that_their_pace_needs(
    fixed_s, row_s, ordinary, beside_urgent
):
    one = costing(fixed_s, row_s)
    assert one.most_rows("line", 109.0) == pytest.approx(ordinary, abs=1)
    assert one.most_rows("line", 109.0, urgent_rows=1) == pytest.approx(beside_urgent, abs=1)
    assert one.most_rows("line", 109.0, urgent_rows=40) == pytest.approx(min(ordinary, max(40, beside_urgent)), abs=1)
    assert one.most_rows("line", 111.0) == 256


def test_batches_that_are_short_for_the_sake_of_urgent_ones_give_no_hope_of_a_better_pace():
    one = costing(0.0, 0.003)
    one.most_rows("line", 101.0)
    one.learn("line", 1, 0.003)
    assert not is_let_in(one, waiting=168)  # half a second at 333 rows/s
    one.most_rows("line", 111.0)
    one.learn("line", 1, 0.003)
    assert is_let_in(one, waiting=168)


def test_a_refusal_says_when_the_queue_will_be_empty():
    with pytest.raises(Overloaded) as refused:
        capacity().check("line", 1, waiting=2500, waiting_in_all=2500, within_s=5.0, at_once=1)
    assert refused.value.retry_after_s == 2.5


def test_a_version_that_was_forgotten_is_learned_again():
    one = capacity()
    for number in range(2000):
        one.learn(f"model-{number}", 1, 10.0)
    assert is_let_in(one, waiting=501)
    one.learn("line", 200, 0.2)
    assert not is_let_in(one, waiting=501)
