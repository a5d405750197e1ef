"""Answers held back until they have been judged.

What is held is a sentence, or where none ends, ``hold`` pieces (tokens): of those the newer half
stays back with the next ones, so that what begins at the edge is judged whole. A call of a tool is
held until it is complete. Pieces come out as they went in, the same objects, unless something in
them was masked. Where the policy cuts nothing, nothing is held: the same text is judged, in longer
parts, and what was seen is told.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from freehold.guard.deciding import stronger
from freehold.types import CallPart, Heard, Release, Span, Verdict

Kind: TypeAlias = Literal["thoughts", "words", "call"]
Judged: TypeAlias = Callable[[Kind, str, str, str], Awaitable[Verdict]]
"""``(kind, before, text, name)``: what is to be done about ``text``, which came after ``before`` in
the same channel; ``name`` is the tool's that a call calls. Spans are places in ``text``."""
Masked: TypeAlias = Callable[[Span, str], str | None]
"""What stands for a span's text, ``None`` where it stays."""

CONTEXT = 400
"""Characters before a text that it is judged together with."""
_UNHURRIED = 4
"""So many times what would be held is judged at once where nothing waits for it."""
_LEAST = 12
"""Characters: what is shorter is no sentence of its own (``1.``, ``Dr.``)."""
_ENDED = re.compile(r"[.!?…:;][\"'\u201d\u2019»)\]*_`]{0,4}\Z")
"""A sentence's end, if blanks come next."""
_ENDS = re.compile(
    r"(?:[\u3002\uff01\uff1f]|\n)[\"'\u201d\u2019»\u300d\u300f\uff09)\]*_`\s]{0,4}\Z"
)
"""A sentence's end, whatever comes next."""
_WORD = re.compile(r"\S+")
_REACH = 64
"""Characters around a cut in which numbers and addresses are looked for."""


@dataclass(eq=False, kw_only=True, slots=True)
class _Piece:
    """One piece as it was fed; ``left`` of its atoms are held, ``changed`` if any was masked."""

    heard: Heard
    left: int = 0
    changed: bool = False
    atoms: list[_Atom]


@dataclass(eq=False, kw_only=True, slots=True)
class _Atom:
    """One piece's text in one channel; ``out`` is what of it may go out."""

    piece: _Piece
    kind: Kind
    text: str
    call: CallPart | None = None
    out: str = ""


class HeldStream:
    """``types.StreamGuard``. ``judged`` decides; ``hold`` is in pieces; ``holds`` is false where
    nothing can be cut or masked; ``hide`` leaves thoughts out, unjudged."""

    def __init__(
        self,
        judged: Judged,
        *,
        hold: int,
        holds: bool = True,
        hide: bool = False,
        masked: Masked = lambda span, text: None,
    ) -> None:
        self._judged, self._masked = judged, masked
        self._hold, self._holds, self._hide = hold, holds, hide
        self._pieces: deque[_Piece] = deque()
        self._held: list[_Atom] = []
        """Atoms of one channel: those that wait for a verdict."""
        self._fresh = 0
        """How many of them no verdict has covered."""
        self._before: dict[Kind, str] = {}
        self._verdict: Verdict | None = None
        """The strongest of this feed."""
        self._over = False

    async def feed(self, heard: Heard, *, last: bool = False) -> Release:
        if self._over:
            return Release()
        self._verdict = None
        piece = _piece(heard, hide=self._hide)
        self._pieces.append(piece)
        for atom in piece.atoms:
            if self._ends_before(atom):
                await self._settle()
            self._add(atom)
            if (keep := self._due()) is not None:
                await self._settle(keep)
            if self._over:
                break
        if last and not self._over:
            await self._settle()
        self._over = self._over or last
        return Release(heard=self._released(), verdict=self._verdict)

    def _add(self, atom: _Atom) -> None:
        self._held.append(atom)
        self._fresh += 1
        if not self._holds:
            atom.piece.left -= 1

    # --- when to judge ----------------------------------------------------------------------------

    def _ends_before(self, atom: _Atom) -> bool:
        """Whether what is held is a whole to which ``atom`` does not belong."""
        if not self._held:
            return False
        now = self._held[-1]
        if atom.kind != now.kind or _number(atom) != _number(now):
            return True
        if now.kind == "call" or not self._holds or not atom.text[:1].isspace():
            return False
        return self._is_sentence(_ENDED)

    def _due(self) -> int | None:
        """How many of the held atoms stay back at a verdict now; ``None`` if none is due."""
        if self._held[-1].kind == "call":
            return None
        if not self._holds:
            # Nothing waits for the verdict, so that fewer and longer texts are judged; each begins
            # with the end of the one before.
            return self._hold // 2 if self._fresh >= _UNHURRIED * self._hold else None
        if self._is_sentence(_ENDS):
            return 0
        if len(self._held) >= self._hold and self._fresh >= self._hold // 2:
            return self._hold // 2
        return None

    def _is_sentence(self, end: re.Pattern[str]) -> bool:
        tail = ""
        for atom in reversed(self._held):
            tail = atom.text + tail
            if len(tail) >= _LEAST:
                return end.search(tail[-8:]) is not None
        return False

    # --- judge and let go -------------------------------------------------------------------------

    async def _settle(self, keep: int = 0) -> None:
        """Judge what is held, and let go of all but about the last ``keep`` atoms."""
        if not self._held:
            return
        kind = self._held[-1].kind
        text = "".join(atom.text for atom in self._held)
        before = "" if kind == "call" else self._before.get(kind, "")
        called = (atom.call.name for atom in self._held if atom.call is not None)
        verdict = await self._judged(kind, before, text, next(filter(None, called), ""))
        self._fresh = 0
        self._verdict = stronger(self._verdict, verdict)
        if verdict.stops:
            self._over = True
            return
        masks = self._masks(verdict, text) if self._holds else []
        count = self._parting(keep, text, [span for span, _ in masks])
        going, self._held = self._held[:count], self._held[count:]
        self._before[kind] = (before + "".join(atom.text for atom in going))[-CONTEXT:]
        if self._holds:
            _mask(going, masks)
            for atom in going:
                atom.piece.left -= 1

    def _masks(self, verdict: Verdict, text: str) -> list[tuple[Span, str]]:
        """What is to be put for which spans, from left to right, none over another."""
        spans = [span for reading in verdict.readings for span in reading.spans]
        masks: list[tuple[Span, str]] = []
        for span in sorted(spans, key=lambda span: (span.start, -span.end)):
            put = self._masked(span, text[span.start : span.end])
            if put is not None and (not masks or masks[-1][0].end <= span.start):
                masks.append((span, put))
        return masks

    def _parting(self, keep: int, text: str, masks: Sequence[Span]) -> int:
        """How many atoms go. No cut goes through what is masked, nor through what may be half a
        number: within twice what is held in all its groups, beyond that in the group it is in."""
        if keep == 0:
            return len(self._held)
        ends, end = [], 0
        for atom in self._held:
            end += len(atom.text)
            ends.append(end)
        cut = ends[-keep - 1] if len(ends) > keep else 0
        cut = _outside(text, cut, most=_REACH if len(ends) < 2 * self._hold else 1)
        for span in reversed(masks):
            if span.start < cut < span.end:
                cut = span.start
        return sum(1 for end in ends if end <= cut)

    def _released(self) -> tuple[Heard, ...]:
        out = []
        while self._pieces and self._pieces[0].left == 0:
            out.append(_whole(self._pieces.popleft()))
        return tuple(out)


def _outside(text: str, cut: int, *, most: int) -> int:
    """``cut``, or the place before the numbers or the address that it goes through, ``most`` of
    them: an account, a card, a telephone may be written in groups."""
    for word in reversed(list(_WORD.finditer(text, max(0, cut - _REACH), cut + _REACH))):
        if word.start() < cut and most:
            most -= 1
            if not any(one.isdigit() or one == "@" for one in word.group()):
                break
            cut = word.start()
    return cut


# --- pieces ---------------------------------------------------------------------------------------


def _piece(heard: Heard, *, hide: bool) -> _Piece:
    piece = _Piece(heard=heard, atoms=[])
    if hide and heard.thoughts:
        heard = piece.heard = replace(heard, thoughts="")
    if heard.thoughts:
        piece.atoms.append(_Atom(piece=piece, kind="thoughts", text=heard.thoughts))
    if heard.words:
        piece.atoms.append(_Atom(piece=piece, kind="words", text=heard.words))
    for part in heard.calls:
        piece.atoms.append(_Atom(piece=piece, kind="call", text=part.arguments, call=part))
    for atom in piece.atoms:
        atom.out = atom.text
    piece.left = len(piece.atoms)
    return piece


def _number(atom: _Atom) -> int:
    return -1 if atom.call is None else atom.call.index


def _whole(piece: _Piece) -> Heard:
    """A piece as it may go out: the object that came in, if nothing in it was masked."""
    if not piece.changed:
        return piece.heard
    by_kind: dict[Kind, str] = {}
    calls = []
    for atom in piece.atoms:
        by_kind[atom.kind] = atom.out
        if atom.call is not None:
            calls.append(replace(atom.call, arguments=atom.out))
    return Heard(
        thoughts=by_kind.get("thoughts", ""), words=by_kind.get("words", ""), calls=tuple(calls)
    )


def _mask(atoms: Sequence[_Atom], masks: Sequence[tuple[Span, str]]) -> None:
    """Put each mask where its span begins, and take the rest of the span out. ``masks`` go from
    left to right; each atom is written once, however many there are."""
    at = place = 0
    for atom in atoms:
        end, done, parts = at + len(atom.text), at, []
        while place < len(masks) and masks[place][0].start < end:
            span, put = masks[place]
            if span.start >= at:
                parts += [atom.text[done - at : span.start - at], put]
            done = min(span.end, end)
            if span.end > end:
                break  # the rest of it is in the next one
            place += 1
        if done > at:
            atom.out = "".join((*parts, atom.text[done - at :]))
            atom.piece.changed = True
        at = end
