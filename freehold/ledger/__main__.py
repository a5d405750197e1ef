"""``python -m freehold.ledger FD [ORDER]``: started by ``LedgerProcess``, with its end of the pair.

The lock comes before everything that starts a thread, hence the late imports.
"""

from __future__ import annotations

import select
import sys

from freehold.errors import FreeholdError, LedgerError, UsageError


def main(arguments: list[str]) -> int:
    """Run the keeper on the socket whose descriptor is the first argument, locked as the second
    says."""
    if len(arguments) not in (1, 2) or not arguments[0].isdecimal():
        sys.stderr.write("freehold.ledger is started by freehold itself: run `freehold serve`\n")
        return UsageError.exit_code
    fd, news = int(arguments[0]), None
    if len(arguments) == 2:
        from freehold.residency.lock import Order, close_strangers, lock

        order = Order.loads(arguments[1])
        news = order.news
        close_strangers({fd, *order.descriptors})
        try:
            lock(order)
        except (OSError, FreeholdError) as error:
            sys.stderr.write(f"freehold: the keeper could not be locked: {error}\n")
            return LedgerError.exit_code
    # Until it is told what to do, the engine and the counter have better use of the processors.
    select.select([fd], [], [])
    from freehold.ledger.keeper import run

    return run(fd, news)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
