"""The other end of ``freehold residency prove``: attacks ordered on a line, tried in this process.

Only a watchman that was started with a drill asks a process to listen here, and only ``prove``
starts one so. There is no way here from HTTP.
"""

from __future__ import annotations

import json
import os
import socket
import threading

_MAX_PACKET = 1 << 16


def serve(line_fd: int, role: str) -> None:
    """Try what is ordered on the line, in a thread of its own, until the line ends. The caller's
    descriptor stays the caller's."""
    line = socket.socket(fileno=os.dup(line_fd))
    threading.Thread(target=_serve, args=(line,), name=f"drill-{role}", daemon=True).start()


def _serve(line: socket.socket) -> None:
    from freehold.residency.attacks import attempt

    with line:
        while data := line.recv(_MAX_PACKET):
            order = json.loads(data)
            result = attempt(order["name"], order["target"])
            answer = {"drilled": order["number"], "result": result}
            line.send(json.dumps(answer).encode())
