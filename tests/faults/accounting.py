"""A client that asks at a steady rate, checks every answer against the right number, and keeps the books."""

import http.client
import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Self

from tests.server.conftest import until

CLIENTS = 20


@dataclass
class Books:
    """What became of every request.

    Attributes:
        sent: how many.
        right: those with the right number, by model version.
        refused: those with an error of the server, by its code.
        broken: those whose connection was refused, reset or closed before an answer, by what happened.
        wrong: answers with any other number.
        seconds: how long each answer took.
    """

    sent: int = 0
    right: Counter = field(default_factory=Counter)
    refused: Counter = field(default_factory=Counter)
    broken: Counter = field(default_factory=Counter)
    wrong: list[Any] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @property
    def answered(self) -> int:
        return sum(self.right.values())

    @property
    def failed(self) -> tuple[Any, ...]:
        """All that was not answered right; false where nothing was."""
        return tuple(kind for kind in (self.refused, self.broken, self.wrong) if kind)

    def p(self, share: float) -> float:
        """How long so large a share of the answers took at most."""
        return sorted(self.seconds)[min(len(self.seconds) - 1, int(share * len(self.seconds)))]

    def __str__(self) -> str:
        times = f"p50 {1e3 * self.p(0.5):.1f} ms, p99 {1e3 * self.p(0.99):.0f} ms, longest {max(self.seconds):.2f} s"
        errors = f"refused {dict(self.refused)}, broken {dict(self.broken)}, wrong {len(self.wrong)}"
        return f"{self.sent} sent, {self.answered} right, {errors}; {times}"


class Load:
    """Requests for `line` at a steady rate while the context lasts; `books` are right once it is over.

    `shift` says what a version adds to 2x + 1; `fresh`: every request comes over a new connection.
    """

    def __init__(self, server, rate=200.0, shift=lambda _: 0, *, fresh=False) -> None:
        self.books = Books()
        self._server, self._shift, self._fresh = server, shift, fresh
        self._every_s = CLIENTS / rate
        self._stop = threading.Event()
        self._writing = threading.Lock()
        self._threads = [threading.Thread(target=self._ask_on, args=[number]) for number in range(CLIENTS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        assert self.books.sent == self.books.answered + len(self.books.wrong) + sum(
            (self.books.refused + self.books.broken).values()
        )

    def goes_on(self, version="1", count=50) -> None:
        """Wait for so many more right answers of a version."""
        enough = self.books.right[version] + count
        until(lambda: self.books.right[version] >= enough, what=f"answers of version {version} under load")

    def check_counts(self, more=0) -> None:
        """Wait until the server counts as many right answers as were heard here, and so many more."""
        heard = self.books.answered + more
        name, what = "rowcast_requests_total", "the server counts as the client does"
        until(lambda: self._server.metric(name, code="ok") == heard, what=what)

    def _ask_on(self, number: int) -> None:
        connection = self._connection()
        due = time.monotonic() + self._every_s * number / CLIENTS
        x = number
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            due = max(due + self._every_s, time.monotonic() - 1.0)
            x = (x + CLIENTS) % 100_000
            if self._fresh or not self._ask(connection, x):
                connection.close()
                connection = self._connection()
                if self._fresh:
                    self._ask(connection, x)
        connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=60)

    def _ask(self, connection: http.client.HTTPConnection, x: int) -> bool:
        """Whether the connection is good for another request."""
        began = time.monotonic()
        try:
            connection.request("POST", "/v1/models/line:predict", json.dumps({"instances": [[x]]}))
            answer = json.loads(connection.getresponse().read())
        except (OSError, http.client.HTTPException) as error:
            with self._writing:
                self.books.sent += 1
                self.books.broken[_what_broke(error)] += 1
            return False
        with self._writing:
            self.books.sent += 1
            self.books.seconds.append(time.monotonic() - began)
            if "error" in answer:
                self.books.refused[answer["code"]] += 1
            elif answer["predictions"] == [2.0 * x + 1 + self._shift(int(answer["model_version"]))]:
                self.books.right[answer["model_version"]] += 1
            else:
                self.books.wrong.append((x, answer))
        return True


def _what_broke(error: Exception) -> str:
    """A connection that was reset is said to be a broken pipe to who sends twice before he looks."""
    return "ConnectionResetError" if isinstance(error, BrokenPipeError) else type(error).__name__
