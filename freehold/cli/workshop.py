"""Locked processes that read strangers' data and make models, and what they say meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from freehold.cli.output import Bar
from freehold.cli.places import residency_folder
from freehold.cli.settings import Settings
from freehold.errors import FreeholdError, ProcessError, UsageError

if TYPE_CHECKING:
    import socket

    from freehold.pair import Link
    from freehold.residency.landlock import Reach
    from freehold.train.recipe import Recipe
    from freehold.train.seat import Seat

PlanLines = Callable[[dict[str, Any]], Sequence[str]]
_LAST_WORDS = 2.0
"""Seconds in which ranks that have lost one of them say so too."""


def seats(ranks: int, folder: Path, device: str = "cpu") -> tuple[Seat, ...]:
    """The seats of the processes to start here, each computing on ``device``: of ``ranks`` on this
    machine, which meet in ``folder``; under ``torchrun`` the one that it gives; none for a process
    alone. Raises ``UsageError``."""
    from freehold.train import devices
    from freehold.train.seat import of_torchrun

    given = of_torchrun(os.environ, device)
    devices.check(device, ranks if given is None else given.world)
    if given is None:
        return on_this_machine(ranks, folder, device)
    if ranks > 1:
        raise UsageError("torchrun says how many ranks there are: leave out --ranks", param="ranks")
    return (given,)


def on_this_machine(ranks: int, folder: Path, device: str = "cpu") -> tuple[Seat, ...]:
    """The seats of ``ranks`` on this machine, none for one alone."""
    from freehold.train import seat

    if ranks == 1:
        return ()
    return seat.on_this_machine(ranks, str(folder.resolve() / ".ranks"), device)


def _meeting(reach: Reach) -> Reach:
    """With what gloo needs to meet other ranks: it asks which network interfaces there are, and of
    what class each device on the bus is."""
    from dataclasses import replace

    found = Path("/sys/bus/pci/devices").glob("*/class")
    return replace(
        reach,
        read=(*reach.read, *(str(path.resolve()) for path in found)),
        list=(*reach.list, "/sys/class/net", "/sys/bus/pci/devices"),
        ports=False,
    )


def multiplies_bfloat16() -> bool | None:
    """Whether this processor has instructions for it; ``None`` where nobody says. Without, torch
    computes it by detours, several times slower than float32."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return "avx512_bf16" in flags or "amx_bf16" in flags


def programs(recipe: Recipe, device: str) -> str:
    """What a process has to compile of a recipe before it is locked whole, as one argument."""
    return json.dumps({"recipe": recipe.plain(), "device": device}) if recipe.compiled else ""


class Shop:
    """Starts ``python -m MODULE`` under the lock, and listens. Leaving it ends what it started."""

    def __init__(self, module: str, settings: Settings, *, quiet: bool) -> None:
        from freehold.residency.watching import Watch

        self._module, self._quiet = module, quiet
        self._watch = Watch(residency_folder(), enforce=settings.residency == "enforce")
        self._started: list[tuple[subprocess.Popen[bytes], Link[Any], Any]] = []
        self._called: list[str] = []
        self._stores: set[str] = set()
        self._bar = Bar(quiet=quiet, of_bytes=False)

    def __enter__(self) -> Shop:
        self._watch.start()
        self._bar.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()
        for process, _, sock in self._started:
            sock.close()
            process.kill()
            process.wait()
        for store in self._stores:
            Path(store).unlink(missing_ok=True)
        self._watch.close()

    def start(self, job: Any, reach: Reach, seat: Seat | None = None, *, program: str = "") -> None:
        """One more process, and its job. On a ``seat`` it meets other ranks before it can make no
        more sockets; until then no port is shut. With a ``program`` (see ``programs``) it compiles
        before it can start no more compilers."""
        from freehold import spawning
        from freehold.pair import Link, frame
        from freehold.train import wire

        if seat is not None:
            reach = _meeting(reach)
        order = self._watch.order("workshop", reach)
        more = ("" if seat is None else seat.dumps(), program)
        process, sock = spawning.spawn(self._module, order, *more)
        link: Link[Any] = Link(sock, wire.read_from)
        self._started.append((process, link, sock))
        self._called.append("the locked process" if seat is None else str(seat))
        link.send([frame(job)])

    def start_ranks(
        self, job: Any, reach: Reach, seats: Sequence[Seat], *, program: str = ""
    ) -> None:
        """One process for each of these seats, or one alone, which may need a ``program``; the
        first rank is the last of them, whose result counts."""
        for store in {seat.store for seat in seats} - {""}:
            Path(store).unlink(missing_ok=True)  # what a run that was killed left there
            self._stores.add(store)
        for seat in reversed(seats):
            self.start(job, reach, seat)
        if not seats:
            self.start(job, reach, program=program)

    def listen(
        self, plan_lines: PlanLines = lambda plan: (), *, only_plan: bool = False
    ) -> dict[str, Any]:
        """What the last of them says at the end, or with ``only_plan`` its plan. The first Ctrl-C
        asks all for an end with the state kept, the second leaves at once. Raises what they
        raised."""
        listeners = [
            _Listener(started, called, self._bar, plan_lines, only_plan=only_plan)
            for started, called in zip(self._started, self._called, strict=True)
        ]
        asked = False
        while any(one.result is None for one in listeners):
            try:
                self._hear(listeners)
            except KeyboardInterrupt:
                if asked:
                    raise
                asked = True
                self._bar.note("finishing this step, to keep the state (Ctrl-C again: leave now)")
                for one in listeners:
                    one.stop()
        self._started_done()
        result = listeners[-1].result
        assert result is not None
        return result

    def _hear(self, listeners: Sequence[_Listener], patience: float | None = None) -> None:
        """Wait until some of them say something, and take it. Raises what one of them raised: where
        several did, as ranks do that lose each other, what is most likely the cause."""
        ready = _ready(listeners, patience)
        # Progress is shown of one at a time.
        at_work = next((one for one in listeners if one.result is None and one.at_work), None)
        for one in ready:
            one.take(shown=at_work in (None, one))
        if patience is None and any(one.failed for one in listeners):
            until = time.monotonic() + _LAST_WORDS
            while (left := until - time.monotonic()) > 0 and _open(listeners):
                self._hear(listeners, left)
            failed = min((one for one in listeners if one.failed), key=_cause)
            assert failed.failed is not None
            raise failed.failed

    def _started_done(self) -> None:
        for process, _, sock in self._started:
            sock.close()
            process.kill()
            process.wait()
        self._started, self._called = [], []


def _open(listeners: Sequence[_Listener]) -> list[_Listener]:
    """Those that may still say something."""
    return [one for one in listeners if one.result is None and one.failed is None]


def _ready(listeners: Sequence[_Listener], seconds: float | None) -> list[_Listener]:
    import select

    poll = select.poll()
    by_number = {one.descriptor: one for one in _open(listeners)}
    for number, one in by_number.items():
        poll.register(number, one.events)
    found = poll.poll(None if seconds is None else 1000 * seconds)
    return [by_number[number] for number, _ in found]


def _cause(one: _Listener) -> int:
    """What a process knows of itself comes before one that is gone, and both before a defect: a
    rank that has lost another fails by what its library says of that."""
    if one.gone:
        return 1
    return 2 if type(one.failed) is ProcessError else 0


class _Listener:
    """What one process of the workshop says, shown as it comes. ``result`` is what it says at the
    end, or with ``only_plan`` its plan; ``failed`` why it ended otherwise, ``gone`` without a
    word."""

    def __init__(
        self,
        started: tuple[subprocess.Popen[bytes], Link[Any], socket.socket],
        called: str,
        bar: Bar,
        plan_lines: PlanLines,
        *,
        only_plan: bool,
    ) -> None:
        self._process, self._link, sock = started
        self.descriptor, self._called = sock.fileno(), called
        self._bar = bar
        self._plan_lines, self._only_plan = plan_lines, only_plan
        self._what, self._done = "", 0
        self.result: dict[str, Any] | None = None
        self.failed: FreeholdError | None = None
        self.gone = self.at_work = False

    @property
    def events(self) -> int:
        return self._link.events

    def stop(self) -> None:
        """Ask for an end with the state kept."""
        from freehold.pair import Hungup, frame
        from freehold.train import wire

        with contextlib.suppress(Hungup):
            self._link.send([frame(wire.Stop())])

    def take(self, *, shown: bool) -> None:
        """Take what it has said."""
        from freehold.pair import Hungup, ending

        try:
            for message in self._link.receive(wait=False):
                self._take(message, shown=shown)
        except Hungup:
            how = "it has hung up"
            with contextlib.suppress(subprocess.TimeoutExpired):
                how = ending(self._process.wait(_LAST_WORDS))
            self.gone = True
            self.failed = ProcessError(f"{self._called} ended without a word: {how}; see above")
        except FreeholdError as error:
            self.failed = error

    def _take(self, message: Any, *, shown: bool) -> None:
        from freehold.faults import error_of
        from freehold.train import wire

        match message:
            case wire.Failed(fault=fault):
                raise error_of(fault)
            case wire.Ended(result=result):
                self.result = result
            case wire.Planned(plan=plan):
                for line in self._plan_lines(plan):
                    self._bar.note(line)
                if self._only_plan:
                    self.result = plan
            case wire.Note(line=line):
                self._bar.note(line)
            case wire.Work(what=what, done=done, total=total):
                self.at_work = True
                if shown:
                    self._progress(what, done, total)
            case wire.Stepped(steps=steps, figures=figures):
                step = int(figures["step"])
                if "held_out" in figures:
                    self._bar.note(f"step {step}: held-out loss {figures['held_out']:.4f}")
                elif "bits_per_byte" in figures:
                    said = figures["bits_per_byte"]
                    self._bar.note(f"step {step}: {said:.4f} bits per byte of what is held out")
                else:
                    self._progress("Training", step, steps)
                    loss = f", loss {figures['loss']:.3f}" if "loss" in figures else ""
                    self._bar.label(f"Training{loss}")

    def _progress(self, what: str, done: int, total: int) -> None:
        if what != self._what:
            self._bar.start(total, what)
            self._what, self._done = what, 0
        self._bar.advance(done - self._done)
        self._done = done
