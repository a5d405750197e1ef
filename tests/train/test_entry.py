"""What a locked training process does before anything else."""

import ctypes
import subprocess
import sys

import pytest

_FAULTS = """
import resource, sys
import numpy as np
from freehold.train.entry import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()
np.ones(50_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    np.ones(50_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
def test_freed_memory_is_taken_again_and_not_asked_of_the_kernel():
    kept, given_back = (_faults(how) for how in ("kept", "given back"))
    assert kept < 100
    assert given_back > 500  # 5 times 400 MB: 1,000 huge pages, or 500,000 small ones


def _faults(how):
    done = subprocess.run(
        [sys.executable, "-c", _FAULTS, how], check=True, capture_output=True, text=True
    )
    return int(done.stdout)
