"""Frames: what goes in comes out, and whatever else comes in is a clear error, soon."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.engine import wire
from freehold.engine.reply import complete, event_of, logprobs_of
from freehold.errors import (
    BusyError,
    ContextOverflowError,
    DigestError,
    EngineError,
    FreeholdError,
    IntegrityError,
    LedgerError,
    MalformedError,
    NotFoundError,
    ProcessError,
    ProtocolError,
    RefusedError,
    SourceError,
    StorageError,
    UsageError,
)
from freehold.faults import Fault, error_of, fault_of
from freehold.pair import MAX_FRAME, Frames, frame
from freehold.types import Cutoff, EngineStats, ModelCard, Sampling, Tap

CARD = ModelCard(
    name="m", digest="d", context=9, vocab=5, bytes_per_token=1, numerics="n", caps=frozenset("a")
)
VALUES = np.arange(4, dtype="<f4").tobytes()
TO_ENGINE = [
    wire.Configure(wire.EngineSettings(root="r", model="m", threads=2)),
    wire.Generate(
        1,
        [1, 2],
        Sampling(
            logit_bias={3: 0.5},
            stop_ids=(4,),
            logprobs=2,
            seed=-(1 << 63),
            grammar='start: "x"',
            cutoff=Cutoff(after=9, unless=4, ids=(1, 2)),
        ),
        [Tap(point="block_in", layer=0, mode="add", vector=(0.5, 1.5))],
    ),
    wire.Score(2, [3], 5),
    wire.Cancel(1),
    wire.Read(1, 4096),
    wire.Attach(4, "legal", "sha256:00"),
    wire.Detach(5, "legal"),
    wire.AskStats(3),
    wire.Close(),
]
FROM_ENGINE = [
    wire.Loading("Loading", 1, 2),
    wire.Note("the disk is full"),
    wire.Ready(CARD),
    wire.Events(
        [
            wire.Prefilled(1, 2, 0),
            wire.Token(1, 7, -0.5, [(7, -0.5), (8, -1.5)], [wire.Tapped("block_in", 0, 1, VALUES)]),
            wire.Done(1, "stop", 1),
            wire.Scored(2, VALUES, [[(1, -2.0)]], [], True),
            wire.Failed(3, Fault(kind="BusyError", message="m", retry_after=4)),
        ]
    ),
    wire.Stats(3, EngineStats(running=1, waiting=2, pages_total=3, pages_free=4, pages_cached=5)),
    wire.Attached(4, 5),
    wire.Fatal(Fault(kind="DigestError", message="m", file="f", chunk=0)),
]


def payloads(data: bytes, *, cut: int) -> list[bytes]:
    frames = Frames()
    pieces = [data[i : i + cut] for i in range(0, len(data), cut)]
    return [payload for piece in pieces for payload in frames.feed(piece)]


@pytest.mark.parametrize("cut", [1, 3, 10_000])
def test_messages_survive_the_stream(cut: int) -> None:
    stream = b"".join(map(frame, TO_ENGINE))
    assert [wire.read_to_engine(p) for p in payloads(stream, cut=cut)] == TO_ENGINE
    stream = b"".join(map(frame, FROM_ENGINE))
    assert [wire.read_from_engine(p) for p in payloads(stream, cut=cut)] == FROM_ENGINE


@given(st.binary(max_size=200))
def test_random_bytes_are_no_message(data: bytes) -> None:
    for read in (wire.read_to_engine, wire.read_from_engine):
        # Msgpack is dense: a few short strings are valid. Then they are exactly one message.
        with suppress(ProtocolError):
            message = read(data)
            assert read(frame(message)[4:]) == message


@given(st.randoms(use_true_random=False), st.sampled_from([*TO_ENGINE, *FROM_ENGINE]))
def test_damaged_messages_are_refused_or_read_whole(rng: random.Random, message: Any) -> None:
    data = bytearray(frame(message)[4:])
    for _ in range(rng.randint(1, 4)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    read = wire.read_to_engine if isinstance(message, wire.ToEngine) else wire.read_from_engine
    # UsageError: Sampling's own check of a number out of range. Nothing else may be raised.
    with suppress(ProtocolError, UsageError):
        assert isinstance(read(bytes(data)), wire.ToEngine | wire.FromEngine)


@pytest.mark.parametrize("message", [*TO_ENGINE, *FROM_ENGINE], ids=lambda m: type(m).__name__)
def test_every_truncation_and_surplus_is_refused(message: Any) -> None:
    data = frame(message)[4:]
    read = wire.read_to_engine if isinstance(message, wire.ToEngine) else wire.read_from_engine
    for end in range(len(data)):
        with pytest.raises(ProtocolError):
            read(data[:end])
    with pytest.raises(ProtocolError):
        read(data + b"\x00")
    fields = msgspec.msgpack.decode(data, strict=False)
    with pytest.raises(ProtocolError):
        read(msgspec.msgpack.encode([*fields, 1]))
    for i in range(len(fields)):
        for wrong in (None, {"a": 1}, "x", [[]], -1.5):
            changed = [*fields]
            changed[i] = wrong
            if type(wrong) is not type(fields[i]) and not isinstance(fields[i], float | list):
                with pytest.raises(ProtocolError):
                    read(msgspec.msgpack.encode(changed))


def test_one_side_does_not_take_the_other_sides_messages() -> None:
    for message in FROM_ENGINE:
        with pytest.raises(ProtocolError):
            wire.read_to_engine(frame(message)[4:])


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(ProtocolError):
        wire.read_to_engine(b"\x91" * 100_000)


def test_an_oversized_frame_is_refused_before_it_is_read() -> None:
    frames = Frames()
    with pytest.raises(ProtocolError, match="announces"):
        list(frames.feed((MAX_FRAME + 1).to_bytes(4, "big")))
    with pytest.raises(ProtocolError, match="the most"):
        frame(wire.Score(1, [1 << 40] * (MAX_FRAME // 8), 0))


def test_a_large_step_goes_out_in_several_frames() -> None:
    big = wire.Tapped("block_in", 0, 1, bytes(3 << 20))
    events: list[wire.AnyEvent] = [wire.Token(n, 1, taps=[big]) for n in range(7)]
    frames = list(wire.event_frames(events))
    assert len(frames) == 3
    read = [wire.read_from_engine(data[4:]) for data in frames]
    assert [e for m in read if isinstance(m, wire.Events) for e in m.events] == events
    assert list(wire.event_frames([])) == []
    assert len(list(wire.event_frames([wire.Token(n, 1) for n in range(64)]))) == 1


# --- what the counter makes of it -----------------------------------------------------------------


@pytest.mark.parametrize(
    "event",
    [
        wire.Token(1, 5),
        wire.Token(1, -1),
        wire.Token(1, 1, taps=[wire.Tapped("p", 0, 3, VALUES)]),
        wire.Token(1, 1, taps=[wire.Tapped("p", 0, 0, VALUES)]),
        wire.Scored(1, VALUES, [], [], True),
    ],
)
def test_events_that_cannot_be_are_refused(event: wire.AnyEvent) -> None:
    with pytest.raises(ProtocolError, match="the engine sent"):
        event_of(event, vocab=5)


def test_scores_of_the_wrong_length_are_refused() -> None:
    with pytest.raises(ProtocolError, match="bytes of scores"):
        logprobs_of([wire.Scored(1, VALUES, [], [], True)], 5)
    with pytest.raises(ProtocolError, match="for a scored text"):
        complete([wire.Done(1, "stop", 0)])


@pytest.mark.parametrize(
    "error",
    [
        UsageError("u", param="p"),
        NotFoundError("n", param="ref"),
        ContextOverflowError("c", param="ids"),
        IntegrityError("i"),
        DigestError("d", file="f", chunk=3),
        MalformedError("m", file="f"),
        RefusedError("r"),
        SourceError("s"),
        StorageError("s"),
        BusyError("b", retry_after=9),
        EngineError("e"),
        LedgerError("l"),
        ProtocolError("p"),
    ],
    ids=lambda e: type(e).__name__,
)
def test_errors_cross_unchanged(error: FreeholdError) -> None:
    back = error_of(fault_of(error))
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert vars(back) == vars(error)


def test_an_error_of_an_unknown_kind_is_the_process_s() -> None:
    assert type(error_of(Fault(kind="Exploit", message="m"))) is ProcessError
    assert fault_of(FreeholdError("m")).kind == "ProcessError"
