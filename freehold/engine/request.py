"""One request as the engine keeps it while it runs."""

from __future__ import annotations

from dataclasses import dataclass, field

from freehold.engine.pooling import LayerPooler, Pooler
from freehold.engine.prefix import PageName
from freehold.engine.rows import Rows
from freehold.engine.sampler import Chooser
from freehold.engine.speculation import Guess, Lookup
from freehold.engine.wire import WINDOW
from freehold.qwen.adapter import Adapter
from freehold.qwen.ops import State
from freehold.types import Tap


@dataclass(kw_only=True, eq=False)
class Request:
    """A prompt to continue (``chooser`` is set), a text to embed (``pooler`` is) or to score.

    ``ids`` grows with the answer. ``number`` is given by arrival, so a smaller one is older.
    ``state`` holds the first ``length`` of ``ids`` in the KV cache; it is ``None`` before the
    request first runs and after it had to give up its pages. ``rows`` are what a readout says of
    them, if there is one.
    """

    number: int
    ids: list[int]
    n_prompt: int
    max_tokens: int = 0
    chooser: Chooser | None = None
    pooler: Pooler | LayerPooler | None = None
    top: int = 0
    taps: tuple[Tap, ...] = ()
    adapter: Adapter | None = None
    rows: Rows | None = None

    state: State | None = None
    names: list[PageName] = field(default_factory=list)
    pages: list[int] = field(default_factory=list)
    cached_tokens: int = 0
    prefilled: bool = False
    scored: int = 0
    unread: int = 0
    lookup: Lookup = field(default_factory=Lookup)
    guess: Guess | None = None

    @property
    def salt(self) -> bytes:
        """What tells its KV pages from those that another adapter fills for the same ids."""
        return b"" if self.adapter is None else self.adapter.digest.encode()

    @property
    def length(self) -> int:
        """Tokens in the KV cache."""
        return 0 if self.state is None else self.state.length

    @property
    def left(self) -> int:
        """Tokens that must still go through the model before the next one can be chosen."""
        return len(self.ids) - self.length

    @property
    def scores(self) -> bool:
        """Whether it is a text to score."""
        return self.chooser is None and self.pooler is None

    @property
    def guessed(self) -> list[int]:
        """Ids that go through the model behind the last real one, in case they are what comes."""
        return [] if self.guess is None else self.guess.ids

    @property
    def stalled(self) -> bool:
        """Whether its reader has fallen too far behind for more to be made."""
        return self.unread >= WINDOW

    @property
    def steered(self) -> bool:
        """Whether taps change its residual stream, and so what lies in the KV cache."""
        return any(tap.mode != "read" for tap in self.taps)

    @property
    def shares_prefix(self) -> bool:
        """Whether its KV pages are what anyone else with its adapter would compute for the same
        ids, and whether it can do without the logits of pages it did not compute."""
        return self.chooser is not None and not self.steered
