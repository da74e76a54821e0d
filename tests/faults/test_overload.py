"""More is asked than can be computed: what is let in is answered soon, the rest is told at once when to come again.

The model takes some milliseconds of a core for each row, so that its capacity is the network's and not the client's.
"""

import asyncio
import contextlib
import json
import selectors
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

import pytest

from tests.faults.client import Client
from tests.faults.conftest import FAULT_S
from tests.faults.measured import memory_mb
from tests.faults.test_soak import counted
from tests.server.conftest import until
from tests.service import hostile, tiny

pytestmark = pytest.mark.faults


@dataclass
class Tally:
    """Of an open-loop load: seconds that each kind of answer took."""

    right: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    other: list[str] = field(default_factory=list)
    without_retry_after: int = 0
    seconds: float = 0.0

    @property
    def outcomes(self) -> Counter:
        """How many of each kind, as the server counts them; a load that has other kinds fails anyway."""
        return Counter({"ok": len(self.right)}) + Counter({"overloaded": len(self.refused)})

    def __str__(self) -> str:
        return (
            f"{len(self.right) / self.seconds:.0f}/s right, p99 {p99(self.right):.2f} s; "
            f"{len(self.refused) / self.seconds:.0f}/s refused, p99 {1e3 * p99(self.refused):.0f} ms; "
            f"other {sorted(set(self.other))[:5]}"
        )


def p99(seconds):
    return sorted(seconds)[int(0.99 * len(seconds))] if seconds else 0.0


class Crowd:
    """Requests at a rate that no answer holds back: each goes over a connection that is free, or over a new one."""

    def __init__(self, port, *headers) -> None:
        self.port, self.headers, self.free = port, headers, []
        self.tally, self.tasks, self.coming = Tally(), set(), 0

    async def connection(self):
        """One that is free, or a new one."""
        if self.free:
            return self.free.pop()
        self.coming += 1
        try:
            _, client = await asyncio.get_running_loop().create_connection(Client, "127.0.0.1", self.port)
        finally:
            self.coming -= 1
        return client

    async def one(self, x):
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            client = await self.connection()
            status, head, raw = await client.ask(json.dumps({"instances": [[x]]}).encode(), "/predict", *self.headers)
        except OSError as error:
            self.tally.other.append(type(error).__name__)
            return
        self.free.append(client)
        took, answer = loop.time() - began, json.loads(raw)
        if status == 200 and answer["predictions"] == [2.0 * x + 1]:
            self.tally.right.append(took)
        elif status in (429, 503):
            self.tally.refused.append(took)
            self.tally.without_retry_after += b"retry-after: " not in head
        else:
            self.tally.other.append(f"{status} {answer}"[:200])

    async def load(self, rate, seconds):
        loop = asyncio.get_running_loop()
        began, sent = loop.time(), 0
        while (now := loop.time()) < began + seconds:
            for _ in range(int((now - began) * rate) - sent):
                sent += 1
                self.start(self.one(sent % 1000))
            await asyncio.sleep(0.002)
        await self.end()
        self.tally.seconds = seconds

    def start(self, coroutine):
        task = asyncio.ensure_future(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def end(self):
        _, hung = await asyncio.wait(self.tasks, timeout=60) if self.tasks else ((), ())
        assert not hung, f"{len(hung)} requests hang, of which {self.coming} have no connection"

    def close(self):
        for client in self.free:
            client.transport.abort()


@contextlib.contextmanager
def probed(server):
    """The longest that liveness took meanwhile, and the most memory."""
    seen, over = {"live_s": 0.0, "mb": 0.0}, threading.Event()

    def probe():
        while not over.wait(0.2):
            began = time.monotonic()
            assert server.is_live()
            seen["live_s"] = max(seen["live_s"], time.monotonic() - began)
            seen["mb"] = max(seen["mb"], memory_mb(server))

    thread = threading.Thread(target=probe)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


async def capacity_of(port, seconds):
    """Answers per second to 32 who always ask again, and what became of each request."""
    crowd = Crowd(port)
    end = time.monotonic() + seconds

    async def ask_on(number):
        while time.monotonic() < end:
            await crowd.one(number)

    await asyncio.gather(*(ask_on(number) for number in range(32)))
    crowd.close()
    return len(crowd.tally.right) / seconds, crowd.tally.outcomes


async def overloaded(server, rate, seconds):
    """The tally of a load, and how long answers take one second after it."""
    crowd = Crowd(server.port)
    await crowd.load(rate, seconds)
    crowd.close()
    await asyncio.sleep(1)
    after = Crowd(server.port)
    for x in range(20):
        await after.one(x)
    after.close()
    return crowd.tally, after.tally


@pytest.fixture
def slow(start, tmp_path):
    root = tmp_path / "slow"
    tiny.publish(root, "line", hostile.costly())
    return start(root)


@pytest.mark.parametrize("times", [1, 2, 5, 10])
def test_goodput_stays_and_refusals_are_quick_at_so_many_times_the_capacity(slow, times):
    """The best of three tries: what else the machine does takes from goodput and adds to waits, never the reverse.

    The capacity is the lower of those before and after, since a machine that became busier has less of it.
    """
    seconds = max(4.0, FAULT_S / 4)
    client = asyncio.run(capacity_of(slow.port, 1))[1]  # warm
    before = memory_mb(slow)
    for left in (2, 1, 0):
        capacity, asked = asyncio.run(capacity_of(slow.port, seconds))
        with probed(slow) as seen:
            tally, after = asyncio.run(overloaded(slow, times * capacity, seconds))
        capacity_after, asked_after = asyncio.run(capacity_of(slow.port, seconds))
        goodput = len(tally.right) / seconds / min(capacity, capacity_after)
        client += asked + tally.outcomes + after.outcomes + asked_after
        more, later = seen["mb"] - before, max(after.right, default=60.0)
        print(f"\n{times} x {capacity:.0f}/s: {tally}; goodput {goodput:.0%}")
        print(f"{more:.0f} MB more, live in {seen['live_s']:.2f} s; one second later answers in {later:.2f} s")
        assert tally.other == []
        assert tally.without_retry_after == 0
        assert len(after.right) == 20
        assert more < 100
        if not left or (goodput >= 0.8 and p99(tally.refused) < 0.25 and seen["live_s"] < 1 and later < 0.5):
            break
    assert goodput >= 0.8
    assert p99(tally.refused) < 0.25
    assert seen["live_s"] < 1
    assert later < 0.5
    until(lambda: slow.metric("rowcast_rows_in_flight") == 0)
    until(lambda: counted(slow) == client, what=f"the server counts {client}, not {counted(slow)}")


def burst(port, connections):
    """The tally of so many connections at once, a request each; what is refused took so long since it was sent.

    One loop over the kernel's own queue, since two thousand tasks would take the core that the server is to have.
    """
    tally, began, left = Tally(), time.monotonic(), connections
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as ready:
        for x in range(connections):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", port))
            ready.register(client, selectors.EVENT_WRITE, x)
        sent = {}
        while left:
            some = ready.select(60)
            assert some, f"{left} requests hang"
            for key, event in some:
                if event == selectors.EVENT_WRITE:
                    body = json.dumps({"instances": [[key.data]]}).encode()
                    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
                    sent[key.data] = time.monotonic()
                    key.fileobj.send(head.encode() + body)
                    ready.modify(key.fileobj, selectors.EVENT_READ, key.data)
                else:
                    note(tally, key.data, key.fileobj, time.monotonic() - sent[key.data])
                    ready.unregister(key.fileobj)
                    left -= 1
    tally.seconds = time.monotonic() - began
    return tally


def note(tally, x, client, seconds):
    """Note in a tally what became of a request; an answer comes in one piece."""
    try:
        head, _, raw = client.recv(65536).partition(b"\r\n\r\n")
    except OSError as error:
        tally.other.append(type(error).__name__)
        return
    if head.startswith(b"HTTP/1.1 200 ") and json.loads(raw)["predictions"] == [2.0 * x + 1]:
        tally.right.append(seconds)
    elif head.startswith(b"HTTP/1.1 503 "):
        tally.refused.append(seconds)
        tally.without_retry_after += b"retry-after: " not in head
    else:
        tally.other.append(f"{head} {raw}"[:200])


@pytest.mark.parametrize("costs", ["nothing", "milliseconds a row"])
def test_a_burst_of_two_thousand_connections_hangs_nobody(start, tmp_path, costs):
    """Where rows cost nothing most are answered, where they cost something the others are told at once.

    The first burst meets a server that nobody has asked anything.
    """
    if costs == "nothing":
        server, least, longest_s = start(), 1600, 10.0
    else:
        tiny.publish(tmp_path / "slow", "line", hostile.costly())
        server, least, longest_s = start(tmp_path / "slow"), 20, 0.25
    before = memory_mb(server)
    for number in range(5):  # the best of them, as above
        with probed(server) as seen:
            tally = burst(server.port, 2000)
        print(f"\nburst {number}: {tally} in {tally.seconds:.2f} s; {seen['mb'] - before:.0f} MB more")
        assert tally.other == []
        assert len(tally.right) + len(tally.refused) == 2000
        assert tally.without_retry_after == 0
        assert seen["mb"] - before < 100
        if len(tally.right) >= least and p99(tally.refused) < longest_s and seen["live_s"] < 1:
            break
    assert len(tally.right) >= least
    assert p99(tally.refused) < longest_s
    assert seen["live_s"] < 1
    time.sleep(1)
    began = time.monotonic()
    assert server.answers()
    assert time.monotonic() - began < 0.5
