"""The system calls a process may make, by seccomp: one program for all its threads.

What is refused goes to the watchman (``watch.py``), which notes it and answers ``EPERM``; where
nobody watches, the kernel answers ``EPERM`` by itself. When the watchman dies, the kernel answers
``ENOSYS``: refused either way. Calls newer than this file are told that they do not exist, and so
are ``clone3`` and ``openat2``, whose arguments lie in memory where a program cannot look; the C
library then takes the older call.

Source: the kernel's ``userspace-api/seccomp_filter``.
"""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from freehold.residency import bpf
from freehold.residency.bpf import Op, give, high, load, low, mask
from freehold.residency.calls import AUDIT_ARCH, LAST_KNOWN, call, machine, numbers, prctl

ALLOW, NOTIFY, ERRNO = 0x7FFF0000, 0x7FC00000, 0x00050000
REFUSE = ERRNO | errno.EPERM
ABSENT = ERRNO | errno.ENOSYS

_SET_FILTER, _GET_ACTION, _TSYNC, _LISTENER, _ESRCH, _WAIT_KILLABLE = 1, 2, 1, 8, 16, 32
_NO_NEW_PRIVS = 38
_X32 = 0x40000000
_CLONE_THREAD = 0x10000
_CLONE_NEW = 0x7E020000
_FASTOPEN = 0x20000000
_CHANGES = 0o1103
"""Open flags that change a file or make one: write only, read and write, create, truncate."""
_TERMINAL_INPUT = (0x5412, 0x541C)
"""TIOCSTI and TIOCLINUX, which type into the terminal's other programs."""

_NEVER = """
    io_uring_setup io_uring_enter io_uring_register
    ptrace process_vm_writev process_madvise kcmp pidfd_getfd pidfd_send_signal
    execve execveat fork vfork memfd_create memfd_secret
    bpf userfaultfd perf_event_open keyctl add_key request_key
    mount umount2 pivot_root chroot move_mount open_tree fsopen fsconfig fsmount fspick
    mount_setattr unshare setns open_by_handle_at fanotify_init mknod mknodat
    kexec_load kexec_file_load init_module finit_module delete_module reboot swapon swapoff
    acct quotactl quotactl_fd iopl ioperm modify_ldt personality syslog vhangup
    sethostname setdomainname settimeofday clock_settime adjtimex clock_adjtime
    migrate_pages move_pages shmget msgget semget mq_open
    socket socketpair connect bind sendmmsg recvmmsg
    chmod fchmodat fchmodat2 chown lchown fchownat setxattr lsetxattr removexattr lremovexattr
    utime utimes futimesat utimensat
""".split()  # noqa: SIM905 - as a text it can be read
_CHANGING_FILES = """
    creat rename renameat renameat2 unlink unlinkat mkdir mkdirat rmdir link linkat symlink
    symlinkat truncate fchmod fchown fsetxattr fremovexattr
""".split()  # noqa: SIM905 - as a text it can be read
_HOSTING = """
    execve execveat fork vfork memfd_create socket socketpair
""".split()  # noqa: SIM905 - as a text it can be read
_OTHERS = """
    clone kill tkill tgkill rt_sigqueueinfo rt_tgsigqueueinfo setpgid setsid
    setrlimit prlimit64 setpriority ioprio_set prctl mkdir mkdirat
    sched_setparam sched_setscheduler sched_setattr sched_setaffinity
""".split()  # noqa: SIM905 - as a text it can be read


@dataclass(frozen=True, kw_only=True)
class Powers:
    """What a role keeps beyond reading, computing, threads and the descriptors it holds already.

    ``accepts``: take connections on a socket that listens already. ``messages``: ``sendmsg``, never
    with ``MSG_FASTOPEN``. ``takes``: receive descriptors. ``looks``: read another process's memory
    (of those that the kernel lets it). ``writes``: change files, where Landlock lets it.
    ``connects``: make TCP and unix stream sockets, and ask the watchman to connect them.
    ``brokers``: do so for others, to the addresses named at start. ``hosts``: start programs and
    processes, make stream sockets, and ask the watchman to bind, open and connect them.
    ``alone``: has no threads, no word to any other process, and no folders to make.
    """

    accepts: bool = False
    messages: bool = False
    takes: bool = False
    looks: bool = False
    writes: bool = False
    connects: bool = False
    brokers: bool = False
    hosts: bool = False
    alone: bool = False


ROLES = {
    "counter": Powers(accepts=True, messages=True),
    "counter-remote": Powers(accepts=True, messages=True, connects=True),
    "engine": Powers(writes=True),
    "keeper": Powers(writes=True),
    "keeper-remote": Powers(writes=True, connects=True),
    "front": Powers(writes=True),
    "cell": Powers(writes=True, alone=True),
    "workshop": Powers(writes=True),
    "watchman": Powers(messages=True, takes=True, looks=True),
    "broker": Powers(messages=True, takes=True, looks=True, brokers=True),
    "remote": Powers(messages=True, connects=True),
    "vllm": Powers(accepts=True, messages=True, takes=True, writes=True, hosts=True),
}
"""``keeper-remote`` is a keeper whose data base is another program, ``counter-remote`` a counter
whose keys lie in one or that sends traces, ``broker`` the watchman that connects them. ``remote``
speaks to an engine elsewhere in the same way, and ``vllm`` is such an engine where Freehold starts
it, with all its processes. The engine writes the pack it has made, then calls ``forgo_writing``.
``front`` is the process that ``chat`` or ``bench`` runs in, ``cell`` one for a program that nobody
trusts, ``workshop`` the one that ``adapt`` trains in."""


def program(role: str, arch: str, *, refuse: int, line: int = -1) -> list[Op]:
    """The filter for ``role`` (one of ``ROLES``). ``refuse`` is the action for what is forbidden.

    ``line`` is the descriptor on which one message may carry the listener to the watchman.
    """
    powers, number = ROLES[role], numbers(arch)
    no, yes = give(refuse), give(ALLOW)
    never = _never(powers)
    ops = [load(bpf.ARCH), bpf.if_equal(AUDIT_ARCH[arch], 1), no, load(bpf.NUMBER)]
    ops += [bpf.unless_above(_X32 - 1, 1), no]
    ops += [bpf.unless_above(LAST_KNOWN, 1), give(ABSENT)]
    for name in sorted(never & number.keys(), key=number.__getitem__):
        ops += [bpf.unless_equal(number[name], 1), no]
    ops += _only(number["clone3"], [give(ABSENT)])
    ops += _only(number["openat2"], [give(ABSENT)])
    if powers.hosts:
        # Processes too, but none in a namespace of its own.
        ops += _only(number["clone"], [load(low(0)), bpf.unless_set(_CLONE_NEW, 1), no, yes])
        ops += _only(number["socketpair"], _stream_socket(yes, no))
    else:
        ops += _only(number["clone"], [load(low(0)), bpf.unless_set(_CLONE_THREAD, 1), yes, no])
    if powers.connects or powers.hosts:
        ops += _only(
            number["socket"], [*(_listing(yes) if powers.hosts else []), *_stream_socket(yes, no)]
        )
    ops += _only(number["sendto"], _sendto(yes, no))
    if powers.messages:
        ops += _only(number["sendmsg"], [load(low(2)), bpf.unless_set(_FASTOPEN, 1), no, yes])
    else:
        ops += _only(number["sendmsg"], [load(low(0)), bpf.unless_equal(max(line, 0), 1), yes, no])
    ioctl = [load(low(1))]
    for command in _TERMINAL_INPUT:
        ioctl += [bpf.unless_equal(command, 1), no]
    ops += _only(number["ioctl"], [*ioctl, yes])
    if not powers.writes:
        ops += _opening(number, yes, no)
    return [*ops, yes]


def _opening(number: Mapping[str, int], yes: Op, no: Op) -> list[Op]:
    ops = []
    for name, flags in (("open", 1), ("openat", 2)):
        if name in number:
            test = [load(low(flags)), bpf.unless_set(_CHANGES, 1), no, yes]
            ops += _only(number[name], test)
    return ops


def forgo_writing() -> None:
    """Refuse, from now on and in every thread, what changes files: on top of the filter that is
    there, by the kernel alone, so that nobody writes it down. Raises ``OSError``."""
    number = numbers(machine())
    no, yes = give(REFUSE), give(ALLOW)
    ops = [load(bpf.NUMBER)]
    for name in sorted(set(_CHANGING_FILES) & number.keys(), key=number.__getitem__):
        ops += [bpf.unless_equal(number[name], 1), no]
    _install([*ops, *_opening(number, yes, no), yes], _TSYNC)


def _never(powers: Powers) -> set[str]:
    """Calls refused whatever their arguments."""
    never = set(_NEVER)
    if not powers.accepts:
        never |= {"listen", "accept", "accept4"}
    if not powers.takes:
        never.add("recvmsg")
    if not powers.looks:
        never.add("process_vm_readv")
    if not powers.writes:
        never |= set(_CHANGING_FILES)
    if powers.connects:
        never.remove("socket")
    if powers.alone:
        never |= set(_OTHERS)
    if powers.brokers:
        never -= {"connect", "bind", "listen", "pidfd_getfd"}
    if powers.hosts:
        never = (never - set(_HOSTING)) | {"listen"}
    return never


def _only(number: int, then: Sequence[Op]) -> list[Op]:
    """``then``, which must end in a return, for one call; what was loaded is intact after it."""
    return [bpf.unless_equal(number, len(then)), *then]


def _stream_socket(yes: Op, no: Op) -> list[Op]:
    # Only what Landlock bounds (TCP) or the file system does (unix streams).
    test = [load(low(0)), bpf.if_equal(1, 3), bpf.if_equal(2, 2), bpf.if_equal(10, 1), no]
    test += [load(low(1)), mask(15), bpf.if_equal(1, 1), no]
    return [*test, load(low(2)), bpf.if_equal(0, 2), bpf.if_equal(6, 1), no, yes]


def _listing(yes: Op) -> list[Op]:
    # A netlink socket of the routing family, which the watchman lets list interfaces.
    test = [
        load(low(1)),
        mask(15),
        bpf.unless_equal(3, 3),
        load(low(2)),
        bpf.unless_equal(0, 1),
        yes,
    ]
    return [load(low(0)), bpf.unless_equal(16, len(test)), *test]


def _sendto(yes: Op, no: Op) -> list[Op]:
    # An address makes it a connection; MSG_FASTOPEN connects without one, too.
    test = [load(low(3)), bpf.unless_set(_FASTOPEN, 1), no]
    for half in (low(4), high(4)):
        test += [load(half), mask(0xFFFFFFFF), bpf.if_equal(0, 1), no]
    return [*test, yes]


def available() -> bool:
    """Whether this kernel filters calls, and this machine's calls are known here."""
    if not numbers(machine()):
        return False
    try:
        call("seccomp", _GET_ACTION, 0, ctypes.create_string_buffer(ERRNO.to_bytes(4, "little"), 4))
    except OSError:
        return False
    return True


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("ops", ctypes.c_char_p))


def install(role: str, *, line: int | None) -> int | None:
    """Put the filter on every thread of this process, for good.

    With ``line`` refused calls wait for whoever holds the listener, whose descriptor is returned:
    pass it on and close it. Without, or where the kernel gives no listener (one is there already,
    set up by whoever started us), they are refused at once, and ``None`` is returned. Raises
    ``OSError``.
    """
    prctl(_NO_NEW_PRIVS, 1)
    if line is not None:
        watched = program(role, machine(), refuse=NOTIFY, line=line)
        for wait in (_WAIT_KILLABLE, 0):
            try:
                return _install(watched, _TSYNC | _ESRCH | _LISTENER | wait)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EBUSY):
                    raise
    _install(program(role, machine(), refuse=REFUSE), _TSYNC)
    return None


def _install(ops: Sequence[Op], flags: int) -> int:
    code = bpf.assemble(ops)
    held = _Program(len(ops), code)
    return call(
        "seccomp", _SET_FILTER, flags, ctypes.string_at(ctypes.byref(held), ctypes.sizeof(held))
    )
