"""What a refused call was for: words for the record, whatever bytes the caller laid out."""

from __future__ import annotations

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.residency.attempts import Attempt, describe
from freehold.residency.calls import AUDIT_ARCH, NUMBERS, machine

pytestmark = pytest.mark.skipif(not NUMBERS, reason="this machine's system calls are not known")
ARCH = AUDIT_ARCH.get(machine(), 0)


def words(name: str, *given: int, memory: bytes = b"") -> tuple[str, str]:
    arguments = (*given, *[0] * (6 - len(given)))
    return describe(ARCH, NUMBERS[name], arguments, lambda address, length: memory[:length])


def test_addresses_in_words() -> None:
    v4 = struct.pack("=H", 2) + struct.pack(">H", 443) + bytes([192, 0, 2, 7]) + bytes(8)
    v6 = struct.pack("=H", 10) + struct.pack(">HI", 53, 0) + bytes(15) + b"\x01" + bytes(4)
    unix = struct.pack("=H", 1) + b"/run/docker.sock\0rest"
    abstract = struct.pack("=H", 1) + b"\0bus\0\0"
    assert words("connect", 3, 1, 16, memory=v4)[1] == "descriptor 3 to 192.0.2.7:443"
    assert words("connect", 3, 1, 28, memory=v6)[1] == "descriptor 3 to [::1]:53"
    assert (
        words("connect", 3, 1, 99, memory=unix)[1] == "descriptor 3 to unix socket /run/docker.sock"
    )
    assert words("connect", 3, 1, 7, memory=abstract)[1].endswith("abstract unix socket @bus")
    assert words("socket", 2, 2, 17) == ("socket", "INET DGRAM protocol 17")
    assert words("execve", 1, memory=b"/usr/bin/curl\0-s\0")[1] == "/usr/bin/curl"


def test_other_interfaces() -> None:
    assert describe(0x40000003, 359, (0,) * 6, lambda a, n: b"")[0] == "32-bit call"
    assert describe(ARCH, 0x40000029, (0,) * 6, lambda a, n: b"")[0] == "x32 call"


@given(
    st.integers(0, 500),
    st.tuples(*[st.integers(0, 2**64 - 1)] * 6),
    st.one_of(st.binary(max_size=300), st.none()),
)
def test_hostile_memory_gives_one_clean_line(
    number: int, arguments: tuple[int, ...], memory: bytes | None
) -> None:
    def read(address: int, length: int) -> bytes:
        if memory is None:
            raise OSError(14, "Bad address")
        assert length <= 256
        return memory[:length]

    name, what = describe(ARCH, number, arguments, read)
    assert what.isprintable()
    attempt = Attempt(time="t", role="engine", pid=1, thread="x", call=name, what=what)
    assert attempt.line().count(b"\n") == 1
    assert json.loads(attempt.line())["what"] == what
