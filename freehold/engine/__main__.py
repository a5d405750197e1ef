"""``python -m freehold.engine FD``: started by ``EngineProcess``, with its end of the pair."""

from __future__ import annotations

import sys

from freehold.engine.worker import run
from freehold.errors import UsageError


def main(arguments: list[str]) -> int:
    """Run the engine on the socket whose descriptor is the one argument."""
    if len(arguments) != 1 or not arguments[0].isdecimal():
        sys.stderr.write("freehold.engine is started by freehold itself: run `freehold serve`\n")
        return UsageError.exit_code
    return run(int(arguments[0]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
