"""What root may do beyond its files, given up.

Source: ``capabilities(7)``, ``capset(2)``, version 3.
"""

from __future__ import annotations

import ctypes
import struct

from freehold.residency.calls import call

_VERSION = 0x20080522
_KEPT = (1, 2, 10, 14, 23)
"""Files whatever their mode (1, 2: the vault may be another user's), ports below 1024 (10), locked
memory (14), priorities (23). Landlock and the filter of calls bound all of them."""


def drop() -> bool:
    """Give up every capability but ``_KEPT`` in this thread and those to come, for good.

    Returns whether there was one to give up. Raises ``OSError``.
    """
    header = struct.pack("=Ii", _VERSION, 0)
    held = ctypes.create_string_buffer(24)
    call("capget", header, held)
    words = list(struct.unpack("=6I", held.raw))  # effective, permitted, inheritable; low then high
    mask = sum(1 << bit for bit in _KEPT)
    less = [word & mask for word in words[:3]] + [0, 0, 0]
    less[2] = 0
    if less == words:
        return False
    call("capset", header, struct.pack("=6I", *less))
    return True
