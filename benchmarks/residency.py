"""What the lock costs: time to the first token, tokens per second, and time until a server answers.

    python benchmarks/residency.py [--rounds 20] [--starts 10]

Two servers, one of them with --no-lock, each with a ledger of its own; how they are compared is in
``on_off.py``. Starts are timed from outside, in turn too.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from on_off import MODEL, TOKENS, Server, compare, differences, middle, serving

OPTIONS = {"on": (), "off": ("--no-lock",)}


@contextmanager
def started(folder: Path, which: str) -> Iterator[Server]:
    with serving(folder, "--ledger", str(folder / f"{which}.sqlite"), *OPTIONS[which]) as server:
        yield server


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--starts", type=int, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".residency-") as name:
        folder = Path(name)
        with ExitStack() as both:
            servers = {which: both.enter_context(started(folder, which)) for which in OPTIONS}
            seen = asyncio.run(compare(servers, options.rounds))
        print(f"the lock: {options.rounds} rounds, {TOKENS} tokens an answer, {MODEL}")
        seen.report()
        starts: dict[str, list[float]] = {which: [] for which in OPTIONS}
        for turn in range(options.starts):
            for which in ("on", "off") if turn % 2 else ("off", "on"):
                with started(folder, which) as server:
                    starts[which].append(server.seconds)
    if options.starts:
        on, off = (statistics.median(starts[which]) for which in ("on", "off"))
        print(f"until it answers, s: without {off:.3f}, with {on:.3f}")
        print("  more, s     ", middle(differences(starts)))


if __name__ == "__main__":
    main()
