"""``python -m freehold.engine.remote FD [ORDER]``: started in the engine's place, with its end of
the pair.

Files are shut before anything else. The event loop makes its own pair of sockets, so it is made
before the calls are shut; no thread runs until then.
"""

from __future__ import annotations

import signal
import socket
import sys

from freehold.errors import EngineError, FreeholdError, UsageError


def main(arguments: list[str]) -> int:
    """Stand between the counter, on the socket whose descriptor is the first argument, and another
    server; locked as the second says."""
    if len(arguments) not in (1, 2) or not arguments[0].isdecimal():
        sys.stderr.write("freehold.engine.remote is started by freehold: run `freehold serve`\n")
        return UsageError.exit_code
    import asyncio
    import os

    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    fd = int(arguments[0])
    for ignored in (signal.SIGINT, signal.SIGTERM):  # for the counter, which lets answers finish
        signal.signal(ignored, signal.SIG_IGN)
    if len(arguments) == 2:
        from freehold.residency.lock import Order, close_strangers, shut_calls, shut_files

        order = Order.loads(arguments[1])
        close_strangers({fd, *order.descriptors})
        try:
            files = shut_files(order)
            loop = asyncio.new_event_loop()
            shut_calls(order, files)
        except (OSError, FreeholdError) as error:
            sys.stderr.write(f"freehold: the engine's stand-in could not be locked: {error}\n")
            return EngineError.exit_code
    else:
        loop = asyncio.new_event_loop()
    from freehold import pair
    from freehold.engine.remote.worker import Worker

    pair.outlive_nobody()

    async def work() -> int:
        return await Worker(socket.socket(fileno=fd)).run()

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(work())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
