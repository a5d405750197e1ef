"""Two servers of the default model, one with something and one without, asked in turn in one run.

Never both at once, and who is first changes each time, so that what the machine does meanwhile hits
both alike. What counts is the difference within each pair of neighbours: its median, with the range
that holds the true median in 95 of 100 cases. Three things are taken: the time to the first token
(many short requests), one stream's tokens per second, and eight streams' together.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx

MODEL = "qwen2.5-coder-0.5b-instruct"
TOKENS = 64
SHORT = 8
AT_ONCE = 8
# Guessing ahead makes speed hang on the text; without it the difference is easier to see.
COMMAND = ("-m", "freehold.cli", "serve", MODEL, "--port", "0", "--temporary-key")
FIXED = ("--speculate", "off")


@dataclass(frozen=True)
class Server:
    """One running server; ``seconds`` is how long it took to answer."""

    url: str
    key: str
    pid: int
    seconds: float


@contextlib.contextmanager
def serving(folder: Path, *options: str) -> Iterator[Server]:
    """``freehold serve`` with ``options``, its signing keys in ``folder``; stopped at the end."""
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *COMMAND, *FIXED, *options],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "FREEHOLD_KEYS": str(folder / "keys")},
    )
    assert process.stderr is not None
    said = ""
    try:
        for line in process.stderr:
            said += line
            if line.startswith("curl "):
                break
        seconds = time.perf_counter() - begun
        url = re.search(r"answers at (\S+)", said)
        key = re.search(r"until this server stops: (\S+)", said)
        if url is None or key is None:
            raise SystemExit(f"the server did not come up:\n{said}")
        yield Server(url.group(1), key.group(1), process.pid, seconds)
    finally:
        process.send_signal(signal.SIGTERM)
        process.stderr.close()
        process.wait(60)


@dataclass
class Seen:
    """What was measured: for each of the two, in the same order, a figure a turn."""

    first_ms: dict[str, list[float]] = field(default_factory=lambda: {"on": [], "off": []})
    alone: dict[str, list[float]] = field(default_factory=lambda: {"on": [], "off": []})
    crowd: dict[str, list[float]] = field(default_factory=lambda: {"on": [], "off": []})

    def report(self) -> None:
        """Print medians, and the differences within pairs."""
        print(f"time to first token, ms: {_medians(self.first_ms)}")
        print("  more, ms    ", middle(differences(self.first_ms)))
        for what, rates in (("one stream", self.alone), (f"{AT_ONCE} streams", self.crowd)):
            print(f"{what}, tokens/s: {_medians(rates)}")
            shares = [100 * (1 - a / b) for a, b in zip(rates["on"], rates["off"], strict=True)]
            print("  fewer, %    ", middle(shares))


def differences(values: Mapping[str, list[float]]) -> list[float]:
    return [a - b for a, b in zip(values["on"], values["off"], strict=True)]


def _medians(values: Mapping[str, list[float]]) -> str:
    on, off = (statistics.median(values[which]) for which in ("on", "off"))
    return f"without {off:.2f}, with {on:.2f}"


def middle(values: list[float]) -> str:
    """The median, and the range of the sorted values that holds the true one in 95 of 100 cases
    (by how often a fair coin falls so)."""
    found, n = sorted(values), len(values)
    reach = math.ceil(0.98 * math.sqrt(n))
    low, high = max(0, n // 2 - reach), min(n - 1, (n - 1) // 2 + reach)
    return (
        f"{statistics.median(found):8.2f}   (95 %: {found[low]:.2f} to {found[high]:.2f}, "
        f"{n} pairs)"
    )


async def compare(
    servers: Mapping[str, Server],
    rounds: int,
    warm: Callable[[], None] = lambda: None,
    *,
    tokens: int = TOKENS,
) -> Seen:
    """Measure round by round, after one that warms up; ``warm`` is called between. The answers
    whose rates count have so many ``tokens``."""
    seen = Seen()
    async with httpx.AsyncClient(timeout=600) as client:
        await _round(client, servers, -1, Seen(), tokens)
        warm()
        for turn in range(rounds):
            await _round(client, servers, turn, seen, tokens)
    return seen


async def _round(
    client: httpx.AsyncClient, servers: Mapping[str, Server], turn: int, seen: Seen, tokens: int
) -> None:
    lake = "The lake was still. " * 8
    for number in range(SHORT):
        for which in _order(turn + number):
            await client.get(f"{servers[which].url}/health")  # a connection that is open
            first, _ = await _stream(client, servers[which], f"{turn}.{number} {lake}", 1)
            seen.first_ms[which].append(1000 * first)
    for which in _order(turn):
        first, whole = await _stream(client, servers[which], f"Round {turn}. {lake}", tokens)
        seen.alone[which].append((tokens - 1) / (whole - first))
    for which in _order(turn + 1):
        asked = (f"{turn}.{i}: a story of a bear. " for i in range(AT_ONCE))
        start = time.perf_counter()
        await asyncio.gather(*(_stream(client, servers[which], text, tokens) for text in asked))
        seen.crowd[which].append(AT_ONCE * tokens / (time.perf_counter() - start))


def _order(turn: int) -> tuple[str, str]:
    return ("on", "off") if turn % 2 else ("off", "on")


async def _stream(
    client: httpx.AsyncClient, server: Server, prompt: str, tokens: int
) -> tuple[float, float]:
    """One answer of ``tokens`` tokens: seconds to its first token and to its end."""
    body = {
        "model": MODEL,
        "prompt": prompt,
        "max_tokens": tokens,
        "temperature": 0,
        "stream": True,
        # The end of text is not to be chosen: every answer is of the same length.
        "logit_bias": {"151643": -100, "151645": -100},
    }
    head = {"Authorization": f"Bearer {server.key}"}
    first, start = 0.0, time.perf_counter()
    async with client.stream(
        "POST", f"{server.url}/v1/completions", json=body, headers=head
    ) as reply:
        if reply.status_code != 200:
            raise SystemExit((await reply.aread()).decode())
        async for line in reply.aiter_lines():
            if not first and line.startswith("data: {") and json.loads(line[6:])["choices"]:
                first = time.perf_counter() - start
    return first, time.perf_counter() - start
