"""The ledger at length: 100,000 entries by 8 clients, and 200 kills under load."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from freehold.errors import LedgerError
from freehold.ledger import KeeperSettings, LedgerProcess
from freehold.ledger.checking import check
from freehold.ledger.database import Database, place
from freehold.ledger.export import export
from freehold.ledger.leaves import Writer
from freehold.ledger.log import Log, Reader
from freehold.signing import keys
from tests.ledger.conftest import OUTCOME, RECORD

ENTRIES = int(os.environ.get("FREEHOLD_TEST_ENTRIES", "100000"))
CLIENTS = 8
KILLS = int(os.environ.get("FREEHOLD_TEST_KILLS", "200"))
SCRIPTED = Path(__file__).resolve().parents[1] / "serve" / "scripted.py"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def test_100_000_entries_are_verified_in_seconds(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def client(ledger: LedgerProcess) -> None:
        for _ in range(ENTRIES // CLIENTS):
            entry = await ledger.open(RECORD)
            await entry.seal(OUTCOME)

    async def write() -> str:
        settings = KeeperSettings(
            root=str(tmp_path), keys=str(tmp_path / "keys"), ledger=url, content="hash"
        )
        async with await LedgerProcess.start(settings) as ledger:
            await asyncio.gather(*(client(ledger) for _ in range(CLIENTS)))
            return await ledger.checkpoint()

    start = time.perf_counter()
    kept = asyncio.run(write())
    wrote = time.perf_counter() - start
    database = Database(place(url, tmp_path), writer=False)
    start = time.perf_counter()
    found = check(database, against=[("kept", kept)])
    seconds = time.perf_counter() - start
    assert found.findings == []
    assert (found.entries, found.open) == (ENTRIES, set())
    export(database, tmp_path / "export")
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-I", "verify.py"], check=False, cwd=tmp_path / "export",
        capture_output=True, text=True, env={},
    )  # fmt: skip
    alone = time.perf_counter() - start
    assert done.returncode == 0, done.stdout
    with capsys.disabled():
        print(
            f"\n{place(url, tmp_path).get_backend_name()}: {ENTRIES} entries by {CLIENTS} clients "
            f"in {wrote:.1f} s; verified in {seconds:.2f} s, by the exported verifier alone in "
            f"{alone:.2f} s"
        )


# --- kill -9 --------------------------------------------------------------------------------------


class Load:
    """Clients that ask without end, and remember what was answered in full."""

    def __init__(self) -> None:
        self.acknowledged: dict[int, str] = {}
        self.asked = 0

    async def run(self, address: str, key: str, ended: asyncio.Event) -> None:
        head = {"authorization": f"Bearer {key}"}
        async with httpx.AsyncClient(base_url=address, headers=head, timeout=10) as http:
            tasks = [asyncio.create_task(self._client(http)) for _ in range(CLIENTS)]
            await ended.wait()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _client(self, http: httpx.AsyncClient) -> None:
        while True:
            self.asked += 1
            text = f"question {self.asked} " + "y" * random.randrange(60)
            stream = random.random() < 0.5
            body = {
                "model": "scripted-1",
                "messages": [{"role": "user", "content": text}],
                "stream": stream,
            }
            try:
                if await self._whole(http, body, stream, text):
                    continue
            except httpx.HTTPError:
                pass
            await asyncio.sleep(0.02)

    async def _whole(
        self, http: httpx.AsyncClient, body: dict[str, object], stream: bool, text: str
    ) -> bool:
        async with http.stream("POST", "/v1/chat/completions", json=body) as reply:
            if reply.status_code != 200:
                await reply.aread()
                return False
            number = int(reply.headers["x-freehold-entry"])
            if not stream:
                await reply.aread()
                self.acknowledged[number] = text
                return True
            async for line in reply.aiter_lines():
                # From the last piece on, a client may take the answer as given.
                if '"finish_reason":"stop"' in line:
                    self.acknowledged[number] = text
                    return True
        return False


async def one_kill(command: list[str], load: Load, rng: random.Random) -> bool:
    """Start, load, kill the counter or the keeper; whether it came as far as serving."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    line = (await process.stdout.readline()).decode().split()
    if len(line) != 3:
        await process.wait()
        return False
    ended = asyncio.Event()
    asking = asyncio.create_task(load.run(line[0], line[1], ended))
    await asyncio.sleep(rng.uniform(0, 0.8))
    os.kill(int(line[2]) if rng.random() < 0.5 else process.pid, signal.SIGKILL)
    await asyncio.sleep(0.05)
    if process.returncode is None:
        process.kill()
    await process.wait()
    ended.set()
    await asking
    return True


def test_no_answer_outlives_its_entry(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, str(SCRIPTED), str(tmp_path), "1", "0.001", url]
    load, rng, kills = Load(), random.Random(8), 0

    async def main() -> int:
        done = tries = 0
        while done < KILLS:
            tries += 1
            assert tries < 3 * KILLS, "it does not start any more"
            done += await one_kill(command, load, rng)
        return done

    kills = asyncio.run(main())
    database = Database(place(url, tmp_path), writer=False)
    found = check(database)
    assert found.findings == []
    reader = Reader(database)
    for number, text in load.acknowledged.items():
        leaves = reader.entry(number)
        assert [leaf["kind"] for leaf in leaves] == ["open", "seal"], number
        kept = json.loads(bytes.fromhex(leaves[1]["content"]))
        assert kept["answers"][0]["text"] == text
    assert len(load.acknowledged) > KILLS
    with capsys.disabled():
        print(
            f"\n{place(url, tmp_path).get_backend_name()}: {kills} kills, {load.asked} asked, "
            f"{len(load.acknowledged)} acknowledged and all recorded, {found.entries} entries, "
            f"{len(found.open)} left open"
        )


def test_a_real_full_disk(tmp_path: Path, key: keys.SigningKey) -> None:
    """A file system of 4 MB, filled to the last byte and emptied again."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(small)],
        check=False, stderr=subprocess.DEVNULL,
    ) if shutil.which("mount") else None  # fmt: skip
    if mounted is None or mounted.returncode:
        pytest.skip("needs the right to mount a small file system")
    log = Log(Database(place("ledger.sqlite", small), writer=True), key)
    try:
        writer = Writer("clear")
        log.commit([writer.open(RECORD)])
        filler = small / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(4096)) == 4096:
                pass
        for _ in range(3):
            with pytest.raises(LedgerError, match="no entry, so no reply"):
                log.commit([writer.note("big", {"x": "y" * 200_000})])
        filler.unlink()
        log.commit([writer.seal(0, OUTCOME)])
        assert check(log._database).findings == []
    finally:
        log.close()
        subprocess.run(["umount", str(small)], check=True)
