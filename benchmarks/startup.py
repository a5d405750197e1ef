"""How long `freehold --help` takes, and how long until a server answers.

    python benchmarks/startup.py [--rounds 20]          freehold --help
    python benchmarks/startup.py --server               until `freehold serve` says that it answers
    python benchmarks/startup.py --first-token          until the first token of a 20-token prompt

Whole processes, timed from outside; medians. The model must be in the vault, and its file is read
once before anything is timed: a disk's speed is not ours. ``--server`` and ``--first-token`` start
each kind of start in turn: the first, for which nothing was packed yet, and the second, which finds
the pack that a first one left. Memory is the sum over the server's processes of their largest
resident size (VmHWM, so pages that both map count twice), and of the proportional size (PSS, so
they do not) after the answer; ``--llamacpp`` shows the same of llama.cpp with the same file.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from freehold.store import DEFAULT_MODEL, Store, default_root

FREEHOLD = [sys.executable, "-m", "freehold.cli"]
# Twenty tokens of every Qwen2 and Qwen3 vocabulary; the answer's usage is compared with it.
PROMPT = (
    "The quick brown fox jumps over the lazy dog while the old cat sleeps in the warm sun of May"
)
PROMPT_TOKENS = 20
LLAMA = """
import sys, llama_cpp
model = llama_cpp.Llama(sys.argv[1], n_ctx=4096, n_threads=int(sys.argv[2]), verbose=False)
model.create_completion(sys.argv[3], max_tokens=16, temperature=0)
print(next(x.split()[1] for x in open("/proc/self/status") if x.startswith("VmHWM")))
"""


@dataclass(frozen=True, kw_only=True)
class Start:
    """One start: seconds until it answered and until the first token, bytes of memory."""

    ready: float
    token: float
    peak: int
    proportional: int


def help_seconds() -> float:
    start = time.perf_counter()
    subprocess.run([*FREEHOLD, "--help"], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


@contextmanager
def fresh_home() -> Iterator[dict[str, str]]:
    """The environment of a store with the real one's models, and nothing packed yet."""
    with tempfile.TemporaryDirectory(dir=default_root().parent) as folder:
        home = Path(folder) / "home"
        home.mkdir()
        for part in ("blobs", "manifests"):
            (home / part).symlink_to(default_root() / part)
        yield {
            **os.environ,
            "FREEHOLD_HOME": str(home),
            "XDG_STATE_HOME": str(Path(folder) / "state"),
        }


def start_server(model: str, environment: dict[str, str]) -> Start:
    begin = time.perf_counter()
    process = subprocess.Popen(
        [*FREEHOLD, "serve", model, "--port", "0", "--temporary-key"],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stderr is not None
    said, port, key = "", 0, ""
    for line in process.stderr:
        said += line
        if found := re.search(r"answers at http://127.0.0.1:(\d+)", line):
            ready, port = time.perf_counter() - begin, int(found[1])
        if found := re.search(r"key, valid until this server stops: (\S+)", line):
            key = found[1]
            break
    if not key:
        raise RuntimeError(f"the server did not come up:\n{said}")
    try:
        first_token(port, key, model)
        token = time.perf_counter() - begin
        peak, proportional = memory_of(process.pid)
    finally:
        process.terminate()
        process.communicate()
    return Start(ready=ready, token=token, peak=peak, proportional=proportional)


def first_token(port: int, key: str, model: str) -> None:
    """Ask for a streamed answer and return when its first text is there; then read the rest."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    body = {
        "model": model,
        "prompt": PROMPT,
        "max_tokens": 1,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    connection.request("POST", "/v1/completions", json.dumps(body), headers)
    reply = connection.getresponse()
    text, usage = "", None
    for line in reply:
        if line.startswith(b"data: {"):
            chunk = json.loads(line[6:])
            text += "".join(choice["text"] for choice in chunk["choices"])
            usage = chunk.get("usage") or usage
    if reply.status != 200 or not text or not usage or usage["prompt_tokens"] != PROMPT_TOKENS:
        raise RuntimeError(f"no first token of {PROMPT_TOKENS}: {reply.status} {text!r} {usage}")


def memory_of(pid: int) -> tuple[int, int]:
    """(sum of VmHWM, sum of PSS) in bytes of a process and its children."""
    family = [pid]
    for thread in Path(f"/proc/{pid}/task").iterdir():
        family += map(int, (thread / "children").read_text().split())
    peak = proportional = 0
    for one in family:
        peak += _kilobytes(Path(f"/proc/{one}/status"), "VmHWM")
        proportional += _kilobytes(Path(f"/proc/{one}/smaps_rollup"), "Pss")
    return peak, proportional


def _kilobytes(path: Path, key: str) -> int:
    return next(
        int(line.split()[1]) * 1024
        for line in path.read_text().splitlines()
        if line.startswith(f"{key}:")
    )


def llama_peak(model: str) -> int:
    path = Store(default_root()).weights_path(model)
    threads = str(len(os.sched_getaffinity(0)))
    done = subprocess.run(
        [sys.executable, "-c", LLAMA, str(path), threads, PROMPT],
        check=True,
        capture_output=True,
        text=True,
    )
    return int(done.stdout) * 1024


def show(name: str, seen: list[float]) -> None:
    print(
        f"{name}: median {statistics.median(seen):.3f} s of {len(seen)} runs "
        f"({min(seen):.3f} to {max(seen):.3f})"
    )


def show_memory(name: str, peaks: list[int]) -> None:
    print(f"{name}: median {statistics.median(peaks) / 1e6:.0f} MB, most {max(peaks) / 1e6:.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--server", action="store_true")
    parser.add_argument("--first-token", action="store_true")
    parser.add_argument("--llamacpp", action="store_true")
    options = parser.parse_args()
    if not (options.server or options.first_token or options.llamacpp):
        show("freehold --help", [help_seconds() for _ in range(options.rounds)])
        return
    Store(default_root()).weights_path(options.model).read_bytes()  # into the page cache
    firsts, seconds = [], []
    for _ in range(options.rounds):
        with fresh_home() as environment:
            firsts.append(start_server(options.model, environment))
            seconds.append(start_server(options.model, environment))
    for name, starts in (("first start", firsts), ("second start", seconds)):
        show(f"{name}, until it answers", [start.ready for start in starts])
        show(f"{name}, until the first token", [start.token for start in starts])
        show_memory(f"{name}, sum of VmHWM", [start.peak for start in starts])
        show_memory(f"{name}, PSS after the answer", [start.proportional for start in starts])
    if options.llamacpp:
        peaks = [llama_peak(options.model) for _ in range(min(3, options.rounds))]
        show_memory("llama.cpp, VmHWM with a context of 4,096", peaks)


if __name__ == "__main__":
    main()
