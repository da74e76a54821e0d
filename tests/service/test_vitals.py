import os
import subprocess
import sys
import time

from service.observing import vitals
from service.observing.vitals import Memory, Vitals
from tests.server.conftest import CHECKOUT


def said(sockets=(), ups=()):
    return {(sample.name, *sample.labels.values()): sample.value
            for family in Vitals(2000, sockets, ups, os.getpid()).collect() for sample in family.samples}  # fmt: skip


def test_processor_time_of_a_child_that_ended_is_not_lost():
    busy = "import time\nwhile time.process_time() < 0.3: pass"
    before = vitals._cpu_s(os.getpid())
    subprocess.run([sys.executable, "-c", busy], check=True)
    assert vitals._cpu_s(os.getpid()) - before >= 0.25


SHARED = """
import os, signal
from service.observing import vitals

print(vitals._memory_bytes(os.getpid()))
ballast = b"x" * 50_000_000
print(vitals._memory_bytes(os.getpid()))
child = os.fork()
if not child:
    signal.pause()
family = vitals._family_of(os.getpid())
print(sum(map(vitals._memory_bytes, family)))
assert child in family
os.kill(child, 9)
"""


def test_memory_is_counted_once_for_pages_that_processes_share():
    # in a process of its own: whatever else this one has loaded, it shares with others that come and go
    done = subprocess.run([sys.executable, "-c", SHARED], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    alone, whole, shared = map(float, done.stdout.split())
    assert whole - alone > 40e6
    assert abs(shared - whole) < 20e6


BELOW = """
import os, signal
from service.observing import vitals

if not os.fork():
    os.fork()  # as a worker has a process that checks versions, and that one another for shadows
    signal.pause()
while len(family := vitals._family_of(os.getpid())) < 3:
    pass
print(len(family))
for one in family[:0:-1]:
    os.kill(one, 9)
"""


def test_processes_below_processes_count_too():
    done = subprocess.run([sys.executable, "-c", BELOW], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert done.stdout == "3\n"


def test_processor_time_is_added_up_anew_where_a_process_ends_meanwhile():
    families = iter([[1, 2, 3], [1, 2]])
    took = iter([5.0, 0.5, None, 7.0, 0.5])  # 3 ended after 1, which has its time by now, had been looked at
    assert vitals._added_up(lambda: next(families), lambda _: next(took)) == 7.5


def test_a_worker_that_has_not_come_up_has_no_start(tmp_path):
    (tmp_path / "worker-0.sock").touch()
    page = said([tmp_path / "worker-0.sock", tmp_path / "worker-1.sock"])
    assert abs(page["rowcast_worker_start_time_seconds", "worker-0"] - time.time()) < 60
    assert ("rowcast_worker_start_time_seconds", "worker-1") not in page
    assert page["rowcast_waiting_rows_limit",] == 2000


def test_processes_that_are_not_up_are_counted(tmp_path):
    for name in ("worker-1.sock", "api-0.up", "api-1.up"):
        (tmp_path / name).touch()
    page = said(
        [tmp_path / f"worker-{number}.sock" for number in range(3)], [tmp_path / f"api-{slot}.up" for slot in (0, 1)]
    )
    assert page["rowcast_processes_down", "worker"] == 2
    assert page["rowcast_processes_down", "api"] == 0


def test_a_process_that_is_gone_counts_nothing():
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert (vitals._cpu_s(gone.pid), vitals._memory_bytes(gone.pid)) == (None, 0.0)


def test_a_process_is_looked_at_when_it_is_new_and_then_once_a_minute_one_at_a_time():
    looked, now = [], [0.0]

    def look(process):
        looked.append(process)
        return 100 * process + now[0]

    memory = Memory(look, clock=lambda: now[0])

    def at(time, *processes):
        looked.clear()
        now[0] = time
        return memory.of(processes), list(looked)

    assert at(0, 1, 2, 3) == (600, [1, 2, 3])
    assert at(59, 1, 2, 3) == (600, [])
    assert at(60, 1, 2, 3) == (660, [1])
    assert at(61, 1, 2, 3) == (721, [2])
    assert at(62, 1, 3, 4) == (160 + 362 + 462, [4, 3])  # 4 has taken the place of 2
    assert at(63, 1, 3, 4) == (984, [])
