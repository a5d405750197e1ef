"""``python -m freehold.engine FD [ORDER]``: started by ``EngineProcess``, with its end of the pair.

The lock comes before everything that starts a thread, numpy among it: hence the late import.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from freehold.errors import EngineError, FreeholdError, UsageError


def main(arguments: list[str]) -> int:
    """Run the engine on the socket whose descriptor is the first argument, locked as the second
    says."""
    if len(arguments) not in (1, 2) or not arguments[0].isdecimal():
        sys.stderr.write("freehold.engine is started by freehold itself: run `freehold serve`\n")
        return UsageError.exit_code
    fd = int(arguments[0])
    loaded: Callable[[], None] | None = None
    if len(arguments) == 2:
        from freehold.residency.lock import Order, close_strangers, lock

        order = Order.loads(arguments[1])
        close_strangers({fd, *order.descriptors})
        try:
            shut = lock(order)
        except (OSError, FreeholdError) as error:
            sys.stderr.write(f"freehold: the engine could not be locked: {error}\n")
            return EngineError.exit_code
        if shut.calls:
            from freehold.residency.seccomp import forgo_writing

            loaded = forgo_writing
    from freehold.engine.worker import run

    return run(fd, loaded)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
