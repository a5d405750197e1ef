"""What people are to decide on: texts that a policy sends to ``review``.

A row says who asked, what was found and why; the text itself only where the owner's policy keeps
it. A prompt is known again by the SHA-256 of its policy and text: once somebody has approved it,
the same one passes.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias, get_args

import sqlalchemy as sql

from freehold.errors import NotFoundError, UsageError
from freehold.serve.database import alone, connect, exclusive, reading
from freehold.serve.migrations import migrate
from freehold.types import Verdict

State: TypeAlias = Literal["waiting", "approved", "refused", "spent"]
STATES: tuple[State, ...] = get_args(State)

MOST_WAITING = 10_000
"""Reviews that wait: a client that makes more pushes out the oldest."""
MOST_KEPT = 100_000
"""Characters of a text that are kept."""

_TABLE = sql.Table(
    "guard_reviews",
    sql.MetaData(),
    sql.Column("id", sql.String(16), primary_key=True),
    *(sql.Column(name, sql.String(64)) for name in ("key_id", "policy", "side", "tier", "state")),
    sql.Column("text_sha256", sql.LargeBinary(32)),
    *(sql.Column(name, sql.Text) for name in ("categories", "reasons", "content")),
    *(sql.Column(name, sql.Float) for name in ("created", "decided")),
)


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A text that somebody is to decide on."""

    key: str
    policy: str
    side: str
    text: str

    @property
    def digest(self) -> bytes:
        head = f"freehold review v1\0{self.policy}\0{self.side}\0"
        return hashlib.sha256((head + self.text).encode(errors="surrogatepass")).digest()


@dataclass(frozen=True, kw_only=True)
class Review:
    """One row. Times are UTC; ``content`` is ``None`` where the owner keeps none."""

    id: str
    key: str
    policy: str
    side: str
    tier: str
    state: State
    categories: tuple[str, ...]
    reasons: tuple[str, ...]
    created: datetime
    decided: datetime | None
    content: str | None


class Reviews:
    """All reviews, in the key data base at ``url``. Raises ``UsageError`` or ``StorageError``."""

    def __init__(self, url: str) -> None:
        self._engine = connect(url)
        migrate(self._engine)
        # Now: a locked counter opens nothing for writing later. The pool keeps it.
        self._engine.connect().close()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="freehold-reviews")

    def close(self) -> None:
        """Give the data base's connections back."""
        self._thread.shutdown()
        self._engine.dispose()

    async def submit(self, one: Submission, verdict: Verdict, *, keep: bool) -> tuple[str, bool]:
        """The review's id, and whether the text was approved. The same text waits once."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._submit, one, verdict, keep)

    async def spend(self, one: Submission) -> bool:
        """Whether this was approved; the approval is used up by it."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._spend, one)

    def _spend(self, one: Submission) -> bool:
        mine = sql.and_(_TABLE.c.text_sha256 == one.digest, _TABLE.c.state == "approved")
        with exclusive(self._engine, "looked up") as db:
            changed = db.execute(sql.update(_TABLE).where(mine).values(state="spent"))
        return changed.rowcount == 1

    def _submit(self, one: Submission, verdict: Verdict, keep: bool) -> tuple[str, bool]:
        with exclusive(self._engine, "put before a reviewer") as db:
            alone(db)
            known = sql.select(_TABLE.c.id, _TABLE.c.state)
            row = db.execute(known.where(_TABLE.c.text_sha256 == one.digest)).first()
            if row is not None and row.state != "spent":
                return row.id, row.state == "approved"
            if row is not None:
                db.execute(sql.delete(_TABLE).where(_TABLE.c.id == row.id))
            _make_room(db)
            number = secrets.token_hex(6)
            values = {
                "id": number,
                "key_id": one.key,
                "policy": one.policy[:64],
                "side": one.side,
                "tier": verdict.tier,
                "state": "waiting",
                "text_sha256": one.digest,
                "categories": "\n".join(verdict.flagged),
                "reasons": "\n".join(verdict.reasons),
                "content": one.text[:MOST_KEPT] if keep else None,
                "created": time.time(),
            }
            db.execute(sql.insert(_TABLE).values(**values))
        return number, False

    def list(self, state: State | None = None) -> Sequence[Review]:
        """Every review, or those in one state, oldest first."""
        asked = sql.select(_TABLE).order_by(_TABLE.c.created, _TABLE.c.id)
        if state is not None:
            asked = asked.where(_TABLE.c.state == state)
        with reading(self._engine, "listed") as db:
            return [_review(row) for row in db.execute(asked)]

    def find(self, number: str) -> Review:
        """Raises ``NotFoundError``."""
        with reading(self._engine, "found") as db:
            return _review(_row(db, number))

    def decide(self, number: str, state: State) -> Review:
        """Approve or refuse, at once also for a server that is running. Its text is not kept any
        longer. Raises ``NotFoundError``."""
        if state not in ("approved", "refused"):
            raise UsageError("a review is approved or refused", param="state")
        with exclusive(self._engine, "decided") as db:
            _row(db, number)
            values = {"state": state, "decided": time.time(), "content": None}
            db.execute(sql.update(_TABLE).where(_TABLE.c.id == number).values(**values))
            return _review(_row(db, number))


def _make_room(db: sql.Connection) -> None:
    waiting = sql.select(_TABLE.c.id).where(_TABLE.c.state == "waiting")
    past = waiting.order_by(_TABLE.c.created.desc()).offset(MOST_WAITING - 1)
    old = [row.id for row in db.execute(past)]
    if old:
        db.execute(sql.delete(_TABLE).where(_TABLE.c.id.in_(old)))


def _row(db: sql.Connection, number: str) -> Any:
    row = db.execute(sql.select(_TABLE).where(_TABLE.c.id == number)).first()
    if row is None:
        raise NotFoundError(
            f"there is no review {number[:64]!r}: see `freehold guard review list`", param="review"
        )
    return row


def _review(row: Any) -> Review:
    decided = None if row.decided is None else datetime.fromtimestamp(row.decided, UTC)
    return Review(
        id=row.id,
        key=row.key_id,
        policy=row.policy,
        side=row.side,
        tier=row.tier,
        state=row.state,
        categories=tuple(row.categories.splitlines()),
        reasons=tuple(row.reasons.splitlines()),
        created=datetime.fromtimestamp(row.created, UTC),
        decided=decided,
        content=row.content,
    )
