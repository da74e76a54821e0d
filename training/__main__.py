"""`python -m training`: the commands of `training/command.py`, started and ended without a search for garbage."""

import gc
import sys

from training.collector import uncollected

with uncollected():
    from training.command import main

if __name__ == "__main__":
    gc.freeze()  # what is imported is not looked through again
    status = main()
    gc.freeze()  # and an interpreter that ends looks through everything once more: a second of CPU time here
    sys.exit(status)
