"""Many clients of one server, each asking for one thing after another until the time is up.

Requests are of six kinds: short and long prompts, streams that are hung up midway, answers held to
a schema, streamed and whole, and calls of a tool. Some clients hold a key that allows a few
requests a minute: they are refused by 429, wait as long as they are told, and ask again.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import jsonschema

TOKENS = 48
"""The longest answer."""

LONGEST_WAIT = 10.0
"""Seconds that a refused client waits at most, whatever it was told."""

SUBJECTS = ("rivers", "bridges", "salt", "maps", "bees", "glass", "tides", "clocks", "bread", "ink")
PLACE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 24},
        "kind": {"enum": ["city", "river", "mountain"]},
        "height": {"type": "integer", "minimum": 0, "maximum": 9000},
    },
    "required": ["name", "kind", "height"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": PLACE}}
KINDS = {"short": 40, "long": 10, "hang up": 15, "form": 10, "form, streamed": 10, "tool": 15}
"""And how many in a hundred requests are of each."""


@dataclass
class Seen:
    """What the clients met. Seconds to the first piece of an answer, by kind; entries of the ledger
    by the server's own header; ``wrong`` is everything that should not have been."""

    first: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    done: Counter[str] = field(default_factory=Counter)
    entries: list[int] = field(default_factory=list)
    refused: int = 0
    wrong: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where to ask. ``keys`` are without limits but for the last, which is short of quota."""

    url: str
    model: str
    keys: Sequence[str]


async def crowd(address: Address, clients: int, seconds: float, seed: int = 0) -> Seen:
    """``clients`` at once for ``seconds``; what is under way at the end is let finish. Every tenth
    client has the key with the quota."""
    seen, until = Seen(), time.monotonic() + seconds
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=clients)
    async with httpx.AsyncClient(base_url=address.url, timeout=900, limits=limits) as http:

        async def one(number: int) -> None:
            rng = random.Random(f"{seed}.{number}")
            key = address.keys[-1 if number % 10 == 9 else 0]
            head = {"Authorization": f"Bearer {key}"}
            while time.monotonic() < until:
                kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
                wait = await _ask(http, head, _body(address.model, kind, rng), kind, seen)
                await asyncio.sleep(min(wait, max(0.0, until - time.monotonic())))

        await asyncio.gather(*map(one, range(clients)))
    return seen


async def _ask(
    http: httpx.AsyncClient, head: dict[str, str], body: dict[str, Any], kind: str, seen: Seen
) -> float:
    """One request; seconds to wait before the next."""
    start, hangs_up = time.monotonic(), kind == "hang up"
    try:
        async with http.stream("POST", "/v1/chat/completions", json=body, headers=head) as reply:
            if reply.status_code == 429:
                seen.refused += 1
                if (told := reply.headers.get("retry-after")) is None:
                    seen.wrong["a 429 without Retry-After"] += 1
                return min(float(told or 1), LONGEST_WAIT)
            if reply.status_code != 200:
                seen.wrong[f"status {reply.status_code}: {(await reply.aread())[:200]!r}"] += 1
                return 1.0
            seen.entries.append(int(reply.headers["x-freehold-entry"]))
            if body.get("stream"):
                after = body["max_tokens"] // 4 if hangs_up else None
                finish, text, first = await _streamed(reply, after)
                seen.first[kind].append(first - start)
            else:
                choice = json.loads(await reply.aread())["choices"][0]
                finish, text = choice["finish_reason"], choice["message"]["content"] or ""
    except httpx.HTTPError as error:
        seen.wrong[f"{type(error).__name__}: {error}"] += 1
        return 1.0
    seen.done[kind] += 1
    if problem := _problem(kind, finish, text):
        seen.wrong[problem] += 1
    return 0.0


def _body(model: str, kind: str, rng: random.Random) -> dict[str, Any]:
    subject, number = rng.choice(SUBJECTS), rng.randrange(10**6)
    words = f"Tell me about {subject} ({number})."
    if kind == "long":
        words = f"{number}: " + " ".join(rng.choices(SUBJECTS, k=800)) + f"\n{words}"
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": words}],
        "max_tokens": rng.randint(8, TOKENS),
        "temperature": rng.choice((0, 1)),
        "stream": kind != "form",
    }
    if kind.startswith("form"):
        form = {"name": "place", "schema": PLACE}
        body |= {"response_format": {"type": "json_schema", "json_schema": form}}
    if kind == "tool":
        body |= {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False}
    if kind.startswith("form") or kind == "tool":
        body["max_tokens"] = 2 * TOKENS
    return body


async def _streamed(reply: httpx.Response, after: int | None) -> tuple[str | None, str, float]:
    """How a stream ended, its text or its calls' arguments, and when its first piece came. The
    client hangs up ``after`` so many pieces: the end is then ``None``."""
    finish, text, first, pieces = None, "", 0.0, 0
    ended = False
    async for line in reply.aiter_lines():
        if line == "data: [DONE]":
            ended = True
        if not line.startswith("data: {"):
            continue
        chunk = json.loads(line[6:])
        if "error" in chunk:
            return f"error {chunk['error'].get('message')}", text, first or time.monotonic()
        for choice in chunk["choices"]:
            delta, finish = choice["delta"], choice["finish_reason"] or finish
            calls = delta.get("tool_calls") or ()
            piece = delta.get("content") or ""
            piece += "".join(call["function"].get("arguments") or "" for call in calls)
            if piece or calls or finish:
                first = first or time.monotonic()
                text, pieces = text + piece, pieces + 1
        if pieces == after:
            return None, text, first
    return finish if ended else "an end without [DONE]", text, first or time.monotonic()


def _problem(kind: str, finish: str | None, text: str) -> str | None:
    """What is wrong with an answer, if anything is."""
    allowed = {"tool": ("tool_calls", "length")}.get(kind, ("stop", "length"))
    if finish not in ((*allowed, None) if kind == "hang up" else allowed):
        return f"{kind}: ended by {finish!r}"
    if finish in ("stop", "tool_calls") and (kind.startswith("form") or kind == "tool"):
        try:
            jsonschema.validate(json.loads(text), PLACE)
        except (ValueError, jsonschema.ValidationError) as error:
            return f"{kind}: {str(error)[:100]}"
    return None
