"""How a command speaks: one JSON document with ``--json``, else lines for a person."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from freehold.errors import (
    BusyError,
    DigestError,
    FreeholdError,
    GateError,
    IntegrityError,
    MalformedError,
    StorageError,
    UsageError,
)

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


# Controls but tab and line end, the escapes of eight-bit terminals, and what turns text around.
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def emit(result: Mapping[str, Any] | Sequence[Any], lines: Iterable[str], *, as_json: bool) -> None:
    """Print ``result`` as JSON, or ``lines`` for a person."""
    if as_json:
        print(json.dumps(result, ensure_ascii=False, indent=2))
    else:
        for line in lines:
            print(_plain(line))


def say(line: str) -> None:
    """A word to the person at the terminal, never mixed into a result."""
    print(_plain(line), file=sys.stderr, flush=True)


def _plain(text: str) -> str:
    """``text`` with what would steer a terminal written out: names, reasons and error texts come
    from files that anybody may have made."""
    return _STEERING.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def one_line(text: str) -> str:
    """A text that somebody else wrote, without line ends to pass for lines of ours."""
    return " ".join(text.split())


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Left-aligned columns, as wide as their widest cell."""
    cells = [list(head), *[list(row) for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]


def size(n_bytes: float) -> str:
    """Bytes in decimal units, as disks and downloads are sold."""
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} TB"


def fail(error: FreeholdError, *, as_json: bool) -> int:
    """Print an error and return the exit code that stands for its kind."""
    if as_json:
        detail: dict[str, Any] = {"type": type(error).__name__, "message": str(error)}
        if isinstance(error, UsageError):
            detail["param"] = error.param
        if isinstance(error, DigestError | MalformedError):
            detail["file"] = error.file
        if isinstance(error, DigestError):
            detail["chunk"] = error.chunk
        if isinstance(error, IntegrityError) and error.link is not None:
            detail["link"] = error.link
        if isinstance(error, GateError):
            detail["missing"] = list(error.missing)
        if isinstance(error, BusyError):
            detail["retry_after"] = error.retry_after
        print(json.dumps({"error": detail}, ensure_ascii=False))
    else:
        say(f"freehold: {error}")
    return error.exit_code


def write_over(path: Path, data: bytes) -> None:
    """Write a whole file or none, over one that is there. A locked process, which may make no
    links, can do this. Raises ``StorageError``."""
    import contextlib

    fresh = path.with_name(f"{path.name}.fresh")
    try:
        fresh.write_bytes(data)
        fresh.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise StorageError(f"{path} cannot be written: {error.strerror}") from error


def write_new(path: Path, data: bytes) -> None:
    """Write a whole file or none; never over another. Raises ``UsageError``, ``StorageError``."""
    import os
    import tempfile

    try:
        descriptor, fresh = tempfile.mkstemp(dir=path.parent, prefix=".freehold-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(fresh).chmod(0o644)
            # A link fails where a rename would overwrite.
            os.link(fresh, path)
        finally:
            Path(fresh).unlink()
    except FileExistsError:
        raise UsageError(f"{path} is there already: name another file", param="output") from None
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}") from error


class Bar:
    """A progress bar on a terminal, a line at every tenth elsewhere, nothing when ``quiet``.

    Offers what ``store.pull`` and the engine's loader report to: ``start``, ``advance``, ``note``.
    """

    def __init__(self, *, quiet: bool = False, of_bytes: bool = True) -> None:
        self._quiet = quiet
        self._of_bytes = of_bytes
        self._live: Progress | None = None
        self._task: TaskID | None = None
        self._what = ""
        self._total = 0
        self._done = 0
        self._tenths = 0

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(self, total: int, what: str) -> None:
        """Begin a piece of work of ``total`` bytes (or things), called ``what``."""
        self.close()
        self._what, self._total, self._done, self._tenths = what, total, 0, 0
        if self._quiet:
            return
        if not sys.stderr.isatty():
            say(f"{what} ({size(total) if self._of_bytes else total})")
            return
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._live = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            *(
                (DownloadColumn(), TransferSpeedColumn())
                if self._of_bytes
                else (MofNCompleteColumn(),)
            ),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._live.start()
        self._task = self._live.add_task(what, total=total)

    def advance(self, n: int) -> None:
        """``n`` more bytes are done (fewer, if ``n`` is negative: a source started over)."""
        self._done += n
        if self._live is not None and self._task is not None:
            self._live.advance(self._task, n)
        elif not self._quiet and self._total and self._done * 10 // self._total > self._tenths:
            self._tenths = self._done * 10 // self._total
            say(f"{self._what}: {self._tenths * 10} %")

    def label(self, what: str) -> None:
        """Another name for the work that goes on; shown on a terminal only."""
        if self._live is not None and self._task is not None:
            self._live.update(self._task, description=_plain(what))

    def note(self, line: str) -> None:
        """One line about the work, above the bar."""
        if self._live is not None:
            self._live.console.print(_plain(line), markup=False, highlight=False)
        elif not self._quiet:
            say(line)

    def close(self) -> None:
        """Leave the finished bar on the screen and give the terminal back."""
        if self._live is not None:
            self._live.stop()
            self._live = self._task = None
