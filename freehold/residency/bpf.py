"""A small assembler for the programs that seccomp runs on every system call.

A program sees ``struct seccomp_data``: the call's number, the architecture, and six arguments of 64
bits, of which it loads 32 at a time. Jumps only go forward, by at most 255, so each rule here ends
in its own return.

Source: the kernel's ``userspace-api/seccomp_filter`` and ``networking/filter``.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

NUMBER, ARCH = 0, 4
_LOAD, _AND, _EQUAL, _ABOVE, _SET, _RETURN = 0x20, 0x54, 0x15, 0x25, 0x45, 0x06


def low(argument: int) -> int:
    """Offset of the low half of an argument (both architectures are little-endian)."""
    return 16 + 8 * argument


def high(argument: int) -> int:
    """Offset of the high half."""
    return low(argument) + 4


@dataclass(frozen=True)
class Op:
    """One instruction."""

    code: int
    yes: int = 0
    no: int = 0
    k: int = 0

    def encode(self) -> bytes:
        return struct.pack("=HBBI", self.code, self.yes, self.no, self.k)


def load(offset: int) -> Op:
    return Op(_LOAD, k=offset)


def mask(k: int) -> Op:
    return Op(_AND, k=k)


def give(action: int) -> Op:
    """End the program with ``action``."""
    return Op(_RETURN, k=action)


def unless_equal(k: int, skip: int) -> Op:
    """Skip ``skip`` instructions unless what was loaded is ``k``."""
    return Op(_EQUAL, 0, skip, k)


def if_equal(k: int, skip: int) -> Op:
    return Op(_EQUAL, skip, 0, k)


def unless_above(k: int, skip: int) -> Op:
    """Skip unless what was loaded is greater than ``k``, unsigned."""
    return Op(_ABOVE, 0, skip, k)


def unless_set(k: int, skip: int) -> Op:
    """Skip unless one of the bits of ``k`` is set."""
    return Op(_SET, 0, skip, k)


def assemble(ops: Sequence[Op]) -> bytes:
    """The program's bytes. At most 4,096 instructions."""
    assert len(ops) <= 4096
    return b"".join(op.encode() for op in ops)


def run(ops: Sequence[Op], data: bytes) -> int:
    """What the program answers to ``data`` (a ``seccomp_data``), for tests without a kernel."""
    held, at = 0, 0
    while True:
        op = ops[at]
        at += 1
        match op.code:
            case 0x20:
                (held,) = struct.unpack_from("=I", data, op.k)
            case 0x54:
                held &= op.k
            case 0x15:
                at += op.yes if held == op.k else op.no
            case 0x25:
                at += op.yes if held > op.k else op.no
            case 0x45:
                at += op.yes if held & op.k else op.no
            case _:
                return op.k
