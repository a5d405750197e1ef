"""Every frame that reaches an interface, written down as a pcap file.

Source: the libpcap savefile format (version 2.4, microseconds, Ethernet).
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from pathlib import Path
from types import TracebackType

_ALL_PROTOCOLS = 3
_LONGEST = 1 << 16
_OUTGOING = 4
_WAKE = 0.1


class Capture:
    """Writes what ``interface`` of the current network namespace sees to ``path``, from now on.

    ``arrived`` counts frames that came in by the wire; those this side sent are written too.
    Raises ``OSError``.
    """

    def __init__(self, interface: str, path: Path) -> None:
        self.arrived = 0
        self._socket = socket.socket(
            socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_PROTOCOLS)
        )
        self._socket.bind((interface, _ALL_PROTOCOLS))
        self._socket.settimeout(_WAKE)
        self._file = path.open("wb")
        self._file.write(struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, _LONGEST, 1))
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)
        self._thread.start()

    def __enter__(self) -> Capture:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop, and leave a whole file."""
        self._ended.set()
        self._thread.join()
        self._socket.close()
        self._file.close()

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                data, sender = self._socket.recvfrom(_LONGEST)
            except TimeoutError:
                continue
            self.arrived += sender[2] != _OUTGOING
            now = time.time()
            head = struct.pack("=IIII", int(now), int(now % 1 * 1e6), len(data), len(data))
            self._file.write(head + data)
            self._file.flush()
