"""How a locked process begins that reads strangers' data and holds no key: the foundry's, and the
workshop's (``adapt``). The lock comes before everything that starts a thread, numpy and torch among
it: hence the late imports.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from freehold.errors import FreeholdError, ProcessError, UsageError
from freehold.train.seat import Seat

if TYPE_CHECKING:
    from freehold.residency.lock import Order
    from freehold.train.ranks import Ranks


def main(arguments: Sequence[str], *, room: str, called: str) -> int:
    """Let ``freehold.ROOM.job`` work on the socket whose descriptor is the first argument, locked
    as the second says, on the ``Seat`` that the third is and with the blocks that the fourth says,
    where they are there and not empty; the exit status. ``called`` is the process's name in
    errors."""
    if not 1 <= len(arguments) <= 4 or not arguments[0].isdecimal():
        sys.stderr.write(f"freehold.{room} is started by freehold itself: run `freehold {room}`\n")
        return UsageError.exit_code
    fd, ranks = int(arguments[0]), None
    if len(arguments) > 1:
        from freehold.residency.lock import Order, close_strangers

        order = Order.loads(arguments[1])
        close_strangers({fd, *order.descriptors})
        try:
            seat, program = (*arguments[2:], "", "")[:2]
            ranks = _locked(order, Seat.loads(seat) if seat else None, program)
        except ProcessError as error:
            sys.stderr.write(f"freehold: {called} could not start: {error}\n")
            return ProcessError.exit_code
        except (OSError, FreeholdError) as error:
            sys.stderr.write(f"freehold: {called} could not be locked: {error}\n")
            return ProcessError.exit_code
    return int(import_module(f"freehold.{room}.job").serve(fd, ranks))


def _locked(order: Order, seat: Seat | None, program: str) -> Ranks | None:
    """Shut everything. A rank meets the others when its files are shut already, and before it reads
    anything: from then on it has the sockets to them, and can make no other. Likewise blocks are
    compiled, for then no compiler can be started any more."""
    from freehold.residency.lock import lock, shut_calls, shut_files

    if seat is None and not program:
        lock(order)
        return None
    files = shut_files(order)
    settle(Path(order.reach.write[0]))
    ranks = None
    if seat is not None:
        from freehold.train.ranks import join

        ranks = join(seat)
    if program:
        from freehold.train import compiled
        from freehold.train.recipe import from_plain

        given = json.loads(program)
        programs = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
        # An earlier process may have left some there, and had read strangers' data.
        _remove(programs)
        compiled.make(from_plain(given["recipe"]), given["device"])
        _remove(programs)
    shut_calls(order, files)
    return ranks


def _remove(folder: Path) -> None:
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)


def settle(folder: Path) -> None:
    """PyTorch looks for folders of its own as soon as it makes an optimiser or meets ranks, and for
    the user's name to call them by."""
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "inductor")
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Have the C library keep what is freed for what is asked for next. A step frees and takes
    gigabytes in arrays of megabytes, and each page that comes anew from the kernel is cleared and
    mapped first. Where the C library is not glibc, nothing is done.

    Source: mallopt(3); the numbers are those of glibc's malloc.h.
    """
    trim_threshold, mmap_max = -1, -4
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)
