"""Ways to send bytes: every kind of socket, and every call that connects one."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

from freehold.residency.attacks import MARK, AbsentError, Attack, Target
from freehold.residency.calls import call

_SECONDS = 3.0
_FASTOPEN = 0x20000000
_NETLINK_ROUTE, _GENERIC = 0, 16
_VSOCK, _XDP, _ALG = 40, 44, 38


@contextlib.contextmanager
def _socket(family: int, kind: int, protocol: int = 0) -> Iterator[socket.socket]:
    with socket.socket(family, kind, protocol) as made:
        made.settimeout(_SECONDS)
        yield made


def tcp4(t: Target) -> None:
    with _socket(socket.AF_INET, socket.SOCK_STREAM) as s:
        s.connect((t.v4, t.port))
        s.sendall(MARK)


def tcp6(t: Target) -> None:
    with _socket(socket.AF_INET6, socket.SOCK_STREAM) as s:
        s.connect((t.v6, t.port))
        s.sendall(MARK)


def tcp_unblocking(t: Target) -> None:
    with _socket(socket.AF_INET, socket.SOCK_STREAM) as s:
        s.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            s.connect((t.v4, t.port))


def udp4(t: Target) -> None:
    with _socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.sendto(MARK, (t.v4, t.port))


def udp6(t: Target) -> None:
    with _socket(socket.AF_INET6, socket.SOCK_DGRAM) as s:
        s.sendto(MARK, (t.v6, t.port))


def udp_connected(t: Target) -> None:
    with _socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect((t.v4, t.port))
        s.send(MARK)


def udp_broadcast(t: Target) -> None:
    with _socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        s.sendto(MARK, (t.v4.rpartition(".")[0] + ".255", t.port))


def resolve(t: Target) -> None:
    socket.getaddrinfo("leak.freehold.invalid", 80)


def dns_by_hand(t: Target) -> None:
    question = b"\x04leak\x07invalid\x00" + struct.pack(">HH", 1, 1)
    with _socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.sendto(struct.pack(">6H", 7, 0x0100, 1, 0, 0, 0) + question, (t.v4, t.dns))


def ping_raw(t: Target) -> None:
    with _socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as s:
        s.sendto(struct.pack(">BBHHH", 8, 0, 0xF7FF, 0, 0), (t.v4, 0))


def ping_datagram(t: Target) -> None:
    with _socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as s:
        s.sendto(struct.pack(">BBHHH", 8, 0, 0xF7FF, 0, 0), (t.v4, 0))


def packet(t: Target) -> None:
    with _socket(socket.AF_PACKET, socket.SOCK_RAW) as s:
        s.bind((t.interface, 0))
        s.send(b"\xff" * 6 + b"\x02\x00\x00\x00\x00\x01" + b"\x88\xb5" + MARK.ljust(46))


def netlink(t: Target) -> None:
    with _socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_ROUTE) as s:
        s.bind((0, 0))
        s.send(struct.pack("=IHHIIB3x", 20, 18, 0x301, 1, 0, 0))  # dump all links
        s.recv(4096)


def netlink_generic(t: Target) -> None:
    with _socket(socket.AF_NETLINK, socket.SOCK_RAW, _GENERIC):
        return


def vsock(t: Target) -> None:
    with _socket(_VSOCK, socket.SOCK_STREAM) as s:
        s.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            s.connect((2, t.port))


def express_data_path(t: Target) -> None:
    with _socket(_XDP, socket.SOCK_RAW):
        return


def kernel_crypto(t: Target) -> None:
    with _socket(_ALG, socket.SOCK_SEQPACKET):
        return


def unix_path(t: Target) -> None:
    with _socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
        s.connect(t.unix)
        s.sendall(MARK)


def unix_datagram(t: Target) -> None:
    with _socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.sendto(MARK, t.unix + ".log")


def unix_abstract(t: Target) -> None:
    with _socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
        s.connect("\0" + t.abstract)
        s.sendall(MARK)


def unix_resolvers(t: Target) -> None:
    there = [path for path in t.resolvers if Path(path).exists()]
    if not there:
        raise AbsentError("no resolver, bus or container service listens on this machine")
    for path in there:
        with _socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
            s.connect(path)


def send_message(t: Target) -> None:
    with _socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.sendmsg([MARK], [], 0, (t.v4, t.port))


def send_messages(t: Target) -> None:
    """``sendmmsg`` on whatever socket there is, else on a new one."""
    call("sendmmsg", _any_socket(), None, 0, 0)


def fast_open(t: Target) -> None:
    with _socket(socket.AF_INET, socket.SOCK_STREAM) as s:
        s.sendto(MARK, _FASTOPEN, (t.v4, t.port))


def send_to_on_held(t: Target) -> None:
    """``sendto`` with an address, on a socket that the process holds already."""
    _address_call("sendto", _any_socket(), t, MARK)


def fast_open_on_held(t: Target) -> None:
    _address_call("sendto", _any_socket(), t, MARK, _FASTOPEN)


def reconnect(t: Target) -> None:
    """Undo a connection the process holds (``AF_UNSPEC``), then connect it elsewhere."""
    held = _any_socket()
    call("connect", held, (ctypes.c_char * 16)(), 16)
    with socket.socket(fileno=os.dup(held)) as s:
        s.connect((t.v4, t.port))


def bind_shell(t: Target) -> None:
    with _socket(socket.AF_INET, socket.SOCK_STREAM) as s:
        s.bind(("0.0.0.0", 0))  # noqa: S104
        s.listen(1)
        if s.getsockname()[0] != "0.0.0.0":  # noqa: S104
            raise PermissionError(f"only {s.getsockname()[0]} was bound")


def pass_descriptor(t: Target) -> None:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with left, right:
        socket.send_fds(left, [MARK], [2])
        _, got, _, _ = socket.recv_fds(right, 64, 1)
        for descriptor in got:
            os.close(descriptor)


def inherited(t: Target) -> None:
    """Send on any connection to the outside that was left open by whoever started us."""
    for descriptor in _sockets():
        with socket.socket(fileno=os.dup(descriptor)) as s, contextlib.suppress(OSError):
            if s.family == socket.AF_INET and s.getpeername()[0] == t.v4:
                s.sendall(MARK)
                return
    raise PermissionError("no descriptor leads outside")


def raw_connect(t: Target) -> None:
    """``socket`` and ``connect`` without Python's socket module or the C library's wrappers."""
    made = call("socket", int(socket.AF_INET), int(socket.SOCK_STREAM), 0)
    try:
        address = struct.pack("=H", socket.AF_INET) + struct.pack(">H", t.port)
        raw = address + socket.inet_aton(t.v4) + bytes(8)
        call("connect", made, ctypes.create_string_buffer(raw, 16), 16)
    finally:
        os.close(made)


def ring(t: Target) -> None:
    """A ring of requests to the kernel, which no filter of calls sees."""
    os.close(call("io_uring_setup", 4, ctypes.create_string_buffer(120)))


def _sockets() -> list[int]:
    found = []
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                found.append(int(name))
    return found


def _any_socket() -> int:
    found = []
    for descriptor in _sockets():
        with socket.socket(fileno=os.dup(descriptor)) as s:
            listens = s.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            # Neither the line on which this was ordered, nor a socket that only listens.
            if s.type == socket.SOCK_STREAM and not listens:
                found.append((s.family == socket.AF_UNIX, descriptor))
    if not found:
        raise AbsentError("the process holds no connection")
    return min(found)[1]


def _address_call(name: str, descriptor: int, t: Target, data: bytes, flags: int = 0) -> None:
    raw = struct.pack("=H", socket.AF_INET) + struct.pack(">H", t.port) + socket.inet_aton(t.v4)
    call(name, descriptor, data, len(data), flags, raw + bytes(8), 16)


KINDS: list[tuple[str, str, Attack]] = [
    ("tcp4", "TCP over IPv4", tcp4),
    ("tcp6", "TCP over IPv6", tcp6),
    ("tcp-unblocking", "TCP, without waiting", tcp_unblocking),
    ("udp4", "UDP over IPv4", udp4),
    ("udp6", "UDP over IPv6", udp6),
    ("udp-connected", "UDP, connected first", udp_connected),
    ("udp-broadcast", "UDP to everyone", udp_broadcast),
    ("resolve", "the system's resolver", resolve),
    ("dns", "a DNS question made by hand", dns_by_hand),
    ("ping-raw", "a ping on a raw socket", ping_raw),
    ("ping", "a ping on a datagram socket", ping_datagram),
    ("packet", "a frame put on the wire (AF_PACKET)", packet),
    ("netlink", "the kernel's routes (AF_NETLINK)", netlink),
    ("netlink-generic", "generic netlink", netlink_generic),
    ("vsock", "the machine's host (AF_VSOCK)", vsock),
    ("xdp", "frames past the network stack (AF_XDP)", express_data_path),
    ("alg", "a kernel socket (AF_ALG)", kernel_crypto),
    ("unix", "a unix socket, as a container service has", unix_path),
    ("unix-datagram", "a unix datagram, as a log takes", unix_datagram),
    ("unix-abstract", "an abstract unix socket", unix_abstract),
    ("unix-resolvers", "the machine's own resolvers, buses and container services", unix_resolvers),
    ("sendmsg", "sendmsg with an address", send_message),
    ("sendmmsg", "sendmmsg", send_messages),
    ("fast-open", "TCP fast open", fast_open),
    ("sendto-held", "sendto with an address on a socket held already", send_to_on_held),
    ("fast-open-held", "fast open on a socket held already", fast_open_on_held),
    ("reconnect", "undo a connection (AF_UNSPEC) to make another", reconnect),
    ("bind", "listen on every address", bind_shell),
    ("pass-descriptor", "take a descriptor over a new pair", pass_descriptor),
    ("inherited", "a connection inherited from whoever started the server", inherited),
    ("direct-calls", "socket and connect as bare system calls", raw_connect),
    ("io-uring", "io_uring", ring),
]
