"""`python -m training`: the commands of `training/command.py`, started and ended without a search for garbage."""

import gc
import os
import signal
import sys

from training import aside
from training.collector import uncollected

_interrupted = signal.getsignal(signal.SIGINT)
if __name__ == "__main__" and _interrupted is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends what has only been imported, without a traceback

# before torch is imported: threads that wait for the next product in a loop burn up to as much as all else costs
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if __name__ == "__main__":
    aside.begin()
with uncollected():
    # first: it looks through all modules that are there, several times; 0.25 s less than after the others
    import torch

    from training.command import main
    from training.fitting.processes import cores

torch.set_num_threads(min(torch.get_num_threads(), cores()))  # of a machine's cores a container may have a part
if __name__ == "__main__":
    signal.signal(signal.SIGINT, _interrupted)
    gc.freeze()  # what is imported is not looked through again
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    aside.end()
    os._exit(status)  # an interpreter that ends takes a million objects apart one by one, a tenth of a second here
