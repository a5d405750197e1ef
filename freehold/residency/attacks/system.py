"""Ways to have somebody else do it: other programs, other processes, the kernel's back doors."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
from pathlib import Path

from freehold.residency.attacks import AbsentError, Attack, Target
from freehold.residency.calls import call, call_number, machine

_CURL = "/usr/bin/curl"
_SHELL = "/bin/sh"
_SEIZE, _INTERRUPT, _DETACH = 0x4206, 0x4207, 17
_STACK = 1 << 16
_NEWNET, _NEWUSER = 0x40000000, 0x10000000
_BPF_MAP_CREATE = 0
_TIOCSTI = 0x5412


def run_curl(t: Target) -> None:
    tool = _CURL if Path(_CURL).exists() else sys.executable
    url = f"http://{t.v4}:{t.port}/"
    code = f"import urllib.request; urllib.request.urlopen({url!r}, timeout=3)"
    arguments = [tool, "-sm3", url] if tool == _CURL else [tool, "-Ic", code]
    done = subprocess.run(arguments, check=False, timeout=10, capture_output=True)
    if done.returncode != 0:
        raise PermissionError("it was started, and reached nobody")


def run_shell(t: Target) -> None:
    status = os.system("exit 7")  # noqa: S605, S607
    if os.waitstatus_to_exitcode(status) != 7:
        raise PermissionError("no shell was started")


def fork(t: Target) -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


def spawn(t: Target) -> None:
    os.waitpid(os.posix_spawn(_SHELL, [_SHELL, "-c", "exit 0"], {}), 0)


def execute(t: Target) -> None:
    """``execve`` of nothing: where it is allowed, the kernel finds no file and this goes on."""
    try:
        call("execve", b"/nonexistent/freehold", None, None)
    except FileNotFoundError:
        return


def memory_program(t: Target) -> None:
    """A program that is only in memory, run by its descriptor."""
    made = call("memfd_create", b"freehold", 0)
    try:
        os.write(made, b"#!/nonexistent\n")
        call("execveat", made, b"", None, None, 0x1000)
    except FileNotFoundError:
        return
    finally:
        os.close(made)


def trace_parent(t: Target) -> None:
    call("ptrace", _SEIZE, t.parent, 0, 0)
    call("ptrace", _INTERRUPT, t.parent, 0, 0)
    os.waitpid(t.parent, 0x40000000)  # __WALL: only a stopped process can be let go
    call("ptrace", _DETACH, t.parent, 0, 0)


def read_parent(t: Target) -> None:
    _cross("process_vm_readv", t.parent)


def write_parent(t: Target) -> None:
    _cross("process_vm_writev", t.parent)


def open_parent_memory(t: Target) -> None:
    with open(f"/proc/{t.parent}/mem", "rb+"):  # noqa: PTH123
        return


def parent_environment(t: Target) -> None:
    Path(f"/proc/{t.outsider}/environ").read_bytes()


def take_descriptor(t: Target) -> None:
    """Copy a descriptor out of a process that has the network."""
    held = call("pidfd_open", t.outsider, 0)
    try:
        os.close(call("pidfd_getfd", held, 0, 0))
    finally:
        os.close(held)


def signal_outsider(t: Target) -> None:
    os.kill(t.outsider, 0)


def compare(t: Target) -> None:
    call("kcmp", os.getpid(), t.outsider, 1, 0, 0)


def berkeley(t: Target) -> None:
    os.close(call("bpf", _BPF_MAP_CREATE, ctypes.create_string_buffer(_map(), 72), 72))


def fault_handler(t: Target) -> None:
    os.close(call("userfaultfd", 1))


def new_network(t: Target) -> None:
    # With an impossible flag beside it: where it is allowed, it fails and changes nothing.
    try:
        call("unshare", _NEWNET | 0x1)
    except OSError as error:
        if error.errno != 22:
            raise


def join_network(t: Target) -> None:
    held = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        call("setns", held, _NEWUSER)  # the wrong kind: EINVAL where it is allowed at all
    except OSError as error:
        if error.errno != 22:
            raise
    finally:
        os.close(held)


def keyring(t: Target) -> None:
    call("keyctl", 0, -3, 0)


def mount(t: Target) -> None:
    try:
        call("mount", b"none", b"/nonexistent", b"tmpfs", 0, None)
    except FileNotFoundError:
        return


def performance(t: Target) -> None:
    os.close(call("perf_event_open", ctypes.create_string_buffer(_counter(), 128), 0, -1, -1, 0))


def terminal(t: Target) -> None:
    """Type into the terminal from which the server was started."""
    try:
        call("ioctl", 2, _TIOCSTI, ctypes.create_string_buffer(b"\0", 1))
    except OSError as error:
        if error.errno in (
            25,
            5,
        ):  # standard error is no terminal, or its typing is shut: it was asked
            return
        raise


def call_32_bit(t: Target) -> None:
    """``socket`` by the 32-bit interface (``int 0x80``), whose numbers differ."""
    if machine() != "x86_64" or not t.int80:
        raise AbsentError("this kernel makes no 32-bit calls")
    # push rbx; mov eax, 359 (socket); mov ebx, 2; mov ecx, 1; xor edx, edx; int 0x80; pop rbx; ret
    code = bytes.fromhex("53b867010000bb02000000b90100000031d2cd805bc3")
    made = _machine_code(code)
    if made < 0:
        raise OSError(-made, os.strerror(-made))
    os.close(made)


def call_x32(t: Target) -> None:
    if machine() != "x86_64":
        raise AbsentError("only x86_64 has the x32 interface")
    os.close(call_number(0x40000000 | 41, 2, 1, 0))


def _machine_code(code: bytes) -> int:
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    start = ctypes.addressof(ctypes.c_char.from_buffer(page))
    return int(ctypes.CFUNCTYPE(ctypes.c_int)(start)())


def _cross(name: str, process: int) -> None:
    """Ask for a byte at an address that is never mapped: ``EFAULT`` where the asking is allowed."""
    here = ctypes.create_string_buffer(1)
    local = (ctypes.c_size_t * 2)(ctypes.addressof(here), 1)
    remote = (ctypes.c_size_t * 2)(_STACK, 1)
    try:
        call(name, process, bytes(local), 1, bytes(remote), 1, 0)
    except OSError as error:
        if error.errno != 14:
            raise


def _map() -> bytes:
    return b"".join(n.to_bytes(4, "little") for n in (2, 4, 4, 1)) + bytes(56)  # a small array


def _counter() -> bytes:
    return (1).to_bytes(4, "little") + (128).to_bytes(4, "little") + bytes(120)


KINDS: list[tuple[str, str, Attack]] = [
    ("curl", "start curl, or another interpreter", run_curl),
    ("shell", "start a shell", run_shell),
    ("fork", "a child process", fork),
    ("posix-spawn", "a child by posix_spawn", spawn),
    ("execve", "become another program", execute),
    ("memory-program", "a program in memory (memfd, execveat)", memory_program),
    ("ptrace", "take over the parent (ptrace)", trace_parent),
    ("read-memory", "read the parent's memory (process_vm_readv)", read_parent),
    ("write-memory", "write the parent's memory (process_vm_writev)", write_parent),
    ("proc-mem", "open the parent's /proc/PID/mem", open_parent_memory),
    ("proc-environ", "read the environment of a process outside", parent_environment),
    ("take-descriptor", "copy a descriptor of a process outside (pidfd_getfd)", take_descriptor),
    ("signal", "signal a process outside", signal_outsider),
    ("kcmp", "compare with a process outside (kcmp)", compare),
    ("bpf", "a program in the kernel (bpf)", berkeley),
    ("userfaultfd", "userfaultfd", fault_handler),
    ("unshare", "a network namespace of its own", new_network),
    ("setns", "join another namespace", join_network),
    ("keyctl", "the kernel's key rings", keyring),
    ("mount", "mount a file system", mount),
    ("perf", "performance counters", performance),
    ("terminal", "type into the owner's terminal (TIOCSTI)", terminal),
    ("32-bit", "32-bit system calls (int 0x80)", call_32_bit),
    ("x32", "x32 system calls", call_x32),
]
