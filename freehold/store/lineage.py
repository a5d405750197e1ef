"""The chain: from a model back through everything that it was made of.

Each link is one model, known by its digest. What it came from is what a trusted key signed in its
passport; where it lies is what the vault says. A parent may be in the vault, known by its passport
alone, or only named: that is said, not hidden. A model that descends from itself is an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from freehold.errors import MalformedError
from freehold.store import passport
from freehold.store.manifest import Manifest
from freehold.store.passport import Entry, Trust
from freehold.store.statements import Lineage, Named, Source
from freehold.store.vault import Store

MAX_LINKS = 200


@dataclass(frozen=True, kw_only=True)
class Link:
    """One model of the chain. ``child`` is the digest of the model that was made from it (empty for
    the first), ``made`` how it was made itself: one lineage statement, or ``None`` for a model that
    came from outside. ``manifest`` is ``None`` where the vault does not hold it, ``entries`` its
    whole passport."""

    name: str
    digest: str
    child: str
    manifest: Manifest | None
    entries: tuple[Entry, ...]
    made: Lineage | None

    @property
    def signers(self) -> tuple[str, ...]:
        """Trusted keys that vouch for how this model was made or where it came from."""
        return tuple(
            sorted(
                {
                    name
                    for entry in self.entries
                    if isinstance(entry.predicate, Lineage | Source)
                    for name in entry.signers
                }
            )
        )

    @property
    def state(self) -> str:
        """``vault``, ``passport`` (known, its bytes are elsewhere) or ``unknown``."""
        if self.manifest is not None:
            return "vault"
        return "passport" if self.entries else "unknown"


def chain(store: Store, manifest: Manifest, trust: Trust) -> list[Link]:
    """The model and all its ancestors, each once, children before parents.

    Raises ``MalformedError`` for a cycle and for a chain of more than ``MAX_LINKS``, and as
    ``passport.read`` does.
    """
    held = {found.digest: found for found in store.list()}
    links: dict[str, Link] = {}

    def visit(name: str, digest: str, child: str, above: tuple[str, ...]) -> None:
        if digest in above:
            circle = " <- ".join(one[:23] for one in (*above[above.index(digest) :], digest))
            raise MalformedError(
                f"{name} descends from itself ({circle}): one of these passports states a wrong "
                "parent. Do not trust the key that signed it.",
                file=str(passport.path_of(store, digest)),
            )
        if digest in links:
            return
        if len(links) + len(above) >= MAX_LINKS:
            raise MalformedError(
                f"{manifest.name} has more than {MAX_LINKS} ancestors", file=manifest.name
            )
        entries = tuple(passport.read(store, digest, trust))
        for parent in _parents(entries):
            visit(parent.name, parent.digest, digest, (*above, digest))
        found = held.get(digest)
        links[digest] = Link(
            name=found.name if found else name,
            digest=digest,
            child=child,
            manifest=found,
            entries=entries,
            made=_made(entries),
        )

    visit(manifest.name, manifest.digest, "", ())
    return list(reversed(links.values()))


def _made(entries: tuple[Entry, ...]) -> Lineage | None:
    said = [e.predicate for e in entries if e.signers and isinstance(e.predicate, Lineage)]
    # The newest by the time that was signed; in a tie the later line. Lines can be moved.
    return max(reversed(said), key=lambda one: one.made, default=None)


def _parents(entries: tuple[Entry, ...]) -> Iterator[Named]:
    """Every parent that a trusted key has named, also where statements differ."""
    for entry in entries:
        if entry.signers and isinstance(entry.predicate, Lineage):
            yield from entry.predicate.parents
