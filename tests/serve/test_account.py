"""No ledger entry, no reply: the counter with a real keeper behind it."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from freehold.errors import BusyError, EngineError
from freehold.ledger import KeeperSettings
from freehold.ledger.checking import check
from freehold.ledger.database import Database, place
from freehold.ledger.log import Reader
from freehold.serve.limits import Limits
from freehold.signing import notes

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"


@pytest.fixture
def keeper(tmp_path: Path) -> KeeperSettings:
    return KeeperSettings(root=str(tmp_path), keys=str(tmp_path / "keys"), content="clear")


@pytest.fixture
def recorded(counter: Callable[..., Any], keeper: KeeperSettings) -> Callable[..., Any]:
    return lambda **more: counter(keeper=keeper, **more)


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Callable[[], Reader]]:
    made: list[Reader] = []

    def open_one() -> Reader:
        made.append(Reader(Database(place("ledger.sqlite", tmp_path), writer=False)))
        return made[-1]

    yield open_one
    for one in made:
        one.close()


def chat(text: str = "hello", **more: Any) -> dict[str, Any]:
    return {"model": "scripted-1", "messages": [{"role": "user", "content": text}], **more}


def ask(server: Any, path: str, body: dict[str, Any], seconds: float = 30) -> httpx.Response:
    return httpx.post(server.url + path, json=body, headers=server.auth, timeout=seconds)


def entry(reader: Reader, number: int) -> list[dict[str, Any]]:
    return [
        {
            "kind": leaf["kind"],
            **json.loads(leaf["body"]),
            "kept": json.loads(bytes.fromhex(leaf["content"])),
        }
        for leaf in reader.entry(number)
    ]


def sealed(reader: Reader, number: int) -> dict[str, Any]:
    """The entry's second leaf, which may come a moment after its client has gone."""
    deadline = time.monotonic() + 10
    while len(leaves := entry(reader, number)) < 2:
        assert time.monotonic() < deadline, "never sealed"
        time.sleep(0.02)
    return leaves[1]


# --- what is recorded -----------------------------------------------------------------------------


def test_a_whole_answer_is_recorded_before_it_is_sent(
    recorded: Callable[..., Any], reader: Callable[[], Reader], scripted: Any
) -> None:
    server = recorded()
    reply = ask(server, CHAT, chat(seed=5, top_p=0.5, stop=["zzz"]))
    number = int(reply.headers["x-freehold-entry"])
    log = reader()
    first, second = entry(log, number)
    assert first["request"] == reply.headers["x-request-id"]
    assert first["endpoint"] == CHAT
    assert first["key"] == server.key.split("-")[1]
    assert (first["model"], first["digest"]) == (scripted.NAME, scripted.DIGEST)
    assert first["numerics"] == "scripted"
    assert first["engine"].startswith("freehold ")
    assert first["seeds"] == [5]
    assert first["sampling"]["top_p"] == 0.5
    assert first["kept"]["input"]["messages"] == [{"role": "user", "content": "hello"}]
    assert first["kept"]["prompts"] == [list(b"<user>hello")]
    assert first["kept"]["stop"] == ["zzz"]
    assert (second["kind"], second["ending"], second["error"]) == ("seal", "answered", None)
    assert second["completion_tokens"] == 5
    assert second["kept"]["answers"] == [{"ids": list(b"hello"), "text": "hello"}]
    assert second["answers"] == [{"finish": "stop", "tokens": 5}]
    note = notes.parse(base64.b64decode(reply.headers["x-freehold-checkpoint"]))
    notes.check(note, log.verifier)
    assert notes.checkpoint(note).size == 2


def test_the_effective_seed_is_recorded(
    recorded: Callable[..., Any], reader: Callable[[], Reader]
) -> None:
    server = recorded()
    ask(server, CHAT, chat())
    assert entry(reader(), 0)[0]["seeds"] == [server.engine.seen[0].seed]


def test_a_stream_is_sealed_before_it_ends(
    recorded: Callable[..., Any], reader: Callable[[], Reader]
) -> None:
    server = recorded()
    log = None
    with httpx.stream(
        "POST", server.url + CHAT, json=chat(stream=True), headers=server.auth, timeout=30
    ) as reply:
        number = int(reply.headers["x-freehold-entry"])
        lines = []
        for line in reply.iter_lines():
            lines.append(line)
            if '"finish_reason":"stop"' in line:
                log = reader()
                assert len(log.entry(number)) == 2
    assert log is not None
    assert lines[-2] == "data: [DONE]"
    comment = next(line for line in lines if line.startswith(": x-freehold-checkpoint "))
    note = notes.parse(base64.b64decode(comment.split()[2]))
    notes.check(note, log.verifier)


def test_several_prompts_and_choices_are_one_entry(
    recorded: Callable[..., Any], reader: Callable[[], Reader]
) -> None:
    server = recorded()
    body = {"model": "scripted-1", "prompt": ["ab", "cd"], "n": 2, "echo": True, "max_tokens": 3}
    ask(server, TEXT, body).raise_for_status()
    first, second = entry(reader(), 0)
    assert first["kept"]["prompts"] == [list(b"ab"), list(b"cd")]
    assert first["choices"] == 2
    assert len(first["seeds"]) == 2
    texts = [one["text"] for one in second["kept"]["answers"]]
    assert texts == ["ab", "ab", "cd", "cd"]


def test_refused_requests_are_not_recorded(
    recorded: Callable[..., Any], reader: Callable[[], Reader]
) -> None:
    server = recorded()
    assert ask(server, CHAT, chat(temperature=9)).status_code == 400
    assert ask(server, CHAT, {**chat(), "model": "other"}).status_code == 404
    ask(server, CHAT, chat())
    assert [leaf["kind"] for leaf in reader().leaves(0, 9)] == ["open", "seal"]


def test_a_client_that_hangs_up_is_sealed_as_such(
    recorded: Callable[..., Any], reader: Callable[[], Reader], scripted: Any
) -> None:
    server = recorded(engine=scripted.ScriptedEngine(delay=0.02))
    with httpx.stream(
        "POST", server.url + CHAT, json=chat("x" * 400, stream=True), headers=server.auth
    ) as reply:
        for _, _line in zip(range(9), reply.iter_lines(), strict=False):
            pass
    seal = sealed(reader(), 0)
    assert seal["ending"] == "cancelled"
    assert 0 < len(seal["kept"]["answers"][0]["ids"]) < 400


@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_fails_is_sealed_as_such(
    recorded: Callable[..., Any], reader: Callable[[], Reader], scripted: Any, stream: bool
) -> None:
    server = recorded(engine=scripted.ScriptedEngine(fail_at=2))
    reply = ask(server, CHAT, chat(stream=stream))
    assert "engine process is gone" in reply.text
    seal = sealed(reader(), 0)
    assert (seal["ending"], seal["error"]) == ("failed", "engine_unavailable")
    assert seal["kept"]["answers"][0]["text"] == "he"


def test_a_busy_engine_and_a_late_answer_are_sealed(
    recorded: Callable[..., Any], reader: Callable[[], Reader], scripted: Any
) -> None:
    busy = BusyError("full", retry_after=3)
    server = recorded(engine=scripted.ScriptedEngine(fail_at=0, failure=busy))
    assert ask(server, CHAT, chat()).status_code == 429
    assert sealed(reader(), 0)["error"] == "server_busy"


def test_a_deadline_is_sealed(
    recorded: Callable[..., Any], reader: Callable[[], Reader], scripted: Any
) -> None:
    server = recorded(engine=scripted.ScriptedEngine(delay=0.1), limits=Limits(request_seconds=0.5))
    assert ask(server, CHAT, chat("x" * 100)).status_code == 504
    assert sealed(reader(), 0)["error"] == "request_timeout"


def test_a_defect_is_sealed(
    recorded: Callable[..., Any], reader: Callable[[], Reader], scripted: Any
) -> None:
    engine = scripted.ScriptedEngine(fail_at=2, failure=RuntimeError("a defect"))
    server = recorded(engine=engine)
    assert ask(server, CHAT, chat()).status_code == 500
    assert sealed(reader(), 0)["ending"] == "failed"


def test_answers_under_way_at_the_end_are_sealed(
    counter: Callable[..., Any], keeper: KeeperSettings, tmp_path: Path, scripted: Any
) -> None:
    one = scripted.Opened(
        tmp_path,
        scripted.ScriptedEngine(delay=0.05),
        scripted.ScriptedCodec(),
        Limits(),
        keeper=keeper,
    )
    server = one.open()
    with httpx.stream(
        "POST", server.url + CHAT, json=chat("x" * 400, stream=True), headers=server.auth
    ) as reply:
        next(reply.iter_lines())
        one.close()
    found = check(Database(place("ledger.sqlite", tmp_path), writer=False))
    assert found.findings == []
    assert found.open == set()


def test_64_clients_at_once(
    recorded: Callable[..., Any], reader: Callable[[], Reader], tmp_path: Path
) -> None:
    server = recorded()

    async def everyone() -> list[int]:
        async with httpx.AsyncClient(headers=server.auth, timeout=60) as client:

            async def one(i: int) -> int:
                body = chat(f"text {i}", stream=bool(i % 2))
                reply = await client.post(server.url + CHAT, json=body)
                assert reply.status_code == 200
                return int(reply.headers["x-freehold-entry"])

            return await asyncio.gather(*map(one, range(64)))

    numbers = asyncio.run(everyone())
    assert len(set(numbers)) == 64
    log = reader()
    for i, number in enumerate(numbers):
        assert entry(log, number)[1]["kept"]["answers"][0]["text"] == f"text {i}"
    assert check(Database(place("ledger.sqlite", tmp_path), writer=False)).findings == []


# --- no entry, no reply ---------------------------------------------------------------------------


def test_nothing_goes_out_while_the_keeper_is_silent(recorded: Callable[..., Any]) -> None:
    server = recorded()
    os.kill(server.ledger.pid, signal.SIGSTOP)
    try:
        for stream in (False, True):
            with pytest.raises(httpx.ReadTimeout):
                ask(server, CHAT, chat(stream=stream), seconds=2)
    finally:
        os.kill(server.ledger.pid, signal.SIGCONT)
    assert ask(server, CHAT, chat()).status_code == 200


def test_an_answer_without_an_entry_is_not_made_to_its_end(
    recorded: Callable[..., Any], scripted: Any
) -> None:
    server = recorded(engine=scripted.ScriptedEngine(delay=0.05))
    os.kill(server.ledger.pid, signal.SIGKILL)
    assert ask(server, CHAT, chat("x" * 400)).status_code == 503
    assert (server.engine.started, server.engine.closed, server.engine.finished) == (1, 1, 0)


def test_a_keeper_that_dies_ends_all_answers(recorded: Callable[..., Any], scripted: Any) -> None:
    server = recorded(engine=scripted.ScriptedEngine(delay=0.02))
    with httpx.stream(
        "POST", server.url + CHAT, json=chat("x" * 50, stream=True), headers=server.auth
    ) as reply:
        lines = reply.iter_lines()
        next(lines)
        os.kill(server.ledger.pid, signal.SIGKILL)
        rest = list(lines)
    assert "data: [DONE]" not in rest
    assert '"finish_reason":"stop"' not in "".join(rest)
    assert "ledger_unavailable" in rest[-2]
    for stream in (False, True):
        reply = ask(server, CHAT, chat(stream=stream))
        assert reply.status_code == 503
        assert reply.json()["error"]["code"] == "ledger_unavailable"
        assert "SIGKILL" in reply.json()["error"]["message"]


def test_a_dead_keeper_is_named_and_the_next_start_finds_what_was_open(
    recorded: Callable[..., Any], scripted: Any, tmp_path: Path
) -> None:
    server = recorded(engine=scripted.ScriptedEngine(delay=0.02))
    under_way = threading.Barrier(9)
    assert httpx.get(server.url + "/health").json() == {"status": "ok"}  # an empty ledger is one

    def stream(number: int) -> tuple[int, str]:
        body = chat(f"{number} " + "x" * 200, stream=True)
        with httpx.stream("POST", server.url + CHAT, json=body, headers=server.auth) as reply:
            lines = reply.iter_lines()
            next(lines)
            under_way.wait(30)
            return int(reply.headers["x-freehold-entry"]), "".join(lines)

    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(stream, number) for number in range(8)]
        under_way.wait(30)
        os.kill(server.ledger.pid, signal.SIGKILL)
        found = [one.result() for one in asked]
    assert not any('"finish_reason":"stop"' in text for _, text in found)
    time.sleep(1.1)  # a pulse is remembered for a second
    assert httpx.get(server.url + "/health").json() == {"status": "ledger-down"}
    again = recorded()
    assert httpx.get(again.url + "/health").json() == {"status": "ok"}
    assert ask(again, CHAT, chat()).status_code == 200
    seen = check(Database(place("ledger.sqlite", tmp_path), writer=False))
    assert seen.findings == []
    assert seen.open >= {number for number, _ in found}
    assert seen.entries == len(seen.open) + 1


def test_a_full_disk_refuses_and_recovers_by_itself(
    recorded: Callable[..., Any], reader: Callable[[], Reader], tmp_path: Path
) -> None:
    """The keeper may write no file beyond its size: to SQLite that is a disk that takes no more."""
    server = recorded()
    assert ask(server, CHAT, chat()).status_code == 200
    process = psutil.Process(server.ledger.pid)
    limit = process.rlimit(psutil.RLIMIT_FSIZE)
    process.rlimit(psutil.RLIMIT_FSIZE, (1, limit[1]))
    before = reader().checkpoint()
    for stream in (False, True):
        reply = ask(server, CHAT, chat(stream=stream))
        assert reply.status_code == 503
        assert "no entry, so no reply" in reply.json()["error"]["message"]
    assert reader().checkpoint() == before
    process.rlimit(psutil.RLIMIT_FSIZE, (resource.RLIM_INFINITY, limit[1]))
    assert ask(server, CHAT, chat()).status_code == 200
    found = check(Database(place("ledger.sqlite", tmp_path), writer=False))
    assert found.findings == []
    assert found.entries == 2


def test_a_disk_that_fills_during_an_answer_ends_it_without_done(
    recorded: Callable[..., Any], reader: Callable[[], Reader], scripted: Any
) -> None:
    server = recorded(engine=scripted.ScriptedEngine(delay=0.02))
    process = psutil.Process(server.ledger.pid)
    with httpx.stream(
        "POST", server.url + CHAT, json=chat("x" * 50, stream=True), headers=server.auth
    ) as reply:
        number = int(reply.headers["x-freehold-entry"])
        lines = reply.iter_lines()
        next(lines)
        process.rlimit(psutil.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
        rest = list(lines)
    process.rlimit(psutil.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert "ledger_unavailable" in rest[-2]
    assert "data: [DONE]" not in rest
    assert len(reader().entry(number)) == 1
    assert ask(server, CHAT, chat()).status_code == 200


def test_an_engine_that_fails_while_the_ledger_does_is_still_told(
    recorded: Callable[..., Any], scripted: Any
) -> None:
    engine = scripted.ScriptedEngine(fail_at=0, failure=EngineError("gone"))
    server = recorded(engine=engine)
    os.kill(server.ledger.pid, signal.SIGKILL)
    assert ask(server, CHAT, chat()).status_code == 503


# --- who reads it ---------------------------------------------------------------------------------


def test_an_auditor_reads_entries_and_checks_proofs(recorded: Callable[..., Any]) -> None:
    from freehold.ledger import merkle

    server = recorded()
    for i in range(5):
        ask(server, CHAT, chat(f"text {i}"))
    secret = server.keys.add("auditor", role="auditor").secret
    head = {"authorization": f"Bearer {secret}"}
    with httpx.Client(base_url=server.url + "/v1/ledger", headers=head, timeout=30) as http:
        note = notes.parse(http.get("/checkpoint").text)
        notes.check(note, notes.parse_verifier(server.ledger.verifier))
        point = notes.checkpoint(note)
        assert point.size == 10
        leaves = http.get("/leaves", params={"first": 2, "count": 3}).json()["leaves"]
        assert [leaf["place"] for leaf in leaves] == [2, 3, 4]
        assert [x["kind"] for x in http.get("/entries/4").json()["leaves"]] == ["open", "seal"]
        proof = http.get("/inclusion/3").json()
        path = [bytes.fromhex(one) for one in proof["path"]]
        merkle.check_inclusion(bytes.fromhex(proof["leaf_hash"]), 3, 10, path, point.root)
        assert http.get("/consistency", params={"first": 4}).json()["second"] == 10
        for bad in ("/entries/1", "/entries/999"):
            assert http.get(bad).status_code == 404, bad
        for bad in (
            "/entries/x",
            f"/entries/{'9' * 30}",
            "/inclusion/99",
            "/inclusion/0?size=11",
            "/consistency?first=99",
            "/leaves?count=9999",
            "/leaves?first=-1",
        ):
            assert http.get(bad).status_code == 400, bad


def test_without_a_ledger_there_is_none_to_read(counter: Callable[..., Any]) -> None:
    server = counter()
    reply = ask(server, CHAT, chat())
    assert "x-freehold-entry" not in reply.headers
    head = {"authorization": f"Bearer {server.keys.add('a', role='auditor').secret}"}
    reply = httpx.get(f"{server.url}/v1/ledger/checkpoint", headers=head)
    assert reply.status_code == 404
    assert "keeps no ledger" in reply.text
