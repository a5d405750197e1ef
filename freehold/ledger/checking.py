"""Verify a ledger in its data base, with the same checks that go out with an export."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import sqlalchemy as sql
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from freehold.errors import IntegrityError, MalformedError, NotFoundError
from freehold.ledger import verifier
from freehold.ledger.database import Database
from freehold.ledger.log import STRIDE
from freehold.ledger.schema import CHECKPOINTS, LEAVES, META, ROW, SUBTREES, WITNESSED, version_of

_AT_ONCE = 2000


def check(
    database: Database,
    *,
    key: str | None = None,
    against: Sequence[tuple[str, str]] = (),
    progress: Callable[[int], None] = lambda n: None,
) -> verifier.Check:
    """Walk the whole log; the result's ``findings`` say what is not as it was written.

    ``key`` is the verifier key as known elsewhere; without it the data base's own is believed.
    ``against`` are (name, note) pairs that were kept elsewhere. ``progress`` is told of each batch
    of leaves. Raises ``NotFoundError``, ``IntegrityError`` for another key, ``MalformedError``.
    """
    with database.transaction() as db:
        if version_of(db) == 0:
            raise NotFoundError(f"there is no ledger at {database.where}", param="ledger")
        line = db.execute(sql.select(META.c.value).where(META.c.key == "verifier")).scalar() or ""
        try:
            own = verifier.parse_key(line)
            if key is not None and verifier.parse_key(key) != own:
                raise IntegrityError(
                    "the ledger's key is not the one you know: it was begun or signed anew"
                )
            kept = [(name, verifier.read_kept(text)) for name, text in against]
        except verifier.Broken as error:
            raise MalformedError(str(error), file="verifier key or checkpoint") from error
        made: dict[tuple[int, int], bytes] = {}

        def seen(height: int, place: int, root: bytes) -> None:
            if height % STRIDE == 0:
                made[height, place] = root

        found = verifier.Check(own, notes_of(db), kept, _ed25519, seen)
        rows = db.execution_options(yield_per=_AT_ONCE).execute(
            sql.select(*ROW).order_by(LEAVES.c.place)
        )
        for batch in rows.partitions(_AT_ONCE):
            for row in batch:
                found.leaf(verifier.Leaf(*row))
            progress(len(batch))
        found.finish()
        stored = {(row.height, row.place): row.root for row in db.execute(sql.select(SUBTREES))}
    for height, place in sorted(made.keys() | stored.keys()):
        if made.get((height, place)) != stored.get((height, place)) and not found.findings:
            found.findings.append(
                f"the stored subtree {place} of height {height} is not that of the leaves"
            )
    return found


def notes_of(db: sql.Connection) -> list[tuple[int, str]]:
    """Every checkpoint that the data base keeps: the size it is filed under, and the note."""
    found: list[tuple[int, str]] = []
    for table in (CHECKPOINTS, WITNESSED):
        wanted = sql.select(table.c.size, table.c.note).order_by(table.c.size)
        found += [(int(row.size), str(row.note)) for row in db.execute(wanted)]
    return found


def _ed25519(public: bytes, message: bytes, signature: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except InvalidSignature:
        return False
    return True
