"""Lines of the log wait for nobody who reads them."""

import errno
import fcntl
import os
import pty
import socket
import tty

import pytest

from service.observing.log_stream import LogStream
from tests.server.conftest import until

SIZE = 4096
LINE = b"x" * 99 + b"\n"


@pytest.fixture(params=["pipe", "socket", "terminal"])
def ends(request):
    """Where one reads, and where one writes until that is full."""
    if request.param == "pipe":
        reading, writing = os.pipe()
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, SIZE)
    elif request.param == "socket":
        reading, writing = (end.detach() for end in socket.socketpair())
    else:
        reading, writing = pty.openpty()
        tty.setraw(writing)
    os.set_blocking(reading, False)
    yield reading, writing
    for end in (reading, writing):
        os.close(end)


def read_all(reading):
    """What can be read now."""
    parts = []
    while True:
        try:
            parts.append(os.read(reading, 1_000_000))
        except BlockingIOError:
            return b"".join(parts)


def fill(stream):
    """Write lines until one is kept; how many there were."""
    lines = 0
    while stream._writer is None:
        stream.write_lines(b"%07d%b" % (lines, LINE[7:]))
        lines += 1
    return lines


def test_what_there_is_no_room_for_is_written_in_order_once_somebody_reads(ends):
    reading, writing = ends
    stream = LogStream(writing)
    lines = fill(stream)
    for number in range(lines, lines + 100):
        stream.write(f"{number:07d}{LINE[7:].decode()}")
    assert os.get_blocking(writing)  # which others have, too
    found = b""
    while found.count(b"\n") < lines + 100:
        found += read_all(reading)
    assert [int(line[:7]) for line in found.splitlines()] == list(range(lines + 100))
    until(lambda: stream._writer is None)
    stream.write("at once\n")
    assert read_all(reading) == b"at once\n"
    assert stream.lost == 0


def test_what_is_more_than_is_kept_is_lost_and_counted_and_told(ends, caplog):
    reading, writing = ends
    stream = LogStream(writing, most_kept=1000)
    fill(stream)
    for _ in range(50):
        stream.write_lines(LINE)
    lost = stream.lost
    assert 40 <= lost <= 50
    until(lambda: read_all(reading) is not None and stream._writer is None)
    until(lambda: caplog.messages == [f"{lost} lines of the log were lost, since nobody read it"])


def test_a_fork_writes_nothing_of_what_its_parent_keeps(ends):
    reading, writing = ends
    stream = LogStream(writing)
    lines = fill(stream)
    child = os.fork()
    if not child:
        os._exit(len(stream._kept))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    found = b""
    while found.count(b"\n") < lines:
        found += read_all(reading)
    stream.wait()
    assert (found + read_all(reading)).count(b"\n") == lines


def test_whoever_reads_no_more_costs_lines_and_nothing_else():
    reading, writing = os.pipe()
    stream = LogStream(writing)
    os.close(reading)
    stream.write("nobody\n")
    os.close(writing)
    assert stream.lost == 1


def test_a_descriptor_that_is_closed_costs_lines_and_nothing_else():
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        os.fstat(1000)
    stream = LogStream(1000)
    stream.write("nobody\n")
    assert stream.lost == 1
