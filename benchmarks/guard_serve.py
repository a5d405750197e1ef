"""What the guard costs a server: the same requests with it on and off, by turns in one run.

    python benchmarks/guard_serve.py [rounds] [policy]

Three figures. Time to the first token, of answers of one token: what judging adds. Tokens per
second, one stream and eight. And where the policy holds answers back (``block``), how much later
the first words are *shown*: that is the holding back itself, not the judging, and it is the price
of showing nothing that was not judged.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import httpx
from on_off import MODEL, Server, compare, differences, middle, serving

SHOWN_TOKENS = 48
QUESTIONS = (
    "Describe a lake in the morning in a few sentences.",
    "Explain in a few sentences what a hash table is.",
    "Write a short note to thank a colleague for their help.",
)


async def shown(servers: Mapping[str, Server], rounds: int) -> dict[str, list[float]]:
    """Milliseconds to the first words that a chat's stream shows, by turns."""
    seen: dict[str, list[float]] = {"on": [], "off": []}
    async with httpx.AsyncClient(timeout=600) as client:
        for turn in range(-1, rounds):
            for question in QUESTIONS:
                for which in ("on", "off") if turn % 2 else ("off", "on"):
                    late = await _first_words(client, servers[which], f"{turn}: {question}")
                    if turn >= 0:
                        seen[which].append(1000 * late)
    return seen


async def _first_words(client: httpx.AsyncClient, server: Server, question: str) -> float:
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": SHOWN_TOKENS,
        "temperature": 0,
        "stream": True,
    }
    head = {"Authorization": f"Bearer {server.key}"}
    first, start = 0.0, time.perf_counter()
    url = f"{server.url}/v1/chat/completions"
    async with client.stream("POST", url, json=body, headers=head) as reply:
        async for line in reply.aiter_lines():
            if first or not line.startswith("data: {"):
                continue
            choices = json.loads(line[6:])["choices"]
            if choices and choices[0]["delta"].get("content"):
                first = time.perf_counter() - start
    return first


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    policy = sys.argv[2] if len(sys.argv) > 2 else "warn"
    with tempfile.TemporaryDirectory() as name:
        on, off = Path(name) / "on", Path(name) / "off"
        options = ("--guard", "on", "--guard-policy", policy, "--ledger", f"{name}/on.sqlite")
        others = ("--guard", "off", "--ledger", f"{name}/off.sqlite")
        with serving(on, *options) as with_guard, serving(off, *others) as without:
            servers = {"on": with_guard, "off": without}
            print(f"policy {policy}; start: {with_guard.seconds:.2f} s, {without.seconds:.2f} s")
            asyncio.run(compare(servers, rounds)).report()
            late = asyncio.run(shown(servers, max(1, rounds // 4)))
            medians = {which: statistics.median(values) for which, values in late.items()}
            print(f"first words shown, ms: without {medians['off']:.0f}, with {medians['on']:.0f}")
            print("  later, ms   ", middle(differences(late)))


if __name__ == "__main__":
    main()
