"""What the two ends of the engine's pair say to each other, and how it lies in the stream.

Frames are those of ``freehold.pair``. Both ends decode strictly: an unknown tag, a missing, surplus
or wrongly typed field is a ``ProtocolError``, after which the stream is not read any further.

Plain data only: no pickle, no class is named by the bytes but those of the two unions below.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypeAlias

import msgspec
import numpy as np

from freehold.errors import ProtocolError
from freehold.faults import Fault
from freehold.pair import frame
from freehold.types import EngineStats, Floats, ModelCard, Pooling, Sampling, Tap

SOFT_FRAME = 8 << 20
"""Events of a step are spread over further frames once one has grown to about this many bytes."""

WINDOW = 64 << 10
"""Bytes (as ``cost`` counts them) of a request's events that may be on the way, unread: about a
thousand plain tokens. A request whose reader falls behind by more waits for it; others go on."""


class Remote(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An engine that is another program, spoken to in the OpenAI API's words.

    ``address`` is ``unix:/PATH`` or ``http://HOST:PORT/BASE`` (or ``https``), ``ip`` the host's
    address in figures. ``name`` is what the model is called there; empty: the only one it has.
    ``key`` is sent as a bearer token. ``what`` names the program in ``ModelCard.numerics``.
    ``ours`` says that Freehold has started it on files it has verified. ``patience`` is how many
    seconds a request waits for it while it is away, ``start_seconds`` the first time.
    """

    address: str
    what: str
    ip: str = ""
    name: str = ""
    key: str = ""
    ours: bool = False
    patience: float = 300.0
    start_seconds: float = 1800.0


class Readout(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is read off the residual stream, row by row, of every request for an answer.

    Value number c of a row is the sum over ``layers`` (counted from 0, ascending) of the row's
    stream behind that block times ``weights[i, :, c]``; ``weights`` are (layers, width, channels)
    little-endian float32. It is for the model of that ``digest`` and for no other.
    """

    digest: str
    layers: list[int]
    channels: int
    weights: bytes


class EngineSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All the engine process is told, as its first frame.

    ``root`` is the store's folder and ``model`` a name in it. ``secret`` is the file that seals
    packs; without one, no pack is read or written. ``cache_tokens`` is how many tokens
    of KV cache are shared by all requests, in pages of ``page_size``. ``max_running`` requests are
    answered at once, ``max_waiting`` more are queued. ``step_tokens`` bounds the tokens of one
    forward pass: more is faster for long prompts, less is smoother for running answers.
    ``speculate`` is ``lookup`` or ``off``; ``draft`` may name a smaller model to guess where lookup
    finds nothing, and ``draft_digest``, if there is one, is the only one it may have. They change
    how fast tokens come, never which. With ``remote`` the arithmetic is another program's; of the
    model only what text needs is read here. A ``readout`` changes no bit of any answer.
    """

    root: str
    model: str
    secret: str | None = None
    backend: str = "torch"
    dtype: str = "float32"
    device: str = "cpu"
    threads: int | None = None
    cache_tokens: int = 32_768
    page_size: int = 16
    max_running: int = 64
    max_waiting: int = 256
    step_tokens: int = 256
    speculate: str = "lookup"
    draft: str = ""
    draft_digest: str = ""
    remote: Remote | None = None
    readout: Readout | None = None


# --- counter to engine ----------------------------------------------------------------------------


class ToEngine(msgspec.Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True):
    """Base of what the counter sends."""


class Configure(ToEngine, frozen=True):
    """The first frame, once."""

    settings: EngineSettings


class Generate(ToEngine, frozen=True):
    """Continue ``ids``. ``request`` is a number never used before on this pair; ``adapter`` the
    name of one that was attached, here and below, or empty."""

    request: int
    ids: list[int]
    sampling: Sampling
    taps: list[Tap] = []
    adapter: str = ""


class Score(ToEngine, frozen=True):
    """Log-probabilities of ``ids``, with the ``top`` best alternatives at each position."""

    request: int
    ids: list[int]
    top: int
    taps: list[Tap] = []
    adapter: str = ""


class Embed(ToEngine, frozen=True):
    """One vector for ``ids``."""

    request: int
    ids: list[int]
    pooling: Pooling
    adapter: str = ""


class Pool(ToEngine, frozen=True):
    """The residual stream behind each of ``layers`` for ``ids``: its mean over the rows ``start``
    to ``stop``, and its last row. Answered by ``Embedded``, (layers, 2, width)."""

    request: int
    ids: list[int]
    layers: list[int]
    start: int
    stop: int


class Attach(ToEngine, frozen=True):
    """Put the vault's adapter of this name and digest beside the model, in place of one of the same
    name. Answered by ``Attached``."""

    request: int
    name: str
    digest: str


class Detach(ToEngine, frozen=True):
    """Take an adapter away: requests that run with it run on. Answered by ``Attached``."""

    request: int
    name: str


class Cancel(ToEngine, frozen=True):
    """Nobody waits for ``request`` any more. One that has ended already is left alone."""

    request: int


class Read(ToEngine, frozen=True):
    """``cost`` bytes of the events of ``request`` have been read."""

    request: int
    cost: int


class AskStats(ToEngine, frozen=True):
    """Answered by ``Stats`` with the same number."""

    request: int


class Close(ToEngine, frozen=True):
    """End now."""


# --- engine to counter ----------------------------------------------------------------------------


class Event(msgspec.Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True):
    """Base of what happens to one request."""

    request: int


class Tapped(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What one read tap saw: ``values`` are ``rows`` rows of little-endian float32."""

    point: str
    layer: int
    rows: int
    values: bytes

    def array(self) -> Floats:
        """(rows, width). Raises ``ProtocolError`` if the bytes are not that."""
        if self.rows < 1 or len(self.values) % (4 * self.rows):
            raise ProtocolError("the engine sent a tap whose size does not fit its rows")
        return np.frombuffer(self.values, "<f4").reshape(self.rows, -1)


class Prefilled(Event, frozen=True):
    """The prompt is in the cache. ``readout`` is its rows', little-endian float32."""

    prompt_tokens: int
    cached_tokens: int
    readout: bytes = b""


class Token(Event, frozen=True):
    """One chosen token. ``readout`` is that of the row it was chosen by."""

    id: int
    logprob: float | None = None
    top: list[tuple[int, float]] = []
    taps: list[Tapped] = []
    readout: bytes = b""


class Done(Event, frozen=True):
    """The answer is complete."""

    reason: Literal["stop", "length"]
    output_tokens: int


class Scored(Event, frozen=True):
    """Further positions of a scored text, in order.

    ``values`` are little-endian float32: ``values[i]`` is the log-probability of the token after
    the i-th of these positions (NaN after the text's last). ``last`` is true for the last part.
    """

    values: bytes
    top: list[list[tuple[int, float]]]
    taps: list[Tapped]
    last: bool


class Embedded(Event, frozen=True):
    """The vector of a text: ``values`` are little-endian float32."""

    values: bytes


class Failed(Event, frozen=True):
    """The request has ended with an error; others go on."""

    fault: Fault


AnyEvent: TypeAlias = Prefilled | Token | Done | Scored | Embedded | Failed


class FromEngine(
    msgspec.Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True
):
    """Base of what the engine sends."""


class Loading(FromEngine, frozen=True):
    """``what`` is being done (in the words that go before the model's name), and ``done`` of
    ``total`` bytes of it."""

    what: str
    done: int
    total: int


class Note(FromEngine, frozen=True):
    """What the owner should know, and nothing fails for."""

    line: str


class Ready(FromEngine, frozen=True):
    """The model answers. Follows ``Loading``, once."""

    card: ModelCard


class Events(FromEngine, frozen=True):
    """What one step brought, in the order in which it happened."""

    events: list[AnyEvent]


class Stats(FromEngine, frozen=True):
    """The answer to ``AskStats``; a ``fault`` where the engine is away and may come back."""

    request: int
    stats: EngineStats
    fault: Fault | None = None


class Attached(FromEngine, frozen=True):
    """The answer to ``Attach`` and ``Detach``: the bytes an adapter takes, or why not."""

    request: int
    nbytes: int = 0
    fault: Fault | None = None


class Fatal(FromEngine, frozen=True):
    """The engine ends; this is why."""

    fault: Fault


AnyToEngine: TypeAlias = (
    Configure | Generate | Score | Embed | Pool | Attach | Detach | Cancel | Read | AskStats | Close
)
AnyFromEngine: TypeAlias = Loading | Note | Ready | Events | Stats | Attached | Fatal

_to_engine: msgspec.msgpack.Decoder[AnyToEngine] = msgspec.msgpack.Decoder(AnyToEngine)
_from_engine: msgspec.msgpack.Decoder[AnyFromEngine] = msgspec.msgpack.Decoder(AnyFromEngine)


# --- frames ---------------------------------------------------------------------------------------


def event_frames(events: list[AnyEvent]) -> Iterator[bytes]:
    """A step's events: one frame, or a few if taps make them large."""
    start = size = 0
    for end, event in enumerate(events, 1):
        size += cost(event)
        if size >= SOFT_FRAME:
            yield frame(Events(events[start:end]))
            start, size = end, 0
    if start < len(events):
        yield frame(Events(events[start:]))


def cost(event: AnyEvent) -> int:
    """About how many bytes an event takes on its way. Both ends count with this function."""
    if isinstance(event, Token):
        taps = sum(len(tap.values) for tap in event.taps)
        return 48 + 16 * len(event.top) + taps + len(event.readout)
    if isinstance(event, Scored):
        pairs = sum(len(best) for best in event.top)
        return 48 + len(event.values) + 16 * pairs + sum(len(tap.values) for tap in event.taps)
    if isinstance(event, Prefilled):
        return 48 + len(event.readout)
    return 48 + len(event.values) if isinstance(event, Embedded) else 48


def read_to_engine(payload: bytes) -> AnyToEngine:
    """Decode what the counter sent. Raises ``ProtocolError``, or ``UsageError`` for settings out of
    range in ``Sampling``, which checks itself."""
    try:
        return _to_engine.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"the engine was sent a frame that is no message: {error}") from error


def read_from_engine(payload: bytes) -> AnyFromEngine:
    """Decode what the engine sent. Raises ``ProtocolError``."""
    try:
        return _from_engine.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"the engine sent a frame that is no message: {error}") from error
