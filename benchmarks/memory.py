"""Peak memory of each engine, in a fresh process: load, prefill 2,048 tokens, decode 32.

    python benchmarks/memory.py [--model NAME] [--engines a,b] [--openvino FOLDER] [--json]

All have a cache of 4,096 tokens. Counted is the kernel's own peak of resident pages (VmHWM) of
every process, mapped files included, summed; pages that two processes share count in both. Ours is
stated twice: the engine process alone, which does what the others do, and all processes of
`freehold serve`. The others run inside a small Python process; what that held before the
model was loaded is stated beside, and the ratio without it. Linux only.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from engines import MAKERS, Setup, parse, peak_bytes, started, weights_of

CONTEXT = 4096
PREFILL = 2048
DECODE = 32


@dataclass(frozen=True, kw_only=True)
class Peak:
    """``total`` bytes at the peak, of which ``bare`` before any model was there."""

    total: int
    bare: int = 0


def children(pid: int) -> list[int]:
    """Process ids of everything that ``pid`` has started, and they in turn."""
    import psutil

    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def engine_peak(name: str, setup: Setup) -> Peak:
    """One engine's peak. Raises ``SystemExit`` (it said why) or ``RuntimeError``."""
    from freehold.cli.workload import random_ids

    with started([name], setup) as running:
        engine = running[name]
        # The first token comes from the prefill.
        engine.answer([random_ids(PREFILL, 1)], DECODE + 1)
        if parse(name)[0] != "freehold":
            return Peak(total=peak_bytes(engine.pid), bare=engine.bare_bytes)
        # The process that asks is the benchmark's own; the engine is its child.
        return Peak(total=sum(map(peak_bytes, children(engine.pid))))


@contextmanager
def served(model: str, threads: int) -> Iterator[tuple[int, str, str]]:
    """`freehold serve` as a user starts it: process id, address, key."""
    command = [sys.executable, "-m", "freehold.cli", "serve", model, "--port", "0"]
    command += ["--temporary-key", "--cache-tokens", str(CONTEXT), "--threads", str(threads)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            said = ""
            for line in process.stderr:
                said += line
                if line.startswith("curl "):
                    break
            address, key = re.search(r"answers at (\S+)", said), re.search(r"stops: (\S+)", said)
            if address is None or key is None:
                raise RuntimeError("the server did not come up: run `freehold serve` to see why")
            yield process.pid, address[1], key[1]
        finally:
            process.terminate()


def server_peak(model: str, threads: int) -> Peak:
    """The same work through HTTP, over all processes of `freehold serve`."""
    from freehold.cli.workload import random_ids

    with served(model, threads) as (pid, address, key):
        body = {
            "model": model,
            "prompt": random_ids(PREFILL, 1),
            "max_tokens": DECODE + 1,
            "temperature": 0,
        }
        request = urllib.request.Request(  # noqa: S310  (the address is our own server's)
            address.removesuffix("/v1") + "/v1/completions",
            json.dumps(body).encode(),
            {"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=600) as answer:  # noqa: S310
            answer.read()
        return Peak(total=sum(map(peak_bytes, [pid, *children(pid)])))


def report(peaks: dict[str, Peak]) -> list[str]:
    """A Markdown table in MB, with the ratio of the first to each."""
    first = next(iter(peaks))
    lines = [
        f"| peak memory, MB | in all | before the model | {first} / it | without its Python |",
        "|---|---|---|---|---|",
    ]
    for name, peak in peaks.items():
        bare = f"{peak.bare / 1e6:.0f}" if peak.bare else "counted"
        cells = [f"{peak.total / 1e6:.0f}", bare, f"{peaks[first].total / peak.total:.2f}"]
        cells.append(f"{peaks[first].total / (peak.total - peak.bare):.2f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def measure(names: Sequence[str], setup: Setup) -> dict[str, Peak]:
    """One engine after the other; what cannot be measured here is left out with a word."""
    peaks = {}
    for name in names:
        print(f"measuring {name}", file=sys.stderr)
        try:
            peaks[name] = engine_peak(name, setup)
        except (SystemExit, RuntimeError) as error:
            print(f"{name}: left out: {error}", file=sys.stderr)
            continue
        if name == "freehold":
            print("measuring freehold serve", file=sys.stderr)
            peaks["freehold serve"] = server_peak(setup.model, setup.threads)
    return peaks


def main() -> None:
    from freehold.cli.settings import DEFAULT_MODEL
    from freehold.cli.workload import usable_cores
    from freehold.errors import FreeholdError

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--engines", default=",".join(MAKERS))
    parser.add_argument("--openvino", default="", help="a folder made by export_openvino.py")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if sys.platform != "linux":
        parser.error("peaks are read from /proc: Linux only")
    names = options.engines.split(",")
    try:
        for name in names:
            parse(name)
        with weights_of(options.model) as path:
            setup = Setup(
                model=options.model,
                weights=path,
                threads=options.threads,
                context=CONTEXT,
                openvino=options.openvino,
            )
            peaks = measure(names, setup)
    except (ValueError, FreeholdError) as error:
        parser.error(str(error))
    except (RuntimeError, OSError) as error:
        raise SystemExit(f"the measure failed: {error}") from error
    if not peaks:
        raise SystemExit("none of these engines can be measured here")
    if options.json:
        found = {n: {"peak_bytes": p.total, "bare_bytes": p.bare} for n, p in peaks.items()}
        print(json.dumps({"model": options.model, "context": CONTEXT, "engines": found}))
    else:
        print("\n".join(report(peaks)))


if __name__ == "__main__":
    main()
