"""Work for processes that are to die of it, hang, or need too much; in a module of its own, as they import it."""

import os
import resource
import signal
import sys
import time

import numpy as np

from chestmap.errors import BadInput


def work(word: str) -> str:
    if word == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "hang":
        time.sleep(600)
    if word == "grow":
        return str(len(bytearray(2 << 30)))
    if word == "refuse":
        raise BadInput("refused")
    if word == "print":
        sys.stderr.write("a name")
        sys.stderr.flush()
    if word == "faults":
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(4):
            np.ones(1 << 18, np.float32)
        return str(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return word.upper()


def deadly(source, reading):
    """Decodes, but dies of one input."""
    if source.name == "020.png":
        os.kill(os.getpid(), signal.SIGKILL)
    from chestmap.prediction.decoding import decode

    return decode(source, reading)
