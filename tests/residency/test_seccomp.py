"""The filter as a program, run over made-up calls: no kernel is needed, and no call is made."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.residency import bpf, seccomp
from freehold.residency.calls import AUDIT_ARCH, LAST_KNOWN, numbers
from freehold.residency.seccomp import ABSENT, ALLOW, NOTIFY, ROLES, program

ARCHES = sorted(AUDIT_ARCH)
QUIET = ("read", "write", "futex")


def ask(
    role: str, arch: str, number: int, *given: int, at: int | None = None, line: int = 9
) -> int:
    """What the filter of ``role`` says to one call."""
    arguments = (*given, *[0] * (6 - len(given)))
    data = struct.pack("=iIQ6Q", number, at or AUDIT_ARCH[arch], 0, *arguments)
    return bpf.run(program(role, arch, refuse=NOTIFY, line=line), data)


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("role", sorted(ROLES))
def test_what_no_role_may(role: str, arch: str) -> None:
    number = numbers(arch)
    given = {
        "broker": {"connect", "bind", "listen", "pidfd_getfd"},
        "vllm": set(seccomp._HOSTING),
    }.get(role, set[str]())
    for name in set(seccomp._NEVER) - given:
        if name in number:
            assert ask(role, arch, number[name], 1, 2, 3) == NOTIFY, name
    process = ALLOW if role == "vllm" else NOTIFY
    assert ask(role, arch, number["clone"], 17) == process  # SIGCHLD: a process
    for namespace in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert ask(role, arch, number["clone"], 17 | namespace) == NOTIFY
    thread = NOTIFY if role == "cell" else ALLOW
    assert ask(role, arch, number["clone"], 0x3D0F00) == thread
    assert ask(role, arch, number["clone3"]) == ABSENT
    assert ask(role, arch, number["openat2"]) == ABSENT
    assert ask(role, arch, LAST_KNOWN + 1) == ABSENT
    assert ask(role, arch, number["ioctl"], 0, 0x5412) == NOTIFY
    assert ask(role, arch, number["ioctl"], 0, 0x5401) == ALLOW


@pytest.mark.parametrize("arch", ARCHES)
def test_who_may_what(arch: str) -> None:
    number = numbers(arch)
    allowed = {
        name: {role for role in ROLES if ask(role, arch, number[name], 1, 0, 0) == ALLOW}
        for name in (
            *("accept4", "listen", "recvmsg", "process_vm_readv", "unlinkat", "fchmod", "fchmodat"),
            *("execve", "memfd_create"),
        )
    }
    assert allowed == {
        "accept4": {"counter", "counter-remote", "vllm"},
        "listen": {"counter", "counter-remote", "broker"},
        "recvmsg": {"watchman", "broker", "vllm"},
        "process_vm_readv": {"watchman", "broker"},
        "unlinkat": {"engine", "keeper", "keeper-remote", "front", "cell", "vllm", "workshop"},
        "fchmod": {"engine", "keeper", "keeper-remote", "front", "cell", "vllm", "workshop"},
        "fchmodat": set(),
        "execve": {"vllm"},
        "memfd_create": {"vllm"},
    }


@pytest.mark.parametrize("arch", ARCHES)
def test_a_cell_is_alone(arch: str) -> None:
    number = numbers(arch)
    for name in ("kill", "tgkill", "prlimit64", "setrlimit", "prctl", "mkdirat", "setsid"):
        assert ask("cell", arch, number[name], 1, 9, 0) == NOTIFY, name
        assert ask("front", arch, number[name], 1, 9, 0) == ALLOW, name
    assert ask("cell", arch, number["openat"], 0, 0, 0o101) == ALLOW  # in its own folder


@pytest.mark.parametrize("arch", ARCHES)
def test_messages_carry_no_address_and_open_nothing(arch: str) -> None:
    number = numbers(arch)
    for role in ROLES:
        assert ask(role, arch, number["sendto"], 4, 0, 9, 0x4000, 0, 0) == ALLOW
        assert ask(role, arch, number["sendto"], 4, 0, 9, 0, 1 << 40, 16) == NOTIFY
        assert ask(role, arch, number["sendto"], 4, 0, 9, 0, 0x1000, 16) == NOTIFY
        assert ask(role, arch, number["sendto"], 4, 0, 9, 0x20000000, 0, 0) == NOTIFY
        assert ask(role, arch, number["sendmsg"], 9, 0, 0x20000000) in (NOTIFY, ALLOW)
    assert ask("counter", arch, number["sendmsg"], 5, 0, 0x20004000) == NOTIFY
    assert ask("counter", arch, number["sendmsg"], 5, 0, 0x4000) == ALLOW
    assert ask("engine", arch, number["sendmsg"], 9, 0, 0) == ALLOW
    assert ask("engine", arch, number["sendmsg"], 5, 0, 0) == NOTIFY


@pytest.mark.parametrize("role", ["keeper-remote", "counter-remote", "remote", "vllm"])
@pytest.mark.parametrize("arch", ARCHES)
def test_who_has_peers_makes_streams_and_connects_none(arch: str, role: str) -> None:
    number = numbers(arch)
    for family in (1, 2, 10):
        assert ask(role, arch, number["socket"], family, 0x80801, 0) == ALLOW
        assert ask(role, arch, number["socket"], family, 2, 0) == NOTIFY
        assert ask(role, arch, number["socket"], family, 1, 132) == NOTIFY
    assert ask(role, arch, number["socket"], 16, 1, 0) == NOTIFY
    assert ask(role, arch, number["connect"], 3, 4096, 16) == NOTIFY


@pytest.mark.parametrize("arch", ARCHES)
def test_only_a_host_may_list_interfaces_and_make_pairs(arch: str) -> None:
    number = numbers(arch)
    for role in ROLES:
        answer = ALLOW if role == "vllm" else NOTIFY
        assert ask(role, arch, number["socket"], 16, 0x80003, 0) == answer
        assert ask(role, arch, number["socket"], 16, 0x80003, 9) == NOTIFY  # audit
        assert ask(role, arch, number["socketpair"], 1, 1, 0) == answer
        assert ask(role, arch, number["socketpair"], 1, 2, 0) == NOTIFY  # datagrams go anywhere


@pytest.mark.parametrize("arch", ARCHES)
def test_files_are_opened_to_be_read(arch: str) -> None:
    openat = numbers(arch)["openat"]
    for flags in (0o1, 0o2, 0o100, 0o1000, 0o20200001):
        assert ask("counter", arch, openat, 0, 0, flags) == NOTIFY
        assert ask("keeper", arch, openat, 0, 0, flags) == ALLOW
    assert ask("counter", arch, openat, 0, 0, 0o2000000) == ALLOW


@pytest.mark.parametrize("arch", ARCHES)
def test_other_interfaces_of_the_kernel(arch: str) -> None:
    for other in (0x40000003, 0x40000028, 0xC00000B7, 0xC000003E):
        if other != AUDIT_ARCH[arch]:
            assert ask("engine", arch, 0, at=other) == NOTIFY
    assert ask("engine", arch, 0x40000000) == NOTIFY
    assert ask("engine", arch, 0x40000029) == NOTIFY


@given(
    st.sampled_from(ARCHES),
    st.sampled_from(sorted(ROLES)),
    st.integers(-(2**31), 2**31 - 1),
    st.lists(st.integers(0, 2**64 - 1), min_size=6, max_size=6),
)
def test_every_call_gets_one_of_three_answers(
    arch: str, role: str, number: int, arguments: list[int]
) -> None:
    assert ask(role, arch, number, *arguments) in (ALLOW, NOTIFY, ABSENT)


def test_numbers_agree_with_the_kernel_headers() -> None:
    """Where the C library's headers are installed, they are the outside oracle."""
    import re
    from pathlib import Path

    seen = 0
    for arch, path in (
        ("x86_64", "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
        ("aarch64", "/usr/include/asm-generic/unistd.h"),
    ):
        if not Path(path).exists():
            continue
        text = Path(path).read_text(encoding="utf-8")
        official = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", text))
        for name, number in numbers(arch).items():
            if name in official:
                assert int(official[name]) == number, (arch, name)
                seen += 1
    if not seen:
        pytest.skip("the kernel's headers are not installed")
