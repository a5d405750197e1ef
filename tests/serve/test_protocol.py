"""Broken, slow and greedy clients, spoken to over a bare socket."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from freehold.serve import protocol


@contextmanager
def _dial(running: Any) -> Iterator[socket.socket]:
    url = httpx.URL(running.url)
    with socket.create_connection((url.host, url.port or 0), timeout=20) as line:
        yield line


def _rest(line: socket.socket) -> bytes:
    """All that comes until the server hangs up."""
    got = b""
    while True:
        try:
            piece = line.recv(65_536)
        except ConnectionResetError:
            return got
        if not piece:
            return got
        got += piece


def _refusal(answer: bytes) -> tuple[int, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/json" in head
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return int(head.split()[1]), error["code"]


@pytest.mark.parametrize(
    "rubbish",
    [
        b"hello\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
        b"GET /\x00 HTTP/1.1\r\n",
    ],
)
def test_broken_http_is_told_so_in_json(shared_counter: Any, rubbish: bytes) -> None:
    with _dial(shared_counter) as line:
        line.sendall(rubbish)
        assert _refusal(_rest(line)) == (400, "invalid_http")


@pytest.mark.parametrize("one_line", [True, False])
def test_an_endless_head_is_cut_off(shared_counter: Any, one_line: bool) -> None:
    with _dial(shared_counter) as line:
        line.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n")
        try:
            for number in range(200):
                line.sendall(b"y" * 1024 if one_line else b"x-%d: %s\r\n" % (number, b"y" * 1024))
        except (BrokenPipeError, ConnectionResetError):
            pass
        answer = _rest(line)
    # The kernel may drop the answer when we were still sending; the cut is what counts.
    assert not answer or _refusal(answer) == (431, "head_too_large")


def test_a_slow_head_is_cut_off(
    counter: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.5)
    running = counter()
    with _dial(running) as line:
        line.sendall(b"GET /health HTTP/1.1\r\n")
        time.sleep(0.2)
        line.sendall(b"host: x\r\n")
        assert _refusal(_rest(line)) == (408, "slow_request")


def test_a_silent_connection_is_closed(
    counter: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.3)
    with _dial(counter()) as line:
        assert _rest(line) == b""


def test_a_slow_body_is_cut_off(
    counter: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "BODY_SECONDS", 0.5)
    running = counter()
    key = running.key.encode()
    with _dial(running) as line:
        line.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n"
            b"authorization: Bearer " + key + b"\r\n\r\n{"
        )
        assert _refusal(_rest(line)) == (408, "slow_request")


def test_an_unused_body_cannot_hold_a_connection(
    counter: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "BODY_SECONDS", 0.5)
    with _dial(counter()) as line:
        line.sendall(b"POST /v1/x HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        assert b"401 Unauthorized" in _rest(line)


def test_a_reader_that_stalls_is_cut_off(
    counter: Callable[..., Any], scripted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "STALL_SECONDS", 0.5)
    endless = scripted.ScriptedEngine(reply=lambda ids: [65] * 1_000_000)
    card = scripted.replace(scripted.CARD, context=2_000_000)
    running = counter(engine=endless, card=card)
    body = b'{"model":"scripted-1","messages":[{"role":"user","content":"x"}],"stream":true}'
    with _dial(running) as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
            b"authorization: Bearer " + running.key.encode() + b"\r\n"
            b"content-length: " + str(len(body)).encode() + b"\r\n\r\n" + body
        )
        end = time.monotonic() + 20
        while running.engine.closed == 0:
            assert time.monotonic() < end, "the engine still works for a reader that reads nothing"
            time.sleep(0.05)
    assert running.engine.finished == 0


def test_one_connection_too_many(
    counter: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "MAX_CONNECTIONS", 2)
    running = counter()
    with _dial(running) as one, _dial(running) as two, _dial(running) as three:
        assert _refusal(_rest(three)) == (503, "too_many_connections")
        for line in (one, two):
            line.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            assert b'{"status":"ok"}' in _rest(line)


def test_an_answer_is_not_held_back_for_acknowledgements(shared_counter: Any) -> None:
    accepted = []
    original = protocol.GuardedProtocol.connection_made

    def watched(self: Any, transport: Any) -> None:
        original(self, transport)
        accepted.append(
            transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        )

    protocol.GuardedProtocol.connection_made = watched  # type: ignore[method-assign]
    try:
        httpx.get(shared_counter.url + "/health")
    finally:
        protocol.GuardedProtocol.connection_made = original  # type: ignore[method-assign]
    assert accepted
    assert all(accepted)


def test_pipelined_requests_are_answered_in_order(shared_counter: Any) -> None:
    with _dial(shared_counter) as line:
        line.sendall(
            b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"
            b"GET /nope HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        )
        answer = _rest(line)
    assert answer.index(b"200 OK") < answer.index(b"401 Unauthorized")
