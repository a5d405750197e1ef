"""What each key may use, and what it has used: exact to the token, across counters.

A request that begins sets aside the most it can come to, in one transaction with the look at what
is left; when it ends, what it did not use is given back. So a limit is never passed, however many
requests run at once and however many counters share the data base. Minutes and days are those of
the clock (UTC), with PostgreSQL those of its own; a request counts where it began.

With PostgreSQL each transaction first locks the key's row and then touches only what is that key's:
counters wait for each other, one key at a time, and never in a circle.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sql

from freehold.errors import FreeholdError
from freehold.serve.answer import Usage
from freehold.serve.database import POOL, connect, exclusive
from freehold.serve.errors import Problem, ProblemError
from freehold.serve.keys import COUNTS, KeyInfo, Keyring
from freehold.serve.tracing import span

LOG = logging.getLogger("freehold.serve")
T = TypeVar("T")

_MINUTE, _DAY = 60, 86_400
_KEPT_MINUTES = 5
_TRIES = 6
_PAUSE_SECONDS = 0.5
"""After the first failure to write down what was used; after each further one, twice as long."""

_SETTLE_SECONDS = 10.0

_GRACE_SECONDS = 60.0
"""What a counter that died had set aside is given back so long after its requests' deadline."""


@dataclass(frozen=True, kw_only=True)
class Used:
    """What counts against one key's limits now: requests and tokens, of this minute, this day and
    all time; ``running`` requests. What is set aside counts as used."""

    running: int
    minute: tuple[int, int]
    day: tuple[int, int]
    ever: int


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What a request wants: tokens of its prompts, how many answers, and for each at most ``most``
    tokens; ``firm`` if the client named that number, and is to have it or nothing."""

    prompt: int
    answers: int
    most: int
    firm: bool


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Tokens."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0


class Quotas:
    """All keys' spending. Belongs to one application and one event loop; the data base is asked in
    threads of their own, so that a slow disk holds up nobody else."""

    def __init__(
        self,
        keys: Keyring,
        request_seconds: float,
        *,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._engine = connect(keys.url, durable=False)
        # Now: a locked counter opens nothing for writing later. The pool keeps it.
        self._engine.connect().close()
        self._seconds = request_seconds + _GRACE_SECONDS
        self._clock = clock
        # SQLite has one writer; a server's answers take their time.
        threads = 1 if self._engine.dialect.name == "sqlite" else POOL
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="freehold-quotas")
        self._late: set[asyncio.Task[None]] = set()

    def spending(self, key: KeyInfo | None, model: str) -> Spending:
        """What one request of ``key`` will spend on ``model``."""
        return Spending(self, key, model)

    async def settle(self) -> None:
        """Wait until all that has ended is written, ``_SETTLE_SECONDS`` at most."""
        if self._late:
            await asyncio.wait(self._late, timeout=_SETTLE_SECONDS)

    def later(self, work: asyncio.Task[None]) -> None:
        """Hold on to what is written after its request has gone."""
        self._late.add(work)
        work.add_done_callback(self._late.discard)

    async def run(self, work: Callable[[sql.Connection], T]) -> T:
        """Do ``work`` in a transaction that nobody shares. Raises ``StorageError``."""

        def done() -> T:
            with exclusive(self._engine) as db:
                return work(db)

        return await asyncio.get_running_loop().run_in_executor(self._threads, done)

    def now(self, db: sql.Connection | None = None) -> float:
        """The time, in Unix seconds: with PostgreSQL its own, so that counters agree."""
        if self._clock is not None:
            return self._clock()
        if db is None or db.dialect.name == "sqlite":
            return time.time()
        found = _run(db, "SELECT CAST(extract(epoch FROM clock_timestamp()) AS FLOAT8)")
        return float(found.scalar_one())

    async def ended(
        self, key: KeyInfo, model: str, number: str, began: float, spent: Spent
    ) -> None:
        """Write down what a request has ``spent``, and give back what was set aside for it."""

        again = False

        def work(db: sql.Connection) -> None:
            _hold(db, key.id)
            if db.dialect.name != "sqlite":
                # Not in what begins: if it is lost with the server's power, so is its request.
                _run(db, "SET LOCAL synchronous_commit TO on")
            held = _run(db, "DELETE FROM key_running WHERE id = :number", number=number).rowcount
            if again and not held:
                return  # it was written, and only the answer was lost
            # One that nothing was set aside for has not been counted yet.
            _count(db, key.id, model, began, requests=0 if number else 1, spent=spent)

        for tried in range(_TRIES):
            try:
                return await self.run(work)
            except FreeholdError as error:
                LOG.error("what key %s used could not be written: %s", key.id, error)
            if not number:
                return None  # whether it was written can only be told by what was set aside
            again = True
            await asyncio.sleep(_PAUSE_SECONDS * 2**tried)
        return None

    # --- in the thread, inside of a transaction ---------------------------------------------------

    def set_aside(
        self, db: sql.Connection, key: KeyInfo, model: str, ask: Ask
    ) -> tuple[str, int, float]:
        """Let a request begin: its number, how many tokens each of its answers may have, and when
        it began. Raises ``ProblemError`` (429)."""
        _hold(db, key.id)
        now = self.now(db)
        minute = int(now // _MINUTE)
        mine = {"key": key.id, "now": now, "oldest": minute - _KEPT_MINUTES}
        _run(db, "DELETE FROM key_running WHERE key_id = :key AND until < :now", **mine)
        _run(db, "DELETE FROM key_minutes WHERE key_id = :key AND minute < :oldest", **mine)
        used = _used(db, key.id, now)
        each = _room(key, used, ask, now)
        number = secrets.token_hex(16)
        _run(
            db,
            "INSERT INTO key_running VALUES (:number, :key, :minute, :tokens, :until)",
            number=number,
            key=key.id,
            minute=minute,
            tokens=ask.prompt + ask.answers * each,
            until=now + self._seconds,
        )
        _count(db, key.id, model, now, requests=1)
        return number, each, now


class Spending:
    """One request's tokens, from its beginning to its end. Does nothing for a key that is not
    stored."""

    def __init__(self, quotas: Quotas, key: KeyInfo | None, model: str) -> None:
        self._quotas = quotas
        self._key = key if key is not None and key.stored else None
        self._model = model
        self._usage: Usage | None = None
        self._number = ""
        """Under which tokens are set aside, if they are."""
        self._began: float | None = None
        self._over = False

    async def begin(
        self, usage: Usage, *, answers: int = 0, most: int = 0, firm: bool = False
    ) -> int:
        """How many tokens each of the request's answers may have: ``most``, or where that is not
        ``firm``, what the key has left. ``usage`` is where what is used will be found.

        Raises ``ProblemError`` (429) where a limit of the key leaves too little, or
        ``StorageError``.
        """
        if self._key is None:
            return most
        self._usage = usage
        key, model, quotas = self._key, self._model, self._quotas
        if not any(getattr(key.limits, name) is not None for name in COUNTS):
            self._began = quotas.now()
            return most
        ask = Ask(prompt=usage.prompt_tokens, answers=answers, most=most, firm=firm)
        # Shielded: what was set aside must be given back, even if the client is gone meanwhile.
        work = asyncio.create_task(quotas.run(lambda db: quotas.set_aside(db, key, model, ask)))
        work.add_done_callback(self._begun)
        with span("quota"):
            _, each, _ = await asyncio.shield(work)
        return each

    def _begun(self, work: asyncio.Task[tuple[str, int, float]]) -> None:
        if not work.cancelled() and work.exception() is None:
            self._number, _, self._began = work.result()
            if self._over:
                self.end()

    def end(self) -> None:
        """The request has ended, well or not: what it used is written, after it."""
        self._over = True
        if self._began is None or self._key is None or self._usage is None:
            return
        began, self._began = self._began, None
        write = self._quotas.ended(self._key, self._model, self._number, began, _spent(self._usage))
        self._quotas.later(asyncio.create_task(write))


def _spent(usage: Usage) -> Spent:
    """What an engine that never began has cost: nothing."""
    if not usage.cached:
        return Spent()
    cached = sum(usage.cached.values())
    return Spent(prompt=usage.prompt_tokens, cached=cached, completion=usage.completion_tokens)


# --- the data base --------------------------------------------------------------------------------


def _run(db: sql.Connection, statement: str, **values: Any) -> sql.CursorResult[Any]:
    return db.execute(sql.text(statement), values)


def _hold(db: sql.Connection, key: str) -> None:
    """Shut out all others that count for ``key``. In SQLite the transaction has."""
    if db.dialect.name != "sqlite":
        _run(db, "SELECT id FROM api_keys WHERE id = :key FOR UPDATE", key=key)


def _used(db: sql.Connection, key: str, now: float) -> Used:
    day, minute = int(now // _DAY), int(now // _MINUTE)
    found: Any = _run(
        db,
        _USED,
        key=key,
        minute=minute,
        day=day,
        first=day * _DAY // _MINUTE,
        last=(day + 1) * _DAY // _MINUTE - 1,
    ).one()
    used = {name: int(value) for name, value in found._mapping.items()}
    return Used(
        running=used["running"],
        minute=(used["minute_requests"], used["minute_tokens"] + used["minute_held"]),
        day=(used["day_requests"], used["day_tokens"] + used["day_held"]),
        ever=used["ever_tokens"] + used["ever_held"],
    )


def _sum(what: str, table: str, name: str, where: str = "") -> str:
    where = f"key_id = :key{where and ' AND '}{where}"
    return f"(SELECT COALESCE(SUM({what}), 0) FROM {table} WHERE {where}) AS {name}"  # noqa: S608


_TOKENS = "prompt_tokens + completion_tokens"
_TODAY = "minute BETWEEN :first AND :last"
_USED = "SELECT " + ", ".join(
    (
        _sum("1", "key_running", "running"),
        _sum("tokens", "key_running", "minute_held", "minute = :minute"),
        _sum("tokens", "key_running", "day_held", _TODAY),
        _sum("tokens", "key_running", "ever_held"),
        _sum("requests", "key_minutes", "minute_requests", "minute = :minute"),
        _sum("tokens", "key_minutes", "minute_tokens", "minute = :minute"),
        _sum("requests", "key_usage", "day_requests", "day = :day"),
        _sum(_TOKENS, "key_usage", "day_tokens", "day = :day"),
        _sum(_TOKENS, "key_usage", "ever_tokens"),
    )
)
"""One question, so that a data base that is far away is asked once."""


def _count(
    db: sql.Connection,
    key: str,
    model: str,
    began: float,
    *,
    requests: int = 0,
    spent: Spent | None = None,
) -> None:
    spent = spent or Spent()
    _run(
        db,
        "INSERT INTO key_usage VALUES"
        " (:key, :model, :day, :requests, :prompt, :cached, :completion)"
        " ON CONFLICT (key_id, model, day) DO UPDATE SET"
        " requests = key_usage.requests + excluded.requests,"
        " prompt_tokens = key_usage.prompt_tokens + excluded.prompt_tokens,"
        " cached_tokens = key_usage.cached_tokens + excluded.cached_tokens,"
        " completion_tokens = key_usage.completion_tokens + excluded.completion_tokens",
        key=key,
        model=model,
        day=int(began // _DAY),
        requests=requests,
        prompt=spent.prompt,
        cached=spent.cached,
        completion=spent.completion,
    )
    _run(
        db,
        "INSERT INTO key_minutes VALUES (:key, :minute, :requests, :tokens)"
        " ON CONFLICT (key_id, minute) DO UPDATE SET"
        " requests = key_minutes.requests + excluded.requests,"
        " tokens = key_minutes.tokens + excluded.tokens",
        key=key,
        minute=int(began // _MINUTE),
        requests=requests,
        tokens=spent.prompt + spent.completion,
    )


# --- what is left ---------------------------------------------------------------------------------


def _room(key: KeyInfo, used: Used, ask: Ask, now: float) -> int:
    """Tokens for each answer. Raises ``ProblemError`` naming the limit that leaves too little."""
    limits = key.limits
    minute, day = _MINUTE - now % _MINUTE, _DAY - now % _DAY
    counts = (
        ("concurrency", limits.concurrency, used.running, 1.0),
        ("requests_per_minute", limits.requests_per_minute, used.minute[0], minute),
        ("requests_per_day", limits.requests_per_day, used.day[0], day),
    )
    for name, limit, have, wait in counts:
        if limit is not None and have >= limit:
            raise _over(name, limit, f"{have} are used", wait)
    each = ask.most
    tokens = (
        ("tokens_per_minute", limits.tokens_per_minute, used.minute[1], minute),
        ("tokens_per_day", limits.tokens_per_day, used.day[1], day),
        ("token_budget", limits.token_budget, used.ever, None),
    )
    for name, limit, have, until in tokens:
        if limit is None:
            continue
        left = limit - have - ask.prompt
        least = ask.most if ask.firm else min(ask.most, 1)
        if left < ask.answers * least or left < 0:
            asked = ask.prompt + ask.answers * least
            raise _over(name, limit, f"{have} are used or set aside, and this asks {asked}", until)
        if ask.answers:
            each = min(each, left // ask.answers)
    return each


def _over(name: str, limit: int, found: str, wait: float | None) -> ProblemError:
    """429. What no waiting helps against is told as OpenAI tells an account that is used up."""
    what = name.replace("_", " ")
    if wait is None:
        message = f"this key's {what} is {limit}: {found}; ask this server's operator for more"
        code, headers = "insufficient_quota", {"x-should-retry": "false"}
    else:
        seconds = max(1, int(wait) + 1)
        message = f"this key's limit of {what} is {limit}: {found}; come back in {seconds} s"
        code, headers = "rate_limit_exceeded", {"retry-after": str(seconds)}
    return ProblemError(
        Problem(status=429, message=message, type="rate_limit_error", code=code, headers=headers)
    )
