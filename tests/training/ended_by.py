"""The trainer's command, ended by a signal as soon as it has said something, however fast or slow the machine is.

python -m tests.training.ended_by SIGNAL LINES WORD... sends itself the signal with so many lines of output.
"""

import io
import os
import signal
import sys

from training.command import main


class EndingOutput(io.TextIOBase):
    """Passes on what is written, and sends the signal with the last of so many lines."""

    def __init__(self, number: signal.Signals, lines: int) -> None:
        self._number, self._left = number, lines

    def write(self, text: str) -> int:
        sys.__stdout__.write(text)
        for _ in range(text.count("\n")):
            self._left -= 1
            if self._left == 0:
                sys.__stdout__.flush()
                os.kill(os.getpid(), self._number)
        return len(text)


if __name__ == "__main__":
    sys.stdout = EndingOutput(signal.Signals[sys.argv[1]], int(sys.argv[2]))
    sys.exit(main(sys.argv[3:]))
