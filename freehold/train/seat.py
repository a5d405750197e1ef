"""Which of several training processes one is, known before torch is imported."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from freehold.errors import UsageError

MOST = 1024
"""Ranks of one run."""
_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, kw_only=True)
class Seat:
    """``rank`` of ``world`` processes, and the ``local``-th of its machine, computing on ``device``
    (see ``devices``). They find each other
    through the file ``store``, and stay on loopback; without one, as ``torchrun`` says in the
    environment."""

    rank: int = 0
    world: int = 1
    local: int = 0
    store: str = ""
    device: str = "cpu"

    @property
    def first(self) -> bool:
        """Whether this one keeps the run's folder."""
        return self.rank == 0

    def __str__(self) -> str:
        return f"rank {self.rank} of {self.world}"

    def dumps(self) -> str:
        """As one command-line argument."""
        return json.dumps(asdict(self))

    @classmethod
    def loads(cls, text: str) -> Seat:
        return cls(**json.loads(text))


def on_this_machine(world: int, store: str, device: str = "cpu") -> tuple[Seat, ...]:
    """The seats of ``world`` processes that one command starts. ``store`` is a file that is not
    there yet."""
    return tuple(
        Seat(rank=n, world=world, local=n, store=store, device=device) for n in range(world)
    )


def of_torchrun(environment: Mapping[str, str], device: str = "cpu") -> Seat | None:
    """The seat that ``torchrun`` gave this process; ``None`` where it did not start it, or started
    it alone. Raises ``UsageError`` where what it says makes no sense."""
    if not all(environment.get(name) for name in _TORCHRUN):
        return None
    given = [environment[name] for name in _TORCHRUN[:3]]
    if not all(one.isdecimal() for one in given):
        raise UsageError(f"RANK, WORLD_SIZE and LOCAL_RANK are {', '.join(given)}: not numbers")
    rank, world, local = map(int, given)
    if not (0 <= local <= rank < world <= MOST):
        raise UsageError(
            f"RANK is {rank}, LOCAL_RANK {local} and WORLD_SIZE {world}: start every process by "
            f"torchrun, at most {MOST}, or unset them"
        )
    return Seat(rank=rank, world=world, local=local, device=device) if world > 1 else None
