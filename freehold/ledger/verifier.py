#!/usr/bin/env python3
"""Verify a Freehold ledger with nothing but Python's standard library (3.9 or newer).

    python -I verify.py                      the export in this folder
    python -I verify.py --against FILE       ... against a checkpoint that was kept elsewhere
    python -I verify.py --key LINE           ... by the ledger's key as you know it
    python -I verify.py --witness LINE       ... and by a witness's cosignature
    python -I verify.py --proof FILE         one proof, as `freehold ledger prove` writes it

It ends with 0 if all is as it was written, 3 if anything is not, 2 if it was asked the wrong way. A
whole export proves that it fits its own last checkpoint. Whether that is the checkpoint the server
gave out, and the key the server's, only something kept elsewhere can tell.

A leaf's bytes are "freehold ledger leaf v1", its kind, its entry and its commitment in hex, a line
each; the commitment is SHA-256 over a tag, the record's salt and its body. The tree over the leaves
is RFC 6962's, a checkpoint C2SP's tlog-checkpoint, its signature Ed25519 (RFC 8032). An entry is
"open", then "seal"; "erase" says that an earlier entry's records were destroyed on purpose.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

FORMAT = "freehold ledger export v1"
EMPTY = hashlib.sha256().digest()
MOST_SHOWN = 20
ERASABLE = ("open", "seal", "note")
"""Kinds of leaves whose records can be destroyed on purpose; those that say so stay."""

Point = tuple[int, int, int, int]
Key = tuple[str, int, bytes, bytes]
Verify = Callable[[bytes, bytes, bytes], bool]


_NOT_SO = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)
"""What reading data of another shape than expected raises."""


class Broken(Exception):  # noqa: N818  (what it is, in the reader's words)
    """Something is not as it was written. ``str(error)`` says what."""


# --- Ed25519, RFC 8032 section 5.1.7 --------------------------------------------------------------

_P = 2**255 - 19
_L = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, -1, _P) % _P
_ROOT = pow(2, (_P - 1) // 4, _P)


def _add(a: Point, b: Point) -> Point:
    x1, y1, z1, t1 = a
    x2, y2, z2, t2 = b
    m, n = (y1 - x1) * (y2 - x2) % _P, (y1 + x1) * (y2 + x2) % _P
    c, d = 2 * t1 * t2 * _D % _P, 2 * z1 * z2 % _P
    e, f, g, h = n - m, d - c, d + c, n + m
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def _times(n: int, point: Point) -> Point:
    found: Point = (0, 1, 1, 0)
    while n:
        if n & 1:
            found = _add(found, point)
        point = _add(point, point)
        n >>= 1
    return found


def _point(data: bytes) -> Point | None:
    """Decode a point; ``None`` for bytes that are none."""
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & (1 << 255) - 1
    if y >= _P:
        return None
    square = (y * y - 1) * pow(_D * y * y + 1, -1, _P) % _P
    x = pow(square, (_P + 3) // 8, _P)
    if (x * x - square) % _P:
        x = x * _ROOT % _P
    if (x * x - square) % _P or (x == 0 and sign):
        return None
    if x & 1 != sign:
        x = _P - x
    return x, y, 1, x * y % _P


_BASE = _point((4 * pow(5, -1, _P) % _P).to_bytes(32, "little")) or (0, 1, 1, 0)


def ed25519(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether ``signature`` (64 bytes) is that of ``public`` (32 bytes) over ``message``."""
    if len(public) != 32 or len(signature) != 64:
        return False
    a, r = _point(public), _point(signature[:32])
    s = int.from_bytes(signature[32:], "little")
    if a is None or r is None or s >= _L:
        return False
    k = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % _L
    x1, y1, z1, _ = _times(s, _BASE)
    x2, y2, z2, _ = _add(r, _times(k, a))
    return (x1 * z2 - x2 * z1) % _P == 0 and (y1 * z2 - y2 * z1) % _P == 0


# --- the tree, RFC 6962 section 2.1 ---------------------------------------------------------------


def leaf_hash(kind: str, entry: int, commitment: bytes) -> bytes:
    lines = f"freehold ledger leaf v1\n{kind}\n{entry}\n{commitment.hex()}\n"
    return hashlib.sha256(b"\x00" + lines.encode("utf-8", "replace")).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


class Tree:
    """Grows leaf by leaf. ``seen`` is told of each complete subtree: height, place, root."""

    def __init__(self, seen: Callable[[int, int, bytes], None] | None = None) -> None:
        self.size = 0
        self._peaks: list[bytes] = []
        self._seen = seen

    def append(self, leaf: bytes) -> None:
        height, place = 0, self.size
        while place & 1:
            leaf = node_hash(self._peaks.pop(), leaf)
            height, place = height + 1, place >> 1
            if self._seen:
                self._seen(height, place, leaf)
        self._peaks.append(leaf)
        self.size += 1

    def root(self) -> bytes:
        root: bytes | None = None
        for peak in reversed(self._peaks):
            root = peak if root is None else node_hash(peak, root)
        return root or EMPTY


def root_of_path(leaf: bytes, place: int, size: int, path: Sequence[bytes]) -> bytes:
    """The root that an audit path leads to from a leaf's hash (RFC 9162 section 2.1.3.2)."""
    last, found = size - 1, leaf
    for other in path:
        if last == 0:
            raise Broken("the proof is too long")
        if place & 1 or place == last:
            found = node_hash(other, found)
            while place and not place & 1:
                place, last = place >> 1, last >> 1
        else:
            found = node_hash(found, other)
        place, last = place >> 1, last >> 1
    if last:
        raise Broken("the proof is too short")
    return found


# --- notes, c2sp.org/signed-note ------------------------------------------------------------------


def parse_key(line: str) -> Key:
    """A verifier key in its one-line form: name, kind, public key, key id."""
    try:
        name, digits, encoded = line.strip().split("+", 2)
        data = base64.b64decode(encoded, validate=True)
        key_id = hashlib.sha256(name.encode() + b"\n" + data).digest()[:4]
        if len(data) == 33 and data[0] in (1, 4) and key_id.hex() == digits and name.isprintable():
            return name, data[0], data[1:], key_id
    except ValueError:
        pass
    raise Broken("this is no verifier key: NAME+ID+KEY on one line")


def parse_note(note: str) -> tuple[str, list[tuple[str, bytes, bytes]]]:
    """A note's text, and its signatures as (name, key id, signature)."""
    text, gap, below = note.rpartition("\n\n")
    try:
        if not gap or not below.endswith("\n"):
            raise ValueError
        signatures = []
        for line in below[:-1].split("\n"):
            mark, name, encoded = line.split(" ")
            data = base64.b64decode(encoded, validate=True)
            if mark != "\u2014" or base64.b64encode(data).decode() != encoded:
                raise ValueError
            signatures.append((name, data[:4], data[4:]))
    except ValueError:
        raise Broken("it is no signed note") from None
    return text + "\n", signatures


def read_checkpoint(note: str, key: Key, verify: Verify = ed25519) -> tuple[int, bytes]:
    """Size and root of a checkpoint that ``key`` (as ``parse_key`` gives it) has signed."""
    name, kind, public, key_id = key
    text, signatures = parse_note(note)
    mine = [s for found, found_id, s in signatures if (found, found_id) == (name, key_id)]
    if not mine:
        raise Broken(f"it is not signed by {name} with the key that is expected")
    for signature in mine:
        message, own = text.encode(), signature
        if kind == 4:
            time = int.from_bytes(signature[:8], "big")
            message, own = f"cosignature/v1\ntime {time}\n{text}".encode(), signature[8:]
        if not verify(public, message, own):
            raise Broken(f"its signature by {name} is wrong")
    lines = text.split("\n")
    try:
        size, root = int(lines[1]), base64.b64decode(lines[2], validate=True)
    except (IndexError, ValueError):
        raise Broken("it is no checkpoint") from None
    if kind == 1 and lines[0] != name:
        raise Broken(f"it is of another log, {lines[0]!r}")
    return size, root


# --- the log --------------------------------------------------------------------------------------


class Leaf(NamedTuple):
    """A leaf with its record, as it lies in the log. Erased records are ``None``."""

    place: int
    kind: str
    entry: int
    commitment: bytes
    salt: bytes | None
    body: bytes | None
    content: bytes | None


def content_fits(said: Any, salt: bytes, content: bytes | None) -> bool:
    """Whether what is kept of a prompt or an answer is what the record says of it."""
    if said is None or said["policy"] == "hash":
        return content is None
    if content is None:
        return False
    if said["policy"] == "sealed":
        return bool(hashlib.sha256(content).hexdigest() == said["ciphertext_sha256"])
    tagged = b"freehold ledger content v1\x00" + salt + content
    return bool(hashlib.sha256(tagged).hexdigest() == said["sha256"])


class Check:
    """Takes leaves in order, then says what it found.

    ``checkpoints`` are (size it is filed under, note) pairs of the log's own; ``against`` (name,
    note) pairs that were kept elsewhere. ``verify`` checks one Ed25519 signature.
    """

    def __init__(
        self,
        key: Key,
        checkpoints: Iterable[tuple[int, str]],
        against: Sequence[tuple[str, str]] = (),
        verify: Verify = ed25519,
        seen: Callable[[int, int, bytes], None] | None = None,
    ) -> None:
        self.findings: list[str] = []
        self.entries = self.notes = self.erasures = 0
        self.open: set[int] = set()
        self._erased: dict[int, int] = {}
        self._erasures: set[int] = set()
        self._tree = Tree(seen)
        self._next = 0
        self._whole = True
        self._sound = 0
        self._marks: dict[int, list[tuple[str, bytes, bool]]] = {}
        self._last: int | None = None
        for filed, note in checkpoints:
            where = f"of {filed} leaves"
            size = self._mark(where, note, key, verify, elsewhere=False)
            if size is not None and size != filed:
                self._say(f"checkpoint {where}: it is of {size}")
            if size is not None:
                self._last = max(size, self._last or 0)
        for where, note in against:
            self._mark(where, note, key, verify, elsewhere=True)
        self._compare()

    def _mark(
        self, where: str, note: str, key: Key, verify: Verify, *, elsewhere: bool
    ) -> int | None:
        try:
            size, root = read_checkpoint(note, key, verify)
        except Broken as error:
            self._say(f"checkpoint {where}: {error}")
            return None
        self._marks.setdefault(size, []).append((where, root, elsewhere))
        return size

    @property
    def size(self) -> int:
        return self._next

    def root(self) -> bytes:
        return self._tree.root()

    def leaf(self, leaf: Leaf) -> None:
        """The next leaf."""
        if leaf.place != self._next:
            self._misplaced(leaf.place)
        self._next = max(leaf.place + 1, self._next)
        self._look(leaf)
        self._order(leaf.place, leaf.kind, leaf.entry)
        self._tree.append(leaf_hash(leaf.kind, leaf.entry, leaf.commitment))
        self._compare()

    def finish(self) -> list[str]:
        """All leaves were given: what was found, in words; empty if all is as it was written."""
        for place in sorted(self._erased):
            if self._erased[place] not in self._erasures:
                self._say(f"leaf {place}: its record is gone and no leaf says it was erased")
        if self._last is None:
            if self._next:
                self._say("the log has leaves and no checkpoint of its own that holds")
        elif self._last < self._next:
            self._say(f"leaves {self._last} to {self._next - 1} are under no checkpoint")
        for size in sorted(self._marks):
            if size > self._next:
                for where, _, elsewhere in self._marks[size]:
                    how = "kept elsewhere " if elsewhere else ""
                    self._say(
                        f"the log was cut: the checkpoint {how}({where}) covers {size} leaves and "
                        f"there are {self._next}"
                    )
        return self.findings

    def _say(self, finding: str) -> None:
        self.findings.append(finding)

    def _misplaced(self, place: int) -> None:
        self._whole = False
        if place < self._next:
            self._say(f"leaf {place} stands where leaf {self._next} belongs")
        elif place == self._next + 1:
            self._say(f"leaf {self._next} is missing")
        else:
            self._say(f"leaves {self._next} to {place - 1} are missing")

    def _look(self, leaf: Leaf) -> None:
        place, kind, entry, commitment, salt, body, content = leaf
        if salt is None and body is None and content is None and kind in ERASABLE:
            self._erased[place] = entry
            return
        if salt is None or body is None:
            self._say(f"leaf {place}: half of its record is gone")
            return
        if hashlib.sha256(b"freehold ledger record v1\x00" + salt + body).digest() != commitment:
            self._say(f"leaf {place}: its record is not the one that was committed to")
            return
        try:
            right = content_fits(json.loads(body).get("content"), salt, content)
        except _NOT_SO:
            right = False
        if not right:
            self._say(f"leaf {place}: its prompt or answer is not the one that was recorded")

    def _order(self, place: int, kind: str, entry: int) -> None:
        if kind == "open":
            self.entries += 1
            self.open.add(entry)
            right = entry == place
        elif kind == "seal":
            right = entry in self.open
            self.open.discard(entry)
        elif kind == "erase":
            self.erasures += 1
            self._erasures.add(entry)
            right = entry < place
        else:
            self.notes += 1
            right = kind == "note" and entry == place
        if not right:
            self._say(f"leaf {place}: {kind!r} of entry {entry} cannot stand here")

    def _compare(self) -> None:
        marks = self._marks.get(self._next)
        if not marks or not self._whole:
            return
        root = self._tree.root()
        for where, claimed, elsewhere in marks:
            if claimed == root:
                continue
            if elsewhere:
                self._say(
                    f"the log was rewritten: its first {self._next} leaves are not those of the "
                    f"checkpoint kept elsewhere ({where})"
                )
            else:
                self._say(
                    f"between leaf {self._sound} and leaf {self._next - 1} something was changed, "
                    f"moved or put in: the root is not the checkpoint's ({where})"
                )
                self._whole = False
                return
        self._sound = self._next


def read_proof(path: Path) -> Any:
    """A file of JSON, whatever it holds."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise Broken("it is no proof: not JSON") from None


def check_proof(proof: dict[str, Any], key: Key, verify: Verify = ed25519) -> str:
    """Return what a proof shows, in words. Raises ``Broken``."""
    try:
        size, root = read_checkpoint(proof["checkpoint"], key, verify)
        shown = []
        for one in proof["leaves"]:
            leaf, salt, body = one["leaf"], leaf_bytes(one, "salt"), leaf_bytes(one, "body")
            commitment = bytes.fromhex(leaf["commitment"])
            if salt is not None and body is not None:
                made = hashlib.sha256(b"freehold ledger record v1\x00" + salt + body).digest()
                if made != commitment:
                    raise Broken(f"leaf {leaf['place']}: its record is not the committed one")
            path = [bytes.fromhex(step) for step in one["path"]]
            digest = leaf_hash(leaf["kind"], leaf["entry"], commitment)
            if root_of_path(digest, leaf["place"], size, path) != root:
                raise Broken(f"leaf {leaf['place']} is not under the checkpoint of {size} leaves")
            shown.append(f"{leaf['kind']} (leaf {leaf['place']})")
        entry = int(proof["entry"])
    except _NOT_SO as error:
        raise Broken(f"it is no proof: {type(error).__name__}") from None
    return f"entry {entry}: {', '.join(shown)} under the checkpoint of {size} leaves"


# --- an export ------------------------------------------------------------------------------------


def leaf_bytes(one: dict[str, Any], name: str) -> bytes | None:
    value: str | None = one["leaf"][name]
    if value is None:
        return None
    return value.encode() if name == "body" else bytes.fromhex(value)


def read_leaves(path: Path) -> Iterator[Leaf]:
    """The lines of ``leaves.jsonl`` as ``Check.leaf`` takes them."""
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                leaf = json.loads(line)
                yield Leaf(
                    int(leaf["place"]),
                    str(leaf["kind"]),
                    int(leaf["entry"]),
                    bytes.fromhex(leaf["commitment"]),
                    None if leaf["salt"] is None else bytes.fromhex(leaf["salt"]),
                    None if leaf["body"] is None else leaf["body"].encode("utf-8", "replace"),
                    None if leaf["content"] is None else bytes.fromhex(leaf["content"]),
                )
            except _NOT_SO:
                raise Broken(f"{path.name}, line {number} is no leaf") from None


def read_notes(folder: Path) -> list[tuple[int, str]]:
    """The checkpoints of an export: what size each is said to be of, and the note."""
    try:
        notes = json.loads((folder / "checkpoints.json").read_text(encoding="utf-8"))
        return [(int(one["size"]), str(one["note"])) for one in notes]
    except _NOT_SO:
        raise Broken("checkpoints.json is not what an export writes") from None


def read_kept(text: str) -> str:
    """A note, or a note in base64 as a reply's header carries it."""
    if "\n\n" in text:
        return text
    try:
        return base64.b64decode(text.strip(), validate=True).decode()
    except ValueError:
        raise Broken("it is neither a signed note nor one in base64") from None


def verify_export(
    folder: Path,
    key: str | None = None,
    against: Sequence[tuple[str, str]] = (),
    verify: Verify = ed25519,
) -> Check:
    """Check an exported folder. ``key`` is a verifier key's line, ``against`` (name, text)."""
    try:
        said = json.loads((folder / "export.json").read_text(encoding="utf-8"))["format"]
    except _NOT_SO:
        said = None
    if said != FORMAT:
        raise Broken(f"export.json does not say {FORMAT!r}")
    given = parse_key((folder / "ledger.vkey").read_text(encoding="utf-8"))
    if key is not None and parse_key(key) != given:
        raise Broken("the export's key is not the one you know: the log was begun or signed anew")
    kept = [(name, read_kept(text)) for name, text in against]
    check = Check(given, read_notes(folder), kept, verify)
    for leaf in read_leaves(folder / "leaves.jsonl"):
        check.leaf(leaf)
    check.finish()
    return check


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Verify an exported Freehold ledger.")
    parser.add_argument("folder", nargs="?", default=str(Path(__file__).resolve().parent))
    parser.add_argument("--against", action="append", default=[], metavar="FILE")
    parser.add_argument("--key", metavar="LINE")
    parser.add_argument("--witness", action="append", default=[], metavar="LINE")
    parser.add_argument("--proof", metavar="FILE")
    given = parser.parse_args(arguments)
    folder = Path(given.folder)
    try:
        if given.proof:
            line = given.key or (folder / "ledger.vkey").read_text(encoding="utf-8")
            print(check_proof(read_proof(Path(given.proof)), parse_key(line)))
            return 0
        against = [(path, Path(path).read_text(encoding="utf-8")) for path in given.against]
        check = verify_export(folder, given.key, against)
        for line in given.witness:
            key = parse_key(line)
            notes = [note for _, note in read_notes(folder) if key[0] in note]
            sizes = [read_checkpoint(note, key)[0] for note in notes]
            if not sizes:
                raise Broken(f"no checkpoint is cosigned by {key[0]}")
            print(f"cosigned by {key[0]} up to leaf {max(sizes) - 1}")
    except (Broken, OSError, ValueError) as error:
        print(f"NOT AS WRITTEN: {error}")
        return 3
    for finding in check.findings[:MOST_SHOWN]:
        print(f"NOT AS WRITTEN: {finding}")
    if check.findings:
        print(f"{len(check.findings)} findings")
        return 3
    print(f"as written: {check.size} leaves, {check.entries} entries, root {check.root().hex()}")
    print(f"{len(check.open)} entries open, {check.erasures} erasures, {check.notes} notes")
    if not given.against:
        print("a cut tail, or a log signed anew, shows only --against a checkpoint kept elsewhere")
    if not given.key:
        print("the key is the export's own: compare ledger.vkey with the one you know, or --key it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
