"""Values hidden behind placeholders, and put back in what comes out: exactly, to the byte.

The same value has the same placeholder wherever it stands, so that a model can still tell two
people apart. What looks like a placeholder in a text to begin with never becomes one.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable

from freehold.types import Span

_PLACEHOLDER = re.compile(r"\[[A-Z][A-Z0-9-]{0,31}_[0-9]{1,9}\]")
_BEGUN = re.compile(r"\[(?:[A-Z][A-Z0-9-]{0,31}(?:_[0-9]{0,9})?)?\Z")
_LITERAL = "TEXT"


class Mask:
    """One request's hidden values. ``hide`` what goes to the model, ``restore`` what comes back."""

    def __init__(self) -> None:
        self._values: dict[str, str] = {}
        self._literal: set[str] = set()
        self._placeholders: dict[tuple[str, str], str] = {}

    @property
    def values(self) -> dict[str, str]:
        """The values by their placeholders."""
        return dict(self._values)

    def hide(self, text: str, spans: Iterable[Span]) -> str:
        """``text`` with a placeholder (``[IBAN_1]``) for each span. Spans must not overlap and must
        come in order, as ``find`` gives them."""
        self._literal.update(_PLACEHOLDER.findall(text))
        pieces, done = [], 0
        for span in spans:
            pieces.append(self._hide_literals(text[done : span.start]))
            pieces.append(self._placeholder(span.label.upper(), text[span.start : span.end]))
            done = span.end
        return "".join((*pieces, self._hide_literals(text[done:])))

    def restore(self, text: str) -> str:
        """``text`` with the values in place of their placeholders. Others are left as they are."""
        return _PLACEHOLDER.sub(lambda found: self._values.get(found[0], found[0]), text)

    def written(self, how: Callable[[str], str]) -> Mask:
        """The same with each value as ``how`` writes it, for what comes back in another form."""
        other = Mask()
        other._values = {name: how(value) for name, value in self._values.items()}
        return other

    def restorer(self) -> Restorer:
        """For a text that comes in pieces."""
        return Restorer(self)

    def _hide_literals(self, text: str) -> str:
        """What an earlier text of the request made a placeholder is hidden like a value."""
        return _PLACEHOLDER.sub(
            lambda found: (
                self._placeholder(_LITERAL, found[0]) if found[0] in self._values else found[0]
            ),
            text,
        )

    def _placeholder(self, label: str, value: str) -> str:
        known = self._placeholders.get((label, value))
        if known is None:
            numbers = (f"[{label}_{n}]" for n in itertools.count(len(self._values) + 1))
            known = next(n for n in numbers if n not in self._literal and n not in self._values)
            self._placeholders[label, value], self._values[known] = known, value
        return known


class Restorer:
    """Restores a text piece by piece, holding back no more than half a placeholder."""

    def __init__(self, mask: Mask) -> None:
        self._mask = mask
        self._held = ""

    def feed(self, piece: str) -> str:
        """What may be shown once ``piece`` has come."""
        text = self._held + piece
        begun = _BEGUN.search(text, text.rfind("[")) if "[" in text else None
        self._held = begun[0] if begun is not None else ""
        return self._mask.restore(text[: len(text) - len(self._held)])

    def finish(self) -> str:
        """What was held back, at the end."""
        held, self._held = self._held, ""
        return held
