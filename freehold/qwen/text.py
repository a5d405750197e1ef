"""From token ids back to text, one token at a time: whole characters, and never a stop string."""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Callable, Collection, Sequence

from freehold.errors import UsageError
from freehold.types import Delta

MAX_STOP_STRINGS = 16
MAX_STOP_CHARS = 1_024


class StopMatcher:
    """Finds the first of several strings in a text that arrives in pieces.

    An Aho-Corasick automaton: each state is the longest suffix of the text so far that begins some
    stop string, so the cost per character does not depend on how many strings there are, and
    exactly that suffix must be held back. (Aho and Corasick, CACM 18(6), 1975.)
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._next: list[dict[str, int]] = [{}]
        self._depth = [0]
        self._longest = [0]  # length of the longest stop string that ends in this state
        self._fail = [0]
        for stop in stops:
            self._insert(stop)
        self._link()
        self._state = 0

    def _insert(self, stop: str) -> None:
        state = 0
        for character in stop:
            if character not in self._next[state]:
                self._next[state][character] = len(self._next)
                self._next.append({})
                self._depth.append(self._depth[state] + 1)
                self._longest.append(0)
                self._fail.append(0)
            state = self._next[state][character]
        self._longest[state] = len(stop)

    def _link(self) -> None:
        """Breadth first: where to go on when no edge fits."""
        queue = deque(self._next[0].values())
        while queue:
            state = queue.popleft()
            for character, child in self._next[state].items():
                self._fail[child] = self._step(self._fail[state], character)
                own, inherited = self._longest[child], self._longest[self._fail[child]]
                self._longest[child] = max(own, inherited)
                queue.append(child)

    def _step(self, state: int, character: str) -> int:
        while state and character not in self._next[state]:
            state = self._fail[state]
        return self._next[state].get(character, 0)

    def feed(self, character: str) -> int:
        """Returns the length of the stop string that this character completes, or 0."""
        self._state = self._step(self._state, character)
        return self._longest[self._state]

    @property
    def held(self) -> int:
        """How many of the last characters may yet turn out to begin a stop string."""
        return self._depth[self._state]


class TextDecoder:
    """``types.Decoder``: tokens in, text out.

    Bytes that are no valid UTF-8 become U+FFFD, as in ``bytes.decode(errors="replace")``. Tokens in
    ``hidden`` (control tokens) give no text. Each push costs time in proportion to its own text.
    """

    def __init__(
        self,
        token_bytes: Callable[[int], bytes],
        *,
        stop: Sequence[str] = (),
        hidden: Collection[int] = (),
    ) -> None:
        check_stop(stop)
        self._token_bytes = token_bytes
        self._hidden = hidden
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._matcher = StopMatcher(stop) if stop else None
        self._kept: list[str] = []  # characters held back
        self._stopped = False

    def push(self, token: int) -> Delta:
        data = b"" if token in self._hidden else self._token_bytes(token)
        return self._release(self._utf8.decode(data))

    def finish(self) -> Delta:
        delta = self._release(self._utf8.decode(b"", final=True))
        rest = "" if self._stopped else "".join(self._kept)
        self._kept.clear()
        return Delta(text=delta.text + rest, stopped=self._stopped, stop=delta.stop)

    def _release(self, text: str) -> Delta:
        if self._stopped:
            return Delta(stopped=True)
        if self._matcher is None:
            return Delta(text=text)
        released: list[str] = []
        for character in text:
            self._kept.append(character)
            matched = self._matcher.feed(character)
            if matched:
                self._stopped = True
                cut = len(self._kept) - matched
                released, stop = [*released, *self._kept[:cut]], "".join(self._kept[cut:])
                self._kept.clear()
                return Delta(text="".join(released), stopped=True, stop=stop)
            free = len(self._kept) - self._matcher.held
            released += self._kept[:free]
            del self._kept[:free]
        return Delta(text="".join(released))


def check_stop(stop: Sequence[str]) -> None:
    """Raises ``UsageError`` naming ``stop``."""
    if isinstance(stop, str) or len(stop) > MAX_STOP_STRINGS:
        raise UsageError(f"stop must be a list of at most {MAX_STOP_STRINGS} strings", param="stop")
    for text in stop:
        if not isinstance(text, str) or not 1 <= len(text) <= MAX_STOP_CHARS:
            raise UsageError(
                f"each stop string must have 1 to {MAX_STOP_CHARS} characters", param="stop"
            )
