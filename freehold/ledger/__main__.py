"""``python -m freehold.ledger FD``: started by ``LedgerProcess``, with its end of the pair."""

from __future__ import annotations

import sys

from freehold.errors import UsageError
from freehold.ledger.keeper import run


def main(arguments: list[str]) -> int:
    """Run the keeper on the socket whose descriptor is the one argument."""
    if len(arguments) != 1 or not arguments[0].isdecimal():
        sys.stderr.write("freehold.ledger is started by freehold itself: run `freehold serve`\n")
        return UsageError.exit_code
    return run(int(arguments[0]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
