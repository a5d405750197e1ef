"""What it costs to hold answers to a grammar: tokens per second with one and without, turn by turn.

    python benchmarks/structured.py [--model NAME] [--at-once 1 8] [--tokens 128] [--rounds 5]

The same prompts, the same number of tokens, one engine; guesses ahead are off, so that what a
grammar forces does not pay for what it costs. ``free`` allows every text, which is where most
tokens must be looked at; ``json`` is a list of objects without an end. Only ratios within one run
mean anything: each round runs all variants, and the median of the rounds' ratios is printed. The
time a grammar takes until its first token is printed beside: the first of all includes the trie
over the vocabulary, the second is compiled, the third is kept.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from contextlib import aclosing

from freehold.cli.places import pack_secret, root
from freehold.engine import EngineProcess, EngineSettings
from freehold.serve.structured import json_rule
from freehold.store import DEFAULT_MODEL
from freehold.types import Prefilled, Sampling, Token

ITEM = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}
GRAMMARS = {
    "free": "start: /(?s:.*)/",
    "json": f"start: {json_rule({'type': 'array', 'items': ITEM, 'minItems': 1000})}",
}
TEMPERATURES = (0.0, 0.8)


async def one(engine: EngineProcess, number: int, sampling: Sampling) -> float:
    """Seconds of decoding one answer of ``sampling.max_tokens`` tokens."""
    start, count = 0.0, 0
    ids = [(1000 + 37 * number + 11 * i) % 20_000 for i in range(20)]
    async with aclosing(engine.generate(ids, sampling)) as events:
        async for event in events:
            if isinstance(event, Prefilled):
                start = time.perf_counter()
            count += isinstance(event, Token)
    assert count == sampling.max_tokens, f"the answer ended after {count} tokens"
    return time.perf_counter() - start


async def speed(
    engine: EngineProcess, grammar: str | None, at_once: int, tokens: int, temperature: float
) -> float:
    """Tokens per second of ``at_once`` answers together."""
    settings = [
        Sampling(max_tokens=tokens, temperature=temperature, seed=i, grammar=grammar)
        for i in range(at_once)
    ]
    seconds = await asyncio.gather(*(one(engine, i, s) for i, s in enumerate(settings)))
    return at_once * tokens / max(seconds)


async def first_token(engine: EngineProcess, grammar: str) -> float:
    """Seconds until the first token of an answer."""
    start = time.perf_counter()
    sampling = Sampling(max_tokens=1, temperature=0, grammar=grammar)
    async with aclosing(engine.generate([100], sampling)) as events:
        async for event in events:
            if isinstance(event, Token):
                break
    return time.perf_counter() - start


async def main(arguments: argparse.Namespace) -> None:
    settings = EngineSettings(
        root=str(root()),
        secret=str(pack_secret()),
        model=arguments.model,
        backend="native",
        speculate="off",
    )
    async with await EngineProcess.start(settings) as engine:
        told = [f"start: {json_rule(ITEM)}", f"start: {json_rule({'anyOf': [ITEM]})}"]
        waits = [await first_token(engine, one) for one in (told[0], told[1], told[1])]
        plain = await first_token(engine, GRAMMARS["free"])
        print(f"{arguments.model}, {engine.card.isa}; first token after {plain * 1000:.0f} ms")
        for what, wait in zip(("the first grammar", "another", "one again"), waits, strict=True):
            print(f"  with {what}: {wait * 1000:.0f} ms")
        for at_once in arguments.at_once:
            for temperature in TEMPERATURES:
                ratios: dict[str, list[float]] = {name: [] for name in GRAMMARS}
                base: list[float] = []
                for _ in range(arguments.rounds):
                    asked = (at_once, arguments.tokens, temperature)
                    before = await speed(engine, None, *asked)
                    for name, grammar in GRAMMARS.items():
                        ratios[name].append(await speed(engine, grammar, *asked) / before)
                    base.append(before)
                line = "  ".join(
                    f"{name} {statistics.median(found):.3f} of it "
                    f"({min(found):.3f} to {max(found):.3f})"
                    for name, found in ratios.items()
                )
                tokens = statistics.median(base)
                print(f"{at_once} at once, temperature {temperature}: {tokens:.1f} tok/s; {line}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    asyncio.run(main(parser.parse_args()))
