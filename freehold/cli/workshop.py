"""Locked processes that read strangers' data and make models, and what they say meanwhile."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from freehold.cli.output import Bar
from freehold.cli.places import residency_folder
from freehold.cli.settings import Settings
from freehold.errors import ProcessError

if TYPE_CHECKING:
    from freehold.pair import Link
    from freehold.residency.landlock import Reach

PlanLines = Callable[[dict[str, Any]], Sequence[str]]


class Shop:
    """Starts ``python -m MODULE`` under the lock, and listens. Leaving it ends what it started."""

    def __init__(self, module: str, settings: Settings, *, quiet: bool) -> None:
        from freehold.residency.watching import Watch

        self._module, self._quiet = module, quiet
        self._watch = Watch(residency_folder(), enforce=settings.residency == "enforce")
        self._started: list[tuple[subprocess.Popen[bytes], Link[Any], Any]] = []
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
        self._watch.close()

    def start(self, job: Any, reach: Reach) -> None:
        """One more process, and its job."""
        from freehold import spawning
        from freehold.pair import Link, frame
        from freehold.train import wire

        order = self._watch.order("workshop", reach)
        process, sock = spawning.spawn(self._module, order)
        link: Link[Any] = Link(sock, wire.read_from)
        self._started.append((process, link, sock))
        link.send([frame(job)])

    def listen(
        self, plan_lines: PlanLines = lambda plan: (), *, only_plan: bool = False
    ) -> dict[str, Any]:
        """What the last of them says at the end, or with ``only_plan`` its plan. The first Ctrl-C
        asks all for an end with the state kept, the second leaves at once. Raises what they
        raised."""
        result: dict[str, Any] = {}
        for _, link, _ in self._started:
            listener = _Listener(link, self._bar, plan_lines, only_plan=only_plan)
            result = listener.listen([one for _, one, _ in self._started])
        self._started_done()
        return result

    def _started_done(self) -> None:
        for process, _, sock in self._started:
            sock.close()
            process.kill()
            process.wait()
        self._started = []


class _Listener:
    """What the workshop says, shown as it comes."""

    def __init__(self, link: Any, bar: Bar, plan_lines: PlanLines, *, only_plan: bool) -> None:
        self._link, self._bar = link, bar
        self._plan_lines, self._only_plan = plan_lines, only_plan
        self._what, self._done = "", 0
        self._result: dict[str, Any] | None = None

    def listen(self, every: Sequence[Any]) -> dict[str, Any]:
        """The result, or with ``only_plan`` the plan. Ctrl-C is told to ``every`` process."""
        from freehold.pair import Hungup, frame
        from freehold.train import wire

        asked = False
        while self._result is None:
            try:
                for message in self._link.receive(wait=True):
                    self._take(message)
            except Hungup:
                raise ProcessError("the locked process ended without a word: see above") from None
            except KeyboardInterrupt:
                if asked:
                    raise
                asked = True
                self._bar.note("finishing this step, to keep the state (Ctrl-C again: leave now)")
                for link in every:
                    link.send([frame(wire.Stop())])
        return self._result

    def _take(self, message: Any) -> None:
        from freehold.faults import error_of
        from freehold.train import wire

        match message:
            case wire.Failed(fault=fault):
                raise error_of(fault)
            case wire.Ended(result=result):
                self._result = result
            case wire.Planned(plan=plan):
                for line in self._plan_lines(plan):
                    self._bar.note(line)
                if self._only_plan:
                    self._result = plan
            case wire.Note(line=line):
                self._bar.note(line)
            case wire.Work(what=what, done=done, total=total):
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
                    self._bar.label(f"Training, loss {figures['loss']:.3f}")

    def _progress(self, what: str, done: int, total: int) -> None:
        if what != self._what:
            self._bar.start(total, what)
            self._what, self._done = what, 0
        self._bar.advance(done - self._done)
        self._done = done
