"""What the ledger costs a request: two servers, one with and one without, asked in turn.

    python benchmarks/ledger.py [--rounds 20] [--tokens 64] [--with-lock]

With ``--with-lock`` the server without a ledger has no lock either: what both cost together.
How they are compared is in ``on_off.py``. On a noisy machine the rates say little: beside them
stands the processor time that counter and keeper took for a request, which noise touches less, and
what the disk takes for one durable commit.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from pathlib import Path

import psutil
from on_off import AT_ONCE, MODEL, SHORT, TOKENS, Server, compare, middle, serving


def cpu_seconds(server: Server) -> float:
    """Processor time of all its processes but the engine's, since their start."""
    counter = psutil.Process(server.pid)
    found = 0.0
    for process in (counter, *counter.children(recursive=True)):
        if "freehold.engine" not in process.cmdline():
            times = process.cpu_times()
            found += times.user + times.system
    return found


def disk(folder: Path) -> list[float]:
    """Milliseconds for each of 200 appends of 8 kB made durable."""
    seconds = []
    with (folder / "disk").open("wb", buffering=0) as file:
        for _ in range(200):
            file.write(bytes(8192))
            start = time.perf_counter()
            os.fsync(file.fileno())
            seconds.append(1000 * (time.perf_counter() - start))
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=TOKENS, help="of the answers that are timed")
    parser.add_argument("--with-lock", action="store_true", help="compare with neither")
    options = parser.parse_args()
    rounds: int = options.rounds
    bare = ("--no-lock",) if options.with_lock else ()
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".ledger-") as name:
        folder = Path(name)
        with (
            serving(folder, "--ledger", str(folder / "ledger.sqlite")) as on,
            serving(folder, "--ledger", "off", *bare) as off,
        ):
            servers = {"on": on, "off": off}
            began: dict[str, float] = {}

            def warm() -> None:
                began.update({which: cpu_seconds(one) for which, one in servers.items()})

            seen = asyncio.run(compare(servers, rounds, warm, tokens=options.tokens))
            requests = rounds * (SHORT + 1 + AT_ONCE)
            cpu = {w: 1000 * (cpu_seconds(servers[w]) - began[w]) / requests for w in servers}
            fsync = disk(folder)
    what = "the ledger and the lock" if bare else "the ledger"
    print(f"{what}: {rounds} rounds, {options.tokens} tokens an answer, {MODEL}")
    seen.report()
    print(
        f"processor time of counter and keeper, ms a request: without {cpu['off']:.2f}, "
        f"with {cpu['on']:.2f}"
    )
    print("one durable append here, ms:", middle(fsync))


if __name__ == "__main__":
    main()
