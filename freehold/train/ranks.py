"""Several processes that train one model, and what they say to each other.

Each is a *rank*: it holds a share of every value (``sharding``) and computes some of a step's
pieces. Whatever decides how a run goes on is agreed, so that all take part in each exchange. The
first rank alone keeps the run's folder.

They are joined by ``torch.distributed``: gloo between processors, NCCL between GPUs. Sums are taken
in an order that the number of ranks decides, so bits depend on it, as they do on that of threads.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from freehold.errors import ProcessError, UsageError
from freehold.train import devices
from freehold.train.seat import Seat

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

_JOINING = timedelta(minutes=10)
_PREPARING = timedelta(days=7)
"""How long one rank may make what the others wait for: the tokens of a corpus take hours."""
_LOOPBACK = {"linux": "lo", "darwin": "lo0"}

Piece = TypeVar("Piece", bound=Sequence[Any])
Made = TypeVar("Made")


class Ranks:
    """The ranks of a run as one of them sees them; by itself alone."""

    def __init__(
        self, seat: Seat | None = None, mesh: DeviceMesh | None = None, store: Any = None
    ) -> None:
        seat = seat or Seat()
        self.rank, self.world, self.mesh = seat.rank, seat.world, mesh
        self._store, self._waits = store, 0
        self._turn = 0 if seat.rank == 0 else 1 if seat.local == 0 else 2

    @property
    def first(self) -> bool:
        """Whether this one keeps the run's folder."""
        return self.rank == 0

    @property
    def backend(self) -> str:
        return str(dist.get_backend()) if self.world > 1 else ""

    def __str__(self) -> str:
        return f"rank {self.rank} of {self.world}"

    def failed(self, why: str) -> str:
        """What is said of a defect here, which may be no more than that another has failed."""
        return f"{self} failed: {why}. If that tells of a connection, the cause is another's error"

    def check(self, batch: int, micro_batch: int) -> None:
        """Raise ``UsageError`` where there are not as many pieces of ``micro_batch`` tokens in a
        step of ``batch``: some ranks would never have anything to do."""
        pieces = batch // micro_batch
        if self.world > pieces:
            raise UsageError(
                f"{self.world} ranks cannot share the {pieces} micro-batches of a step of {batch} "
                f"tokens: set --micro-batch to {batch // self.world} or less, or a larger --batch",
                param="ranks",
            )

    def shared_out(self, pieces: Sequence[Piece]) -> list[tuple[Piece, bool]]:
        """What this rank computes of a step's pieces, and whether it counts: n, n + world, ... All
        must compute equally often, so one without a piece takes part with a bit of the first,
        for nothing."""
        rounds = range(self.rank, self.rank + len(pieces), self.world)
        return [
            (pieces[n], True) if n < len(pieces) else (cast(Piece, pieces[0][:1]), False)
            for n in rounds
        ]

    def sums(self, *values: float) -> tuple[float, ...]:
        """Each number summed over all ranks, in float64."""
        if self.mesh is None:
            return values
        held = torch.tensor(values, dtype=torch.float64, device=self.mesh.device_type)
        dist.all_reduce(held)
        return tuple(held.tolist())

    def any(self, here: bool) -> bool:
        """Whether it is so at any rank."""
        return bool(self.sums(float(here))[0])

    def add_gradients(self, values: Iterable[Tensor]) -> None:
        """Sum the gradients of values that every rank has whole; of those that are shared out they
        are summed already."""
        if self.mesh is None:
            return
        grads = [one.grad for one in values if not hasattr(one, "device_mesh")]
        mine = [grad for grad in grads if grad is not None]
        if not mine:
            return
        flat = torch.cat([grad.reshape(-1) for grad in mine])
        dist.all_reduce(flat)
        parts = torch.split(flat, [grad.numel() for grad in mine])
        for grad, summed in zip(mine, parts, strict=True):
            grad.copy_(summed.view_as(grad))

    def told(self, text: str) -> str:
        """The first rank's text, at every rank."""
        if self.mesh is None:
            return text
        device = self.mesh.device_type
        data = text.encode() if self.first else b""
        size = torch.tensor([len(data)], device=device)
        dist.broadcast(size, 0)
        held = torch.zeros(int(size), dtype=torch.uint8, device=device)
        if data:
            held.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        dist.broadcast(held, 0)
        return bytes(held.tolist()).decode()

    def in_turn(self, make: Callable[[], Made]) -> Made:
        """What ``make`` makes, or finds, on the disk: the first rank does so, then one of each
        other machine, then the rest."""
        if self.mesh is None:
            return make()
        for turn in range(3):
            if turn == self._turn:
                made = make()
            self._wait()
        return made

    def _wait(self) -> None:
        """Until all are here: longer than any exchange may take."""
        self._waits += 1
        name = f"freehold/{self._waits}"
        if self._store.add(f"{name}/here", 1) == self.world:
            self._store.set(name, "all")
        self._store.wait([name], _PREPARING)


ALONE = Ranks()


def join(seat: Seat) -> Ranks:
    """Meet the other ranks. Every socket that training needs is connected when this returns, so
    that no other need be allowed. Raises ``ProcessError``."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.rendezvous import rendezvous

    try:
        if seat.store and sys.platform in _LOOPBACK:
            os.environ["GLOO_SOCKET_IFNAME"] = _LOOPBACK[sys.platform]
        url = f"file://{seat.store}" if seat.store else "env://"
        store, _, _ = next(rendezvous(url, seat.rank, seat.world, timeout=_JOINING))
        store.set_timeout(_JOINING)
        if seat.device == devices.CUDA:
            torch.cuda.set_device(seat.local)
        backend = "nccl" if seat.device == devices.CUDA else "gloo"
        dist.init_process_group(backend, store=store, rank=seat.rank, world_size=seat.world)
        mesh = init_device_mesh(seat.device, (seat.world,))
        ranks = Ranks(seat, mesh, store)
        _acquaint(ranks)
    except (RuntimeError, ValueError, OSError) as error:
        raise ProcessError(
            f"{seat} could not join the others: {_short(error)}. Between "
            "machines, name the network interface in GLOO_SOCKET_IFNAME and let its ports through"
        ) from error
    return ranks


def _acquaint(ranks: Ranks) -> None:
    """One of each exchange that training makes: a library may connect as late as that."""
    from torch.distributed.tensor import Shard, distribute_tensor

    assert ranks.mesh is not None
    device = ranks.mesh.device_type
    ranks.any(False)
    ranks.told("")
    held = torch.zeros(ranks.world, device=device)
    gathered(distribute_tensor(held, ranks.mesh, [Shard(0)]))


def gathered(values: Tensor) -> Tensor:
    """A tensor that is shared out over the ranks, in one piece; any other as it is. Every rank must
    ask."""
    full: Callable[[], Tensor] | None = getattr(values, "full_tensor", None)
    return values if full is None else full()


def put(values: Tensor | None, into: Tensor) -> None:
    """Write the first rank's ``values`` into a tensor that may be shared out."""
    if not hasattr(into, "device_mesh"):
        assert values is not None
        into.copy_(values)
        return
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(into, DTensor)
    given = torch.empty(into.shape) if values is None else values
    given = given.to(into.device, into.dtype)
    into.copy_(distribute_tensor(given, into.device_mesh, into.placements))


def _short(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
