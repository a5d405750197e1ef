"""``freehold bench``: how fast this machine answers, and how fast its memory would allow."""

from __future__ import annotations

import asyncio
import statistics
from typing import TYPE_CHECKING, Annotated

import typer

from freehold.cli import options
from freehold.cli.home import at_home
from freehold.cli.hosting import living, starting
from freehold.cli.output import Bar, emit, say, table
from freehold.cli.places import root
from freehold.cli.settings import Settings, read_settings

if TYPE_CHECKING:
    from freehold.cli.home import Home
    from freehold.engine.child import Child


def bench(
    model: options.ModelOrDefault = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; medians are printed.")] = 5,
    threads: options.Threads = None,
    backend: options.Backend = None,
    dtype: options.Dtype = None,
    no_lock: Annotated[bool, typer.Option("--no-lock", help="Leave every way out open.")] = False,
    json: options.Json = False,
) -> None:
    """Measure decode, prefill and 8 sequences at once, in tokens per second.

    Each round measures everything once, the memory-read limit too, so that a noisy machine
    disturbs all figures alike.
    """
    # Guessing ahead is off: it would measure how predictable the answers are.
    settings = read_settings(
        root(),
        model=model,
        threads=threads,
        backend=backend,
        dtype=dtype,
        speculate="off",
        residency="off" if no_lock else None,
    )
    with at_home(settings, "front") as home:
        home.shut_files()
        with starting(settings, home) as child:
            result = asyncio.run(_bench(settings, rounds, home, child, quiet=json))
    emit(
        result,
        [
            f"{result['model']}, {result['numerics']}, {result['threads']} threads, "
            f"medians of {rounds}",
            *table(("what", "figure"), ((key, str(value)) for key, value in _rows(result))),
        ],
        as_json=json,
    )


def _rows(result: dict[str, object]) -> list[tuple[str, object]]:
    return [
        (key.replace("_tokens_per_s", " (tokens/s)").replace("_", " "), value)
        for key, value in result.items()
        if key not in ("model", "digest", "numerics", "threads", "rounds")
    ]


async def _bench(
    settings: Settings, rounds: int, home: Home, child: Child, *, quiet: bool
) -> dict[str, object]:
    from freehold.cli.workload import MemoryReader, decode_rate, prefill_rate, usable_cores

    with Bar(quiet=quiet) as bar:
        async with living(settings, bar, child) as model:
            home.shut_calls()
            n_threads = settings.threads or usable_cores()
            reader = MemoryReader(n_threads)
            seen: dict[str, list[float]] = {}
            lengths = [n for n in (512, 2048) if n < model.engine.card.context]
            for turn in range(rounds):
                if not quiet:
                    say(f"round {turn + 1} of {rounds}")
                seen.setdefault("memory", []).append(reader.rate())
                seen.setdefault("decode", []).append(await decode_rate(model.engine, 1, turn))
                seen.setdefault("decode_8", []).append(await decode_rate(model.engine, 8, turn))
                for n in lengths:
                    rate = await prefill_rate(model.engine, n, turn)
                    seen.setdefault(f"prefill_{n}", []).append(rate)
            card = model.engine.card
    medians = {key: statistics.median(values) for key, values in seen.items()}
    return {
        "model": settings.model,
        "digest": card.digest,
        "numerics": card.numerics,
        "threads": n_threads,
        "rounds": rounds,
        "decode_tokens_per_s": round(medians["decode"], 2),
        "decode_8_tokens_per_s": round(medians["decode_8"], 2),
        **{f"prefill_{n}_tokens_per_s": round(medians[f"prefill_{n}"], 1) for n in lengths},
        "bytes_read_per_token": card.bytes_per_token,
        "memory_read_bytes_per_s": round(medians["memory"]),
        "share_of_memory_limit": round(
            statistics.median(
                d * card.bytes_per_token / m
                for d, m in zip(seen["decode"], seen["memory"], strict=True)
            ),
            3,
        ),
    }
