"""The log: leaves in a data base, the tree over them, and a signed checkpoint for each group.

The sequencer gives each leaf its place, writes a group of them with the checkpoint that covers them
in one transaction, and says so only when that is durable. In SQLite there is one; in PostgreSQL
those of several counters take turns, a transaction each. What a sequencer holds in memory is the
tree's right edge as it last saw it durable. Each turn begins with a look at the latest checkpoint:
if that is another, the leaves in between are read, and must lead from the edge to the checkpoint's
root. So no turn can fork the log, and a commit whose answer was lost needs no care of its own.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sql

from freehold.errors import IntegrityError, LedgerError, NotFoundError, UsageError
from freehold.ledger import merkle
from freehold.ledger.database import Database
from freehold.ledger.leaves import Draft, hash_of
from freehold.ledger.schema import (
    CHECKPOINTS,
    LEAVES,
    META,
    ROW,
    SUBTREES,
    WISHES,
    WITNESSED,
    migrate,
    version_of,
)
from freehold.ledger.verifier import ERASABLE
from freehold.signing import notes
from freehold.signing.keys import SigningKey

STRIDE = 8
"""Subtrees of every eighth height are stored: a proof reads at most 255 hashes from each level."""

MILESTONE = 1024
"""About so many leaves lie between two checkpoints that are kept for good."""


_CLOSE = 2048
"""Leaves of other keepers that are read one by one; beyond, stored subtrees are."""

_AT_ONCE = 16
"""Leaves that a data base is asked for at a time."""


@dataclass(frozen=True, kw_only=True)
class _Edge:
    """The tree at a checkpoint: its right edge and the signed note, empty for an empty log."""

    frontier: merkle.Frontier
    note: str = ""

    @property
    def size(self) -> int:
        return self.frontier.size


@dataclass(frozen=True, kw_only=True)
class Committed:
    """A durable group: its leaves stand at ``first`` and after, under ``note``."""

    first: int
    size: int
    note: str


class Reader:
    """What can be asked of a log by whoever may read its data base."""

    def __init__(self, database: Database) -> None:
        self._database = database
        with database.transaction() as db:
            if version_of(db) == 0:
                raise NotFoundError(
                    f"there is no ledger at {database.where}: `freehold serve` makes one",
                    param="ledger",
                )
            self.verifier = notes.parse_verifier(_meta(db, "verifier"))

    @property
    def where(self) -> str:
        """Where the log lies, for people."""
        return self._database.where

    def checkpoint(self) -> str:
        """The latest checkpoint."""
        with self._database.transaction() as db:
            note = _latest(db)
        if note is None:
            raise NotFoundError("the ledger is empty: it has no checkpoint yet", param="ledger")
        return note

    def leaves(self, first: int, count: int, *, most: int | None = None) -> list[dict[str, Any]]:
        """Leaves from place ``first`` on, at most ``count``, as plain data (``shown``). With
        ``most``, none is added once their records have so many bytes."""
        _check(first, "first")
        _check(count, "count")
        wanted = sql.select(*ROW).where(LEAVES.c.place >= first).order_by(LEAVES.c.place)
        wanted = wanted.limit(count).execution_options(yield_per=_AT_ONCE)
        found, held = list[dict[str, Any]](), 0
        with self._database.transaction() as db, db.execute(wanted) as rows:
            for row in rows.mappings():
                found.append(shown(row))
                held += len(row["body"] or b"") + len(row["content"] or b"")
                if most is not None and held >= most:
                    break
        return found

    def entry(self, number: int) -> list[dict[str, Any]]:
        """An entry's leaves, first to last. Raises ``NotFoundError``."""
        _check(number, "entry")
        wanted = sql.select(*ROW).where(LEAVES.c.entry == number).order_by(LEAVES.c.place)
        with self._database.transaction() as db:
            found = [shown(row) for row in db.execute(wanted).mappings()]
        if not found:
            raise NotFoundError(
                f"the ledger has no entry {number}: entries are numbered by their first leaf",
                param="entry",
            )
        return found

    def inclusion(self, leaf: int, size: int | None = None) -> dict[str, Any]:
        """The proof that a leaf is in the tree of the first ``size`` leaves (default: all)."""
        _check(leaf, "leaf")
        with self._database.transaction() as db:
            size = _bounded(db, size, "size")
            path = merkle.inclusion(leaf, size, _subtrees(db))
            row = db.execute(sql.select(*ROW).where(LEAVES.c.place == leaf)).mappings().one()
            note = _latest(db)
        return {
            "leaf": leaf,
            "size": size,
            "leaf_hash": hash_of(row["kind"], row["entry"], row["commitment"]).hex(),
            "path": [one.hex() for one in path],
            "checkpoint": note,
        }

    def consistency(self, first: int, second: int | None = None) -> dict[str, Any]:
        """The proof that the tree of ``second`` leaves (default: all) begins with ``first``'s."""
        _check(first, "first")
        with self._database.transaction() as db:
            second = _bounded(db, second, "second")
            proof = merkle.consistency(first, second, _subtrees(db))
            note = _latest(db)
        return {
            "first": first,
            "second": second,
            "proof": [one.hex() for one in proof],
            "checkpoint": note,
        }

    def prove(self, number: int) -> dict[str, Any]:
        """Every leaf of an entry with its audit path under one checkpoint, for
        ``verifier.check_proof``. Raises ``NotFoundError``."""
        found = self.entry(number)
        with self._database.transaction() as db:
            note = _latest(db)
            size = 0 if note is None else notes.checkpoint(notes.parse(note)).size
            proofs = []
            for leaf in found:
                path = merkle.inclusion(leaf["place"], size, _subtrees(db))
                proofs.append({"leaf": leaf, "path": [one.hex() for one in path]})
        return {
            "entry": number,
            "leaves": proofs,
            "checkpoint": note,
            "key": str(self.verifier),
        }

    def keep_witnessed(self, text: str) -> int:
        """Keep a cosigned checkpoint of this log beside its own; the leaves it covers. Raises
        ``MalformedError``, ``SignatureError``."""
        note = notes.parse(text)
        notes.check(note, self.verifier)
        size = notes.checkpoint(note).size
        with self._database.transaction(write=True) as db:
            there: str | None = db.execute(
                sql.select(WITNESSED.c.note).where(WITNESSED.c.size == size)
            ).scalar()
            if there is not None and notes.parse(there).text == note.text:
                note = notes.join(notes.parse(there), note.lines)
            db.execute(sql.delete(WITNESSED).where(WITNESSED.c.size == size))
            db.execute(sql.insert(WITNESSED).values(size=size, note=str(note)))
        return size

    def wish(self, entry: int, reason: str) -> None:
        """Ask whoever has the lock to erase an entry."""
        with self._database.transaction(write=True) as db:
            db.execute(sql.delete(WISHES).where(WISHES.c.entry == entry))
            db.execute(sql.insert(WISHES).values(entry=entry, reason=reason))

    def erased(self, entry: int) -> bool:
        """Whether an entry's records are destroyed and nobody is asked to any more."""
        with self._database.transaction() as db:
            asked = sql.select(WISHES.c.entry).where(WISHES.c.entry == entry)
            if db.execute(asked).first() is not None:
                return False
        return all(x["body"] is None for x in self.entry(entry) if x["kind"] in ERASABLE)

    def close(self) -> None:
        """Give the data base back."""
        self._database.close()


class Log(Reader):
    """A sequencer. Opening makes the tables where there are none.

    Raises ``UsageError`` when another process has the lock or ``key`` is not the log's,
    ``IntegrityError`` when the log does not fit its last checkpoint, ``LedgerError``.
    """

    def __init__(self, database: Database, key: SigningKey) -> None:
        self._key = key
        self._littered = False
        self._edge = _Edge(frontier=merkle.Frontier())
        with database.transaction(write=True) as db:
            database.turn(db)
            migrate(db)
            if _meta(db, "verifier", missing=True) is None:
                origin = f"freehold-ledger/{secrets.token_hex(8)}"
                made = notes.Verifier(name=origin, key=key.public)
                db.execute(sql.insert(META).values(key="verifier", value=str(made)))
        super().__init__(database)
        if self.verifier.key != key.public:
            raise UsageError(
                f"the ledger at {database.where} was begun with another key than "
                f"{key.name!r} ({key.key_id[:16]}): bring that key back, or begin another ledger",
                param="ledger",
            )
        with database.transaction() as db:
            self._edge = self._load(db)

    @property
    def size(self) -> int:
        """How many leaves there are, as far as this process knows."""
        return self._edge.size

    def commit(self, drafts: Sequence[Draft]) -> Committed:
        """Write a group; returns when it is durable. Raises ``LedgerError``, after which nothing
        of the group is there, unless only the answer to the commit was lost."""
        with self._database.transaction(write=True) as db:
            self._database.turn(db)
            edge = self._append(db, drafts)
        self._edge = edge
        return Committed(first=edge.size - len(drafts), size=edge.size, note=edge.note)

    def wishes(self) -> list[tuple[int, str]]:
        """Erasures that were asked for: entry and reason."""
        with self._database.transaction() as db:
            return [(row.entry, row.reason) for row in db.execute(sql.select(WISHES))]

    def erase(self, entry: int, draft: Draft) -> Committed:
        """Destroy what an entry's leaves commit to, in one transaction with ``draft``, the leaf
        that says so. The commitments stay. Raises ``NotFoundError``, ``LedgerError``."""
        self.entry(entry)
        mine = sql.and_(LEAVES.c.entry == entry, LEAVES.c.kind.in_(ERASABLE))
        with self._database.transaction(write=True) as db:
            self._database.turn(db)
            edge = self._append(db, [draft])
            wished = db.execute(sql.delete(WISHES).where(WISHES.c.entry == entry)).rowcount
            mine = sql.and_(mine, LEAVES.c.body.is_not(None))
            gone = sql.update(LEAVES).where(mine).values(salt=None, body=None, content=None)
            if not db.execute(gone).rowcount and not wished:
                raise NotFoundError(f"entry {entry} was erased by another keeper", param="entry")
        self._edge = edge
        self._littered = not self._database.shred()
        return Committed(first=edge.size - 1, size=edge.size, note=edge.note)

    def drop_wish(self, entry: int) -> None:
        """Forget an erasure that cannot be done."""
        with self._database.transaction(write=True) as db:
            db.execute(sql.delete(WISHES).where(WISHES.c.entry == entry))

    def rest(self) -> None:
        """Do what is better done while nobody waits."""
        self._database.rest()
        if self._littered:
            self._littered = not self._database.shred()

    # --- in a transaction -------------------------------------------------------------------------

    def _append(self, db: sql.Connection, drafts: Sequence[Draft]) -> _Edge:
        """Put ``drafts`` and their checkpoint behind what is there; the edge then."""
        before = self._current(db)
        edge = before.frontier.copy()
        rows: list[dict[str, Any]] = []
        roots: list[dict[str, Any]] = []
        for draft in drafts:
            place = edge.size
            entry = place if draft.entry is None else draft.entry
            commitment = draft.commitment
            rows.append(
                {
                    "place": place,
                    "kind": draft.kind,
                    "entry": entry,
                    "commitment": commitment,
                    "salt": draft.salt,
                    "body": draft.body,
                    "content": draft.content,
                }
            )
            for height, at, root in edge.append(hash_of(draft.kind, entry, commitment)):
                if height % STRIDE == 0:
                    roots.append({"height": height, "place": at, "root": root})
        note = self._sign(edge)
        db.execute(sql.insert(LEAVES), rows)
        if roots:
            db.execute(sql.insert(SUBTREES), roots)
        self._put(db, before.size, edge.size, note)
        return _Edge(frontier=edge, note=note)

    def _current(self, db: sql.Connection) -> _Edge:
        """The edge now: the one that was held, led on by what other keepers have written."""
        note = _latest(db) or ""
        if note == self._edge.note:
            return self._edge
        size, root = self._signed(note)
        if not self._edge.size <= size <= self._edge.size + _CLOSE:
            return self._load(db)
        edge = self._edge.frontier.copy()
        wanted = sql.select(*ROW).where(LEAVES.c.place >= edge.size).order_by(LEAVES.c.place)
        for row in db.execute(wanted):
            for _ in edge.append(hash_of(row.kind, row.entry, row.commitment)):
                pass
        if (edge.size, edge.root()) != (size, root):
            raise LedgerError(_other(self.where))
        return _Edge(frontier=edge, note=note)

    def _load(self, db: sql.Connection) -> _Edge:
        """The edge as the data base has it, held against the last checkpoint and against what this
        process has seen durable."""
        size = _size(db)
        edge = merkle.Frontier(size, merkle.peaks(size, _subtrees(db)))
        note = _latest(db) or ""
        if (size, edge.root()) != self._signed(note):
            raise IntegrityError(_changed(self.where))
        known = self._edge.size
        if (
            known > size
            or merkle.Frontier(known, merkle.peaks(known, _subtrees(db))).root()
            != self._edge.frontier.root()
        ):
            raise LedgerError(_other(self.where))
        return _Edge(frontier=edge, note=note)

    def _signed(self, note: str) -> tuple[int, bytes]:
        """The size and root that a checkpoint says, held against the log's key. Raises
        ``SignatureError``, ``MalformedError``."""
        if not note:
            return 0, merkle.Frontier().root()
        signed = notes.parse(note)
        notes.check(signed, self.verifier)
        found = notes.checkpoint(signed)
        return found.size, found.root

    def _sign(self, edge: merkle.Frontier) -> str:
        origin = self.verifier.name
        text = notes.Checkpoint(origin=origin, size=edge.size, root=edge.root()).text()
        return str(notes.Note(text=text, lines=(notes.sign(text, origin, self._key),)))

    def _put(self, db: sql.Connection, latest: int, size: int, note: str) -> None:
        """The new checkpoint takes the last one's row, but for one in about a thousand leaves."""
        if latest and latest // MILESTONE == size // MILESTONE:
            change = sql.update(CHECKPOINTS).where(CHECKPOINTS.c.size == latest)
            done = db.execute(change.values(size=size, note=note))
            if done.rowcount != 1:
                raise LedgerError(f"the last checkpoint is gone from the ledger at {self.where}")
        else:
            db.execute(sql.insert(CHECKPOINTS).values(size=size, note=note))


def shown(row: Any) -> dict[str, Any]:
    """A leaf as plain data: bytes in hex, the body as text. Erased parts are ``None``."""
    return {
        "place": row["place"],
        "kind": row["kind"],
        "entry": row["entry"],
        "commitment": row["commitment"].hex(),
        "salt": None if row["salt"] is None else row["salt"].hex(),
        "body": None if row["body"] is None else row["body"].decode("utf-8", "replace"),
        "content": None if row["content"] is None else row["content"].hex(),
    }


def _latest(db: sql.Connection) -> str | None:
    newest = sql.select(CHECKPOINTS.c.note).order_by(CHECKPOINTS.c.size.desc()).limit(1)
    note: Any = db.execute(newest).scalar()
    return None if note is None else str(note)


def _size(db: sql.Connection) -> int:
    last: int | None = db.execute(sql.select(sql.func.max(LEAVES.c.place))).scalar()
    return 0 if last is None else last + 1


def _bounded(db: sql.Connection, wanted: int | None, name: str) -> int:
    size = _size(db)
    if wanted is None:
        return size
    if not 0 <= wanted <= size:
        raise UsageError(f"{name} is {wanted}: the ledger has {size} leaves", param=name)
    return wanted


def _check(number: int, name: str) -> None:
    if not 0 <= number < 1 << 63:
        raise UsageError(f"{name} is {number}: it must be 0 or more", param=name)


def _meta(db: sql.Connection, key: str, *, missing: bool = False) -> Any:
    value = db.execute(sql.select(META.c.value).where(META.c.key == key)).scalar()
    if value is None and not missing:
        raise IntegrityError(f"the ledger has lost its {key}: it was changed")
    return value


def _subtrees(db: sql.Connection) -> merkle.Subtree:
    """Roots of complete subtrees, from the nearest stored level below."""

    def subtree(height: int, place: int) -> bytes:
        stored = height - height % STRIDE
        count = 1 << height - stored
        first = place * count
        if stored:
            wanted = (
                sql.select(SUBTREES.c.root)
                .where(SUBTREES.c.height == stored)
                .where(SUBTREES.c.place.between(first, first + count - 1))
                .order_by(SUBTREES.c.place)
            )
            hashes = [row.root for row in db.execute(wanted)]
        else:
            rows = db.execute(
                sql.select(*ROW)
                .where(LEAVES.c.place.between(first, first + count - 1))
                .order_by(LEAVES.c.place)
            )
            hashes = [hash_of(row.kind, row.entry, row.commitment) for row in rows]
        if len(hashes) != count:
            raise IntegrityError("leaves are missing from the ledger: run `freehold ledger verify`")
        tree = merkle.Frontier()
        for one in hashes:
            for _ in tree.append(one):
                pass
        return tree.root()

    return subtree


def _other(where: str) -> str:
    return (
        f"the ledger at {where} is not the one this server wrote: it was set back or "
        "replaced while the server ran; bring the right one back"
    )


def _changed(where: str) -> str:
    return (
        f"the ledger at {where} does not match its last checkpoint: it was changed; "
        "`freehold ledger verify` says where"
    )
