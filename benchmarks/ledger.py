"""What the ledger costs a request: two servers, one with and one without, asked in turn.

    python benchmarks/ledger.py [--rounds N]

Each round asks both servers the same: one stream alone (time to the first token, tokens per second)
and eight at once (tokens per second over all). Which goes first alternates. The difference is taken
round by round, so that what the machine does meanwhile hits both alike; the median is printed with
the middle half. On a noisy machine the rates say little: beside them stands the processor time that
counter and keeper took for a request, which noise touches less, and what the disk takes for one
durable commit.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

MODEL = "qwen2.5-coder-0.5b-instruct"
TOKENS = 64
AT_ONCE = 8
# Guessing ahead makes speed hang on the text; without it the difference is easier to see.
FIXED = ("--speculate", "off")


@dataclass(frozen=True)
class Server:
    """One running server."""

    url: str
    key: str
    pid: int

    def cpu_seconds(self) -> float:
        """Processor time of all its processes but the engine's, since their start."""
        counter = psutil.Process(self.pid)
        found = 0.0
        for process in (counter, *counter.children(recursive=True)):
            if "freehold.engine" not in process.cmdline():
                times = process.cpu_times()
                found += times.user + times.system
        return found


@contextlib.contextmanager
def serving(folder: Path, *options: str) -> Iterator[Server]:
    """``freehold serve`` with ``options``, stopped at the end."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "freehold.cli",
            "serve",
            "--port",
            "0",
            "--temporary-key",
            *FIXED,
            *options,
        ],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "FREEHOLD_KEYS": str(folder / "keys")},
    )
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if line.startswith("curl "):
            break
    else:
        raise SystemExit(said)
    url = re.search(r"answers at (\S+)", said)
    key = re.search(r"until this server stops: (\S+)", said)
    assert url is not None
    assert key is not None
    try:
        yield Server(url.group(1), key.group(1), process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.stderr.close()
        process.wait(60)


async def stream(client: httpx.AsyncClient, server: Server, prompt: str) -> tuple[float, float]:
    """One answer of ``TOKENS`` tokens: seconds to its first token and to its end."""
    start = time.perf_counter()
    first = 0.0
    body = {
        "model": MODEL,
        "prompt": prompt,
        "max_tokens": TOKENS,
        "temperature": 0,
        "stream": True,
        # The end of text is not to be chosen: every answer is of the same length.
        "logit_bias": {"151643": -100, "151645": -100},
    }
    head = {"Authorization": f"Bearer {server.key}"}
    url = f"{server.url}/v1/completions"
    async with client.stream("POST", url, json=body, headers=head) as reply:
        async for line in reply.aiter_lines():
            if not first and line.startswith("data: {") and json.loads(line[6:])["choices"]:
                first = time.perf_counter() - start
    return first, time.perf_counter() - start


async def measure(server: Server, turn: int) -> dict[str, float]:
    """One round on one server."""
    async with httpx.AsyncClient(timeout=300) as client:
        await client.get(f"{server.url}/health")
        first, whole = await stream(client, server, f"Round {turn}. " + "The lake was still. " * 8)
        start = time.perf_counter()
        await asyncio.gather(
            *(stream(client, server, f"{turn}.{i}: a story of a bear. ") for i in range(AT_ONCE))
        )
        crowd = time.perf_counter() - start
    return {
        "first_ms": 1000 * first,
        "alone": (TOKENS - 1) / (whole - first),
        "crowd": AT_ONCE * TOKENS / crowd,
    }


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


def middle(values: list[float]) -> str:
    low, mid, high = statistics.quantiles(values, n=4)
    return f"{mid:8.2f}   (middle half {low:.2f} to {high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    rounds: int = parser.parse_args().rounds
    seen: dict[str, list[dict[str, float]]] = {"on": [], "off": []}
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".ledger-") as name:
        folder = Path(name)
        with (
            serving(folder, "--ledger", str(folder / "ledger.sqlite")) as on,
            serving(folder, "--ledger", "off") as off,
        ):
            servers = {"on": on, "off": off}
            began = dict.fromkeys(servers, 0.0)
            for turn in range(-1, rounds):
                order = ("on", "off") if turn % 2 else ("off", "on")
                for which in order:
                    found = asyncio.run(measure(servers[which], turn))
                    if turn >= 0:  # the first round warms up
                        seen[which].append(found)
                    else:
                        began[which] = servers[which].cpu_seconds()
            requests = rounds * (1 + AT_ONCE)
            cpu = {w: 1000 * (servers[w].cpu_seconds() - began[w]) / requests for w in servers}
            fsync = disk(folder)
    print(f"{rounds} rounds, {TOKENS} tokens an answer, {MODEL}")
    for what, unit in (
        ("first_ms", "time to first token, ms"),
        ("alone", "one stream, tokens/s"),
        ("crowd", f"{AT_ONCE} streams, tokens/s"),
    ):
        on_, off_ = ([one[what] for one in seen[which]] for which in ("on", "off"))
        print(f"{unit}: without {statistics.median(off_):.2f}, with {statistics.median(on_):.2f}")
        if what == "first_ms":
            print("  more, ms    ", middle([a - b for a, b in zip(on_, off_, strict=True)]))
        else:
            share = [100 * (1 - a / b) for a, b in zip(on_, off_, strict=True)]
            print("  fewer, %    ", middle(share))
    print(
        f"processor time of counter and keeper, ms a request: without {cpu['off']:.2f}, "
        f"with {cpu['on']:.2f}"
    )
    print("one durable append here, ms:", middle(fsync))


if __name__ == "__main__":
    main()
