"""The lock around a command that runs a model: which files its processes may reach, and when."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from freehold.cli.output import say
from freehold.cli.peers import ports
from freehold.cli.places import keys_folder, pack_secret, residency_folder, root
from freehold.cli.settings import Settings

if TYPE_CHECKING:
    from freehold.residency.broker import Peer
    from freehold.residency.landlock import Reach
    from freehold.residency.lock import Order
    from freehold.residency.watching import Watch


class Home:
    """What this process and the ones it starts are allowed. Made by ``at_home``."""

    def __init__(self, watch: Watch, order: Order) -> None:
        self.watch = watch
        self._order = order
        self._files: list[str] = []

    def order(
        self,
        role: str,
        reach: Reach,
        *,
        peers: Sequence[Peer] = (),
        home: str = "",
        isolate: bool = False,
    ) -> Order:
        """The lock of a process about to be started as ``role`` (``Watch.order``)."""
        return self.watch.order(role, reach, peers=peers, home=home, isolate=isolate)

    def shut_files(self) -> None:
        """Shut all files but this process's own. What is started after it has no more than that;
        what needs more (a keeper) is started before. No thread may run yet."""
        from freehold.residency.lock import shut_files

        self._files = shut_files(self._order)

    def shut_calls(self) -> None:
        """Shut the rest, once nothing more is to be opened or started here."""
        from freehold.residency.lock import shut_calls

        shut = shut_calls(self._order, self._files)
        if self._order.enforce and not shut.kernel:
            say("residency: not enforced by the kernel here (see `freehold residency status`)")


@contextmanager
def at_home(
    settings: Settings,
    role: str,
    *,
    read: tuple[str, ...] = (),
    write: tuple[str, ...] = (),
    bind: tuple[int, ...] = (),
    peers: tuple[Peer, ...] = (),
    also: Sequence[Reach] = (),
    connects: bool = False,
    drill: int | None = None,
) -> Iterator[Home]:
    """Start the watchman inside a fence: for this process the vault and ``read`` may be read,
    ``write`` written, ``bind`` listened on, ``peers`` connected to, and for those started before
    ``Home.shut_files`` ``also`` what that says. Call it from the first thread, before any other.

    ``connects``: the watchman connects others to their peers.

    ``drill``: a descriptor on which ``freehold residency prove`` orders attacks.
    """
    from freehold.engine.child import room_for_packs
    from freehold.residency.landlock import Reach
    from freehold.residency.lock import Order, close_strangers, library, shut_files
    from freehold.residency.watching import Watch

    stay_single()
    enforce = settings.residency == "enforce"
    if enforce:
        close_strangers(set() if drill is None else {drill})
    watch = Watch(residency_folder(), enforce=enforce, drill=drill, connects=connects)
    mine = [str(root() / part) for part in ("blobs", "manifests", "packs", "passports")]
    mine += [str(watch.state_file), str(pack_secret()), *_public_keys(settings)]
    # An engine has no more than who started it: the room for its pack is left open for its sake.
    # The counter's own filter of calls lets it open nothing for writing.
    packs = room_for_packs(root(), pack_secret())
    reach = Reach(
        read=(*mine, *read, *library()), write=(*write, *packs), bind=bind, connect=ports(peers)
    )
    # The watchman is inside the same fence, so that it sees into the processes; each of them then
    # draws a narrower one, out of which it does not see the watchman.
    shut_files(Order(role=role, reach=_sum(reach, *also), enforce=enforce))
    watch.start()
    try:
        yield Home(watch, watch.order(role, reach, peers=peers))
    finally:
        watch.close()


def _sum(first: Reach, *others: Reach) -> Reach:
    """What is in any of them; ports are shut only if they are in all."""
    from freehold.residency.landlock import Reach

    every = (first, *others)
    return Reach(
        read=tuple(path for one in every for path in one.read),
        write=tuple(path for one in every for path in one.write),
        list=tuple(path for one in every for path in one.list),
        connect=tuple(port for one in every for port in one.connect),
        bind=tuple(port for one in every for port in one.bind),
        ports=all(one.ports for one in every),
    )


def _public_keys(settings: Settings) -> list[str]:
    """The files of the keys that the gate trusts."""
    wanted = [*settings.trust, settings.signer] if settings.signer else settings.trust
    return [
        str(Path(entry).expanduser() if "/" in entry else keys_folder() / f"{entry}.pub")
        for entry in wanted
    ]


def stay_single() -> None:
    """Keep numpy's arithmetic library from starting threads when it is imported: nothing here
    needs them, and the lock must come before the first."""
    os.environ["OPENBLAS_NUM_THREADS"] = "1"


def existing(path: Path) -> str:
    """``path``, made empty and for its owner alone if it is not there: only a file that exists can
    be left open to a locked process."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    return str(path)
