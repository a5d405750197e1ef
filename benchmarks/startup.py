"""How long `freehold --help` takes, and how long until a server answers its first question.

    python benchmarks/startup.py [--rounds 20] [--server]

Whole processes, timed from outside; medians. ``--server`` starts `freehold serve` with the default
model, which must be in the vault.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

FREEHOLD = [sys.executable, "-m", "freehold.cli"]


def help_seconds() -> float:
    start = time.perf_counter()
    subprocess.run([*FREEHOLD, "--help"], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def server_seconds() -> float:
    """From the command to the line that says it answers."""
    start = time.perf_counter()
    with subprocess.Popen(
        [*FREEHOLD, "serve", "--port", "0"], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "answers at" in line:
                break
        seconds = time.perf_counter() - start
        process.terminate()
    if process.returncode:
        raise RuntimeError("the server did not come up: run `freehold serve` to see why")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--server", action="store_true")
    options = parser.parse_args()
    name, measure = ("serve", server_seconds) if options.server else ("--help", help_seconds)
    seen = [measure() for _ in range(options.rounds)]
    print(
        f"freehold {name}: median {statistics.median(seen):.3f} s of {len(seen)} runs "
        f"({min(seen):.3f} to {max(seen):.3f})"
    )


if __name__ == "__main__":
    main()
