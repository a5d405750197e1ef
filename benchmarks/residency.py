"""What the lock costs: tokens per second, time to the first token, and time until a server answers.

    python benchmarks/residency.py [--rounds 30] [--starts 10]

Two servers of the default model run side by side, one of them with --no-lock. They are asked in
turn, never at the same time, and who is asked first changes with each round; what is compared is
the two answers of one round. Starts are timed from outside, in turn too.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass

FREEHOLD = [sys.executable, "-m", "freehold.cli"]
TOKENS = 128
WORDS = [chr(97 + i) * 3 for i in range(13)]


@dataclass(kw_only=True)
class Server:
    process: subprocess.Popen[str]
    host: str
    port: int
    key: str
    model: str

    def ask(self, number: int) -> tuple[float, float]:
        """Seconds to the first token, and tokens per second after it; each prompt is new."""
        prompt = f"{number}: " + " ".join(WORDS[(number + i) % len(WORDS)] for i in range(14))
        body = {"model": self.model, "prompt": prompt, "max_tokens": TOKENS, "temperature": 0}
        body["stream"] = True
        connection = http.client.HTTPConnection(self.host, self.port, timeout=120)
        connection.connect()
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        start = time.perf_counter()
        connection.request("POST", "/v1/completions", json.dumps(body), headers)
        answer = connection.getresponse()
        if answer.status != 200:
            raise RuntimeError(answer.read().decode())
        times = [
            time.perf_counter()
            for line in answer
            if line.startswith(b"data: {") and json.loads(line[6:])["choices"][0]["text"]
        ]
        connection.close()
        return times[0] - start, (len(times) - 1) / (times[-1] - times[0])


def start(*options: str) -> tuple[Server, float]:
    """A server, and the seconds until it answered."""
    begun = time.perf_counter()
    # Without guesses: how many tokens come at once would differ from prompt to prompt.
    command = [*FREEHOLD, "serve", "--port", "0", "--temporary-key", "--speculate", "off", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    said = ""
    assert process.stderr is not None
    for line in process.stderr:
        said += line
        if line.startswith("curl "):
            break
    seconds = time.perf_counter() - begun
    address = re.search(r"(\S+) answers at http://([\d.]+):(\d+)", said)
    key = re.search(r"stops: (\S+)", said)
    if address is None or key is None:
        raise RuntimeError(f"the server did not come up:\n{said}")
    return Server(
        process=process,
        model=address[1],
        host=address[2],
        port=int(address[3]),
        key=key[1],
    ), seconds


def stop(server: Server) -> None:
    server.process.terminate()
    server.process.wait(30)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--starts", type=int, default=10)
    options = parser.parse_args()
    servers = {"locked": start()[0], "open": start("--no-lock")[0]}
    first: dict[str, list[float]] = {name: [] for name in servers}
    rates: dict[str, list[float]] = {name: [] for name in servers}
    try:
        for turn in range(-2, options.rounds):
            order = list(servers) if turn % 2 else list(reversed(servers))
            for name in order:
                seconds, rate = servers[name].ask(turn + 10)
                if turn >= 0:  # the first two warm up
                    first[name].append(seconds)
                    rates[name].append(rate)
    finally:
        for server in servers.values():
            stop(server)
    ratio = statistics.median(a / b for a, b in zip(rates["locked"], rates["open"], strict=True))
    later = statistics.median(a - b for a, b in zip(first["locked"], first["open"], strict=True))
    for name in servers:
        print(
            f"{name}: {statistics.median(rates[name]):.1f} tokens/s, first token after "
            f"{1000 * statistics.median(first[name]):.1f} ms (medians of {options.rounds})"
        )
    print(f"locked / open: {ratio:.4f} tokens/s, {1000 * later:+.2f} ms to the first token")
    if options.starts:
        starts: dict[str, list[float]] = {name: [] for name in servers}
        for turn in range(options.starts):
            for name in ("locked", "open") if turn % 2 else ("open", "locked"):
                server, seconds = start(*([] if name == "locked" else ["--no-lock"]))
                stop(server)
                starts[name].append(seconds)
        slower = statistics.median(
            a - b for a, b in zip(starts["locked"], starts["open"], strict=True)
        )
        print(
            f"start: locked {statistics.median(starts['locked']):.3f} s, open "
            f"{statistics.median(starts['open']):.3f} s, {1000 * slower:+.0f} ms "
            f"(medians of {options.starts})"
        )


if __name__ == "__main__":
    main()
