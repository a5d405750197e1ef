"""The Merkle tree of RFC 6962: hashes of leaves and nodes, roots, and the two proofs.

A tree grows by appending only. ``Frontier`` holds what an append needs: the roots of the complete
subtrees that the tree falls into, left to right, one for each 1 in the binary digits of its size.
Proofs are made over any ``subtree`` function that gives the root of one complete subtree, so that
this file knows nothing of where hashes lie.

Sources: RFC 6962 section 2.1 (hashes and proofs); RFC 9162 sections 2.1.3.2 and 2.1.4.2 (checking).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from freehold.errors import IntegrityError, UsageError

HASH_SIZE = 32
EMPTY_ROOT = hashlib.sha256().digest()

Subtree: TypeAlias = Callable[[int, int], bytes]
"""``subtree(height, place)``: the root over leaves [place << height, (place + 1) << height)."""


def leaf_hash(data: bytes) -> bytes:
    """The hash of one leaf's bytes."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of a node over its two children's hashes."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Frontier:
    """The right edge of a tree of ``size`` leaves; ``peaks`` are its complete subtrees' roots,
    tallest first."""

    def __init__(self, size: int = 0, peaks: Sequence[bytes] = ()) -> None:
        assert len(peaks) == size.bit_count()
        self.size = size
        self.peaks = list(peaks)

    def append(self, leaf: bytes) -> Iterator[tuple[int, int, bytes]]:
        """Add one leaf hash; yield ``(height, place, root)`` of each subtree it completes."""
        height, place = 0, self.size
        while place & 1:
            leaf = node_hash(self.peaks.pop(), leaf)
            height, place = height + 1, place >> 1
            yield height, place, leaf
        self.peaks.append(leaf)
        self.size += 1

    def root(self) -> bytes:
        """The root of the tree as it is now."""
        if not self.peaks:
            return EMPTY_ROOT
        *rest, root = self.peaks
        for peak in reversed(rest):
            root = node_hash(peak, root)
        return root

    def copy(self) -> Frontier:
        """The same edge, to go on from when what follows is given up."""
        return Frontier(self.size, self.peaks)


def peaks(size: int, subtree: Subtree) -> list[bytes]:
    """The complete subtrees' roots of the first ``size`` leaves, tallest first."""
    return [subtree(height, place) for height, place in _cover(0, size)]


def inclusion(leaf: int, size: int, subtree: Subtree) -> list[bytes]:
    """The audit path of leaf number ``leaf`` in the tree of the first ``size`` leaves.

    Raises ``UsageError``.
    """
    if not 0 <= leaf < size:
        raise UsageError(f"leaf {leaf} is not in a tree of {size} leaves", param="leaf")
    path: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        split = start + _split(end - start)
        if leaf < split:
            path.append(_root(split, end, subtree))
            end = split
        else:
            path.append(_root(start, split, subtree))
            start = split
    return path[::-1]


def consistency(first: int, second: int, subtree: Subtree) -> list[bytes]:
    """The proof that the tree of ``second`` leaves begins with the tree of ``first``.

    Raises ``UsageError`` unless 0 <= first <= second.
    """
    if not 0 <= first <= second:
        raise UsageError(
            f"a tree of {second} leaves does not begin with one of {first}", param="first"
        )
    if first in (0, second):
        return []
    proof: list[bytes] = []
    start, end, whole = 0, second, True
    while first != end:
        split = start + _split(end - start)
        if first <= split:
            proof.append(_root(split, end, subtree))
            end = split
        else:
            proof.append(_root(start, split, subtree))
            start, whole = split, False
    if not whole:
        proof.append(_root(start, end, subtree))
    return proof[::-1]


def check_inclusion(
    leaf_digest: bytes, leaf: int, size: int, proof: Sequence[bytes], root: bytes
) -> None:
    """Return if ``proof`` shows ``leaf_digest`` at place ``leaf`` under ``root``. Raises
    ``IntegrityError``."""
    if not 0 <= leaf < size:
        raise IntegrityError(f"leaf {leaf} cannot be in a tree of {size} leaves")
    place, last, found = leaf, size - 1, leaf_digest
    for other in proof:
        if last == 0:
            raise IntegrityError("the inclusion proof is too long")
        if place & 1 or place == last:
            found = node_hash(other, found)
            while place and not place & 1:
                place, last = place >> 1, last >> 1
        else:
            found = node_hash(found, other)
        place, last = place >> 1, last >> 1
    if last or found != root:
        raise IntegrityError(f"the proof does not lead from leaf {leaf} to the root of {size}")


def check_consistency(
    first: int, second: int, first_root: bytes, second_root: bytes, proof: Sequence[bytes]
) -> None:
    """Return if ``proof`` shows that the second tree begins with the first. Raises
    ``IntegrityError``."""
    broken = IntegrityError(
        f"the tree of {second} leaves does not begin with the tree of {first}: "
        "the log was cut or rewritten"
    )
    if not 0 <= first <= second:
        raise broken
    if first in (0, second):
        expected = EMPTY_ROOT if first == 0 else second_root
        if proof or first_root != expected:
            raise broken
        return
    rest = list(proof)
    if first & (first - 1) == 0:
        rest.insert(0, first_root)
    if not rest:
        raise broken
    place, last = first - 1, second - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    old = new = rest[0]
    for other in rest[1:]:
        if last == 0:
            raise broken
        if place & 1 or place == last:
            old, new = node_hash(other, old), node_hash(other, new)
            while place and not place & 1:
                place, last = place >> 1, last >> 1
        else:
            new = node_hash(new, other)
        place, last = place >> 1, last >> 1
    if last or old != first_root or new != second_root:
        raise broken


def _split(size: int) -> int:
    """The largest power of two smaller than ``size`` (RFC 6962's k)."""
    return 1 << (size - 1).bit_length() - 1


def _cover(start: int, end: int) -> Iterator[tuple[int, int]]:
    """Complete subtrees that make up [start, end), left to right. ``start`` must be a multiple of
    the largest power of two below the length, as it is everywhere in RFC 6962's recursion."""
    while start < end:
        height = (end - start).bit_length() - 1
        yield height, start >> height
        start += 1 << height


def _root(start: int, end: int, subtree: Subtree) -> bytes:
    roots = [subtree(height, place) for height, place in _cover(start, end)]
    return Frontier(end - start, roots).root()
