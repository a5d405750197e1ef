"""Imported by every interpreter of vLLM before anything else, by way of ``PYTHONPATH``.

It lets the watchman look at this process, without which its sockets are not opened, and in a drill
has attacks tried here. It shuts nothing: the lock was there before this process was.
"""

import ctypes
import os


def _let_watchman_look() -> None:
    watchman = int(os.environ.get("FREEHOLD_WATCHMAN", "0"))
    if watchman:
        # Only Yama knows the call; elsewhere it fails and nothing is amiss.
        ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(watchman), 0, 0, 0)


def _drill() -> None:
    line = os.environ.pop("FREEHOLD_DRILL", "")
    if line:
        import sys

        sys.path.append(os.environ["FREEHOLD_PACKAGE"])
        from freehold.residency.drill import serve

        serve(int(line), "vllm")


_let_watchman_look()
os.register_at_fork(after_in_child=_let_watchman_look)
_drill()
