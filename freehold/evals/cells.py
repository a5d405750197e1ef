"""Programs that a model wrote, run where they can do no harm (``freehold.residency.cell``)."""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from types import TracebackType

from freehold.errors import ProcessError, UsageError
from freehold.residency import cell
from freehold.residency.cell import Limits


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Whether a program came to its end, and if not, why: one line, partly the program's own
    words."""

    passed: bool
    reason: str


class Cells:
    """``n`` processes that run a program each at a time. They start and end with a ``with`` block,
    in which ``run`` may be called from any thread.

    Their folder is there before, so that a lock can leave it open. Raises ``UsageError`` where the
    kernel cannot shut a cell: nothing is ever run outside one.
    """

    def __init__(self, n: int, *, limits: Limits | None = None) -> None:
        if not cell.works():
            raise UsageError(
                "programs cannot be confined here: tasks of code need Linux with Landlock and "
                "seccomp (5.13 or newer). Leave them out, or run them on such a machine",
                param="suite",
            )
        self.folder = tempfile.mkdtemp(prefix="freehold-cells-")
        self._n, self._limits = n, limits or Limits()
        self._all: list[subprocess.Popen[bytes]] = []
        self._free: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()

    def __enter__(self) -> Cells:
        for _ in range(self._n):
            process = _start([self.folder, self._limits.dumps()])
            self._all.append(process)
            self._free.put(process)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def run(self, program: str) -> Outcome:
        """Run ``program`` when a cell is free. Raises ``ProcessError`` if its process is gone."""
        process = self._free.get()
        try:
            assert process.stdin is not None, "made with pipes"
            assert process.stdout is not None, "made with pipes"
            # Half a surrogate pair is no text that a file could hold, and no program.
            line = json.dumps({"program": program.encode("utf-8", "replace").decode()})
            process.stdin.write(line.encode() + b"\n")
            process.stdin.flush()
            answer = process.stdout.readline()
            if not answer:
                raise ProcessError("the process that runs programs in cells has ended: start again")
        except BrokenPipeError:
            raise ProcessError(
                "the process that runs programs in cells has ended: start again"
            ) from None
        finally:
            self._free.put(process)
        found = json.loads(answer)
        return Outcome(passed=found["passed"] is True, reason=str(found["reason"]))

    def close(self) -> None:
        """End them all; what runs is killed."""
        for process in self._all:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _start(arguments: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-I", "-m", "freehold.residency.cell", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"OPENBLAS_NUM_THREADS": "1", "PATH": os.defpath},
        start_new_session=True,
    )
