"""``python -m freehold.train FD [ORDER]``: started by ``freehold train`` and ``freehold data``,
with its end of the pair.

It reads strangers' data and holds no key. The lock comes before everything that starts a thread,
numpy and torch among it: hence the late imports.
"""

from __future__ import annotations

import sys

from freehold.errors import FreeholdError, ProcessError, UsageError


def main(arguments: list[str]) -> int:
    """Work on the socket whose descriptor is the first argument, locked as the second says."""
    if len(arguments) not in (1, 2) or not arguments[0].isdecimal():
        sys.stderr.write("freehold.train is started by freehold itself: run `freehold train`\n")
        return UsageError.exit_code
    fd = int(arguments[0])
    if len(arguments) == 2:
        from freehold.residency.lock import Order, close_strangers, lock

        order = Order.loads(arguments[1])
        close_strangers({fd, *order.descriptors})
        try:
            lock(order)
        except (OSError, FreeholdError) as error:
            sys.stderr.write(f"freehold: the foundry could not be locked: {error}\n")
            return ProcessError.exit_code
    from freehold.train.job import serve

    return serve(fd)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
