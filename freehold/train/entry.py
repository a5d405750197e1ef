"""How a locked process begins that reads strangers' data and holds no key: the foundry's, and the
workshop's (``adapt``). The lock comes before everything that starts a thread, numpy and torch among
it: hence the late imports.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from freehold.errors import FreeholdError, ProcessError, UsageError


def main(arguments: Sequence[str], *, room: str, called: str) -> int:
    """Let ``freehold.ROOM.job`` work on the socket whose descriptor is the first argument, locked
    as the second says; the exit status. ``called`` is the process's name in errors."""
    if len(arguments) not in (1, 2) or not arguments[0].isdecimal():
        sys.stderr.write(f"freehold.{room} is started by freehold itself: run `freehold {room}`\n")
        return UsageError.exit_code
    fd = int(arguments[0])
    if len(arguments) == 2:
        from freehold.residency.lock import Order, close_strangers, lock

        order = Order.loads(arguments[1])
        close_strangers({fd, *order.descriptors})
        try:
            lock(order)
        except (OSError, FreeholdError) as error:
            sys.stderr.write(f"freehold: {called} could not be locked: {error}\n")
            return ProcessError.exit_code
    return int(import_module(f"freehold.{room}.job").serve(fd))
