"""What the guard costs a server: the same requests with it on and off, by turns in one run.

    python benchmarks/guard_serve.py [--rounds 20] [--tokens 64] [--policy warn] [--probe FILE]

With a probe, the guard is on in both, and one of them listens to the probe: what that alone costs.
Four figures. Time to the first token, of answers of one token: what judging adds. Tokens per
second, one stream and eight; where the policy holds answers back, of one stream only from its first
words on, so that its rate says nothing. The counter's processor time, which noise touches less. And
where the policy holds answers back (``block``), how much later
the first words are *shown*: that is the holding back itself, not the judging, and it is the price
of showing nothing that was not judged.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import httpx
from ledger import cpu_seconds
from on_off import (
    AT_ONCE,
    MODEL,
    SHORT,
    TOKENS,
    Server,
    compare,
    differences,
    middle,
    serving,
)

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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=TOKENS, help="of the answers that are timed")
    parser.add_argument("--policy", default="warn")
    parser.add_argument("--probe", help="a file that `freehold guard probe` wrote")
    options = parser.parse_args()
    rounds: int = options.rounds
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".guard-") as name:
        folder, both = Path(name), ("--ledger", "off")
        guarded = ("--guard", "on", "--guard-policy", options.policy)
        more, less = guarded, ("--guard", "off")
        if options.probe:
            more, less = (*guarded, "--guard-probe", options.probe), guarded
        with serving(folder, *both, *more) as on, serving(folder, *both, *less) as off:
            servers = {"on": on, "off": off}
            began: dict[str, float] = {}

            def warm() -> None:
                began.update({which: cpu_seconds(one) for which, one in servers.items()})

            seen = asyncio.run(compare(servers, rounds, warm, tokens=options.tokens))
            tokens = rounds * (SHORT + (1 + AT_ONCE) * options.tokens)
            cpu = {w: 1e6 * (cpu_seconds(servers[w]) - began[w]) / tokens for w in servers}
            late = asyncio.run(shown(servers, max(1, rounds // 4)))
    what = f"the probe {options.probe}" if options.probe else "the guard"
    print(f"{what}, policy {options.policy}: {rounds} rounds, {options.tokens} tokens, {MODEL}")
    print(f"start, s: without {off.seconds:.2f}, with {on.seconds:.2f}")
    seen.report()
    print(
        f"processor time of the counter, microseconds a token: without {cpu['off']:.0f}, "
        f"with {cpu['on']:.0f}"
    )
    medians = {which: statistics.median(values) for which, values in late.items()}
    print(f"first words shown, ms: without {medians['off']:.0f}, with {medians['on']:.0f}")
    print("  later, ms   ", middle(differences(late)))


if __name__ == "__main__":
    main()
