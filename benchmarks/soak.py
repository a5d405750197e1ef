"""A server under many clients for a while: errors, leaks, time to the first token, the ledger.

    python benchmarks/soak.py [--minutes 10] [--clients 200] [--model NAME] [--json]

``freehold serve`` runs as users start it, on the store's models but with keys and a ledger of its
own. ``crowd.py`` says what the clients do. First comes what warms up and is not counted: a tenth of
the time, at most a minute, and long prompts until every page of the cache was written once. Then
the server is looked at while idle, and again when the clients are gone. It fails (status 1) by
anything but 200 and 429, a 429 without Retry-After, an answer that is not in the ledger or not
sealed there, pages of the cache that nobody gave back, descriptors or threads left over, or memory
that grew by more than 32 MB after half of the time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
from crowd import Address, Seen, crowd
from startup import FREEHOLD, fresh_home

from freehold.store import DEFAULT_MODEL

GROWTH = 32 << 20
"""Bytes that a process may grow in the second half of the time: allocators round."""

IDLE_SECONDS = 30.0
FILLING = 500
"""Prompts of 1,500 tokens that may be needed to write every page of the cache."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """One process at one moment; ``memory`` is resident bytes."""

    role: str
    memory: int
    descriptors: int
    threads: int


@contextmanager
def serving(model: str, environment: dict[str, str], folder: Path) -> Iterator[tuple[int, str]]:
    """``freehold serve``: its process and address. What it says goes to a file, which is shown if
    it does not come up."""
    said = folder / "said"
    command = [*FREEHOLD, "serve", model, "--port", "0", "--ledger", str(folder / "ledger.sqlite")]
    with said.open("wb") as out:
        process = subprocess.Popen(command, stderr=out, env=environment)
    try:
        until = time.monotonic() + 300
        while (found := re.search(r"answers at (\S+)", said.read_text())) is None:
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"the server did not come up:\n{said.read_text()}")
            time.sleep(0.1)
        yield process.pid, found[1]
    finally:
        process.terminate()
        process.wait(120)


async def fill(address: Address) -> list[int]:
    """Ask until the cache has no page that was never written: later growth is none of its. Gives
    the entries of the ledger."""
    entries: list[int] = []
    head = {"Authorization": f"Bearer {address.keys[0]}"}
    async with httpx.AsyncClient(base_url=address.url, headers=head, timeout=900) as http:
        while metrics(address)["kv_pages_free"] > 0:
            number = len(entries)
            if number == FILLING:
                raise SystemExit(f"after {FILLING} long prompts the cache still has free pages")
            body = {
                "model": address.model,
                "max_tokens": 1,
                "prompt": f"{number}. " + "sea " * 1500,
            }
            reply = await http.post("/v1/completions", json=body)
            reply.raise_for_status()
            entries.append(int(reply.headers["x-freehold-entry"]))
    return entries


def freehold(environment: dict[str, str], *words: str) -> Any:
    done = subprocess.run(
        [*FREEHOLD, *words, "--json"], stdout=subprocess.PIPE, env=environment, check=True
    )
    return json.loads(done.stdout)


def look(pid: int) -> dict[int, Look]:
    """Every process of the server."""
    top = psutil.Process(pid)
    return {
        one.pid: Look(
            role=_role(one),
            memory=one.memory_info().rss,
            descriptors=one.num_fds(),
            threads=one.num_threads(),
        )
        for one in (top, *top.children(recursive=True))
    }


def _role(process: psutil.Process) -> str:
    words = process.cmdline()
    if "-c" in words:
        return "watch"
    module = words[words.index("-m") + 1] if "-m" in words else process.name()
    return module.removeprefix("freehold.").replace("cli", "counter")


def metrics(address: Address) -> dict[str, float]:
    """Every figure without labels but the model's, by its name; of pages, ``kv_pages_STATE``."""
    head = {"Authorization": f"Bearer {address.keys[0]}"}
    page = httpx.get(f"{address.url}/metrics", headers=head, timeout=60).text
    found = {}
    for line in page.splitlines():
        if line[:1] != "#":
            name, number = line.rsplit(" ", 1)
            state = re.search(r'freehold_kv_pages{.*state="(\w+)"', name)
            short = name.partition("{")[0].removeprefix("freehold_")
            found[f"{short}_{state[1]}" if state else short] = float(number)
    return found


def idle(pid: int, address: Address) -> tuple[dict[int, Look], list[str]]:
    """The server once nothing runs in it, and what is still held when it should not be."""
    until = time.monotonic() + IDLE_SECONDS
    while True:
        found = metrics(address)
        held = {
            "requests running": found["requests_running"],
            "requests waiting": found["requests_waiting"],
            "requests inside": found["requests_inside"],
            "pages of the cache not given back": found["kv_pages_held"],
        }
        left = [f"{n:.0f} {what}" for what, n in held.items() if n]
        if not left or time.monotonic() > until:
            return look(pid), left
        time.sleep(0.2)


async def load(address: Address, pid: int, options: argparse.Namespace) -> dict[str, Any]:
    """The crowd, and the server watched meanwhile."""
    seconds = 60 * options.minutes
    warm = await crowd(address, options.clients, min(60, seconds / 10), seed=1)
    warm.entries += await fill(address)
    before, left = idle(pid, address)
    counted, start = metrics(address)["generated_tokens_total"], time.monotonic()
    work = asyncio.create_task(crowd(address, options.clients, seconds))
    half: dict[int, Look] = {}
    for tenth in range(10):
        await asyncio.wait([work], timeout=seconds / 10)
        if tenth == 4:
            half = look(pid)
        memory = sum(one.memory for one in look(pid).values())
        print(f"{(tenth + 1) * 10} %, {memory / 1e6:.0f} MB", file=sys.stderr)
    seen = await work
    took = time.monotonic() - start
    tokens = metrics(address)["generated_tokens_total"] - counted
    after, later = idle(pid, address)
    leaks = [*left, *later, *_leaks(before, half, after)]
    return {
        "seen": seen,
        "entries": [*warm.entries, *seen.entries],
        "wrong": warm.wrong + seen.wrong,
        "leaks": leaks,
        "seconds": took,
        "tokens_per_second": tokens / took,
        "before": [asdict(one) for one in before.values()],
        "half": [asdict(one) for one in half.values()],
        "after": [asdict(one) for one in after.values()],
    }


def _leaks(before: dict[int, Look], half: dict[int, Look], after: dict[int, Look]) -> list[str]:
    if before.keys() != after.keys():
        return [f"processes changed: {[*before]} became {[*after]}"]
    found = []
    for pid, then in before.items():
        now = after[pid]
        found += [
            f"{getattr(now, what) - getattr(then, what)} more {what} in {now.role}"
            for what in ("descriptors", "threads")
            if getattr(now, what) > getattr(then, what)
        ]
        if now.memory - half[pid].memory > GROWTH:
            found.append(f"{(now.memory - half[pid].memory) / 1e6:.0f} MB more in {now.role}")
    return found


def recorded(environment: dict[str, str], ledger: Path, entries: list[int]) -> list[str]:
    """What the ledger lacks of the answers that were given."""
    found = freehold(environment, "ledger", "verify", "--ledger", str(ledger))
    problems = [f"ledger: {one}" for one in found["findings"]]
    if len(set(entries)) != len(entries):
        problems.append("two answers were given one entry")
    if found["entries"] != len(entries):
        problems.append(f"{len(entries)} answers, but {found['entries']} entries in the ledger")
    if found["open"]:
        problems.append(f"{len(found['open'])} entries were never sealed")
    return problems


def quantiles(seen: Seen) -> dict[str, tuple[int, float, float]]:
    """How many, and the 50th and 99th percentile of seconds to the first piece, by kind."""
    kinds = {**seen.first, "all": [one for many in seen.first.values() for one in many]}
    return {
        kind: (len(many), statistics.median(many), statistics.quantiles(many, n=100)[98])
        for kind, many in kinds.items()
        if len(many) > 1
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    with fresh_home() as environment, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment["FREEHOLD_KEYS"] = str(folder / "keys")
        few = ("--requests-per-minute", "6")
        keys = [
            freehold(environment, "keys", "add", *words)["secret"]
            for words in (("many",), ("few", *few))
        ]
        with serving(options.model, environment, folder) as (pid, url):
            address = Address(url=url, model=options.model, keys=keys)
            found = asyncio.run(load(address, pid, options))
        lacks = recorded(environment, folder / "ledger.sqlite", found["entries"])
    wrong = [f"{n} x {what}" for what, n in found["wrong"].items()]
    problems = [*wrong, *found["leaks"], *lacks]
    report(options, found, problems)
    raise SystemExit(1 if problems else 0)


def report(options: argparse.Namespace, found: dict[str, Any], problems: list[str]) -> None:
    seen: Seen = found["seen"]
    first = quantiles(seen)
    if options.json:
        figures = {key: found[key] for key in ("seconds", "tokens_per_second", "before", "after")}
        figures |= {"clients": options.clients, "first": first, "refused": seen.refused}
        figures |= {"answers": dict(seen.done), "problems": problems}
        print(json.dumps(figures, indent=2))
        return
    print(
        f"{options.model}, {options.clients} clients for {options.minutes:g} minutes: "
        f"{sum(seen.done.values())} answers in {found['seconds']:.0f} s, {seen.refused} refused "
        f"with 429, {found['tokens_per_second']:.1f} tokens/s"
    )
    for kind, (count, half, most) in first.items():
        print(f"  first token, {kind}: p50 {half:.2f} s, p99 {most:.2f} s of {count}")
    for then, middle, now in zip(found["before"], found["half"], found["after"], strict=True):
        memory = ", ".join(f"{one['memory'] / 1e6:.0f}" for one in (then, middle, now))
        print(
            f"  {now['role']}: {memory} MB (before, at half, after); descriptors "
            f"{then['descriptors']}, {now['descriptors']}; threads {then['threads']}, "
            f"{now['threads']}"
        )
    print("\n".join(problems) if problems else "no error but 429, no leak, every answer recorded")


if __name__ == "__main__":
    main()
