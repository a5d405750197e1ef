"""``python -m freehold.engine.vllm FD ORDER``: started by ``freehold serve``, with its end of the
pair and its lock. The lock comes first; all that is started later is inside it."""

from __future__ import annotations

import sys

from freehold.errors import EngineError, FreeholdError, UsageError


def main(arguments: list[str]) -> int:
    """Keep a program running in the lock that the second argument describes."""
    if len(arguments) != 2 or not arguments[0].isdecimal():
        sys.stderr.write("freehold.engine.vllm is started by freehold: run `freehold serve`\n")
        return UsageError.exit_code
    from freehold.engine.vllm.namespace import isolate
    from freehold.engine.vllm.warden import Warden
    from freehold.residency.lock import Order, close_strangers, shut_calls, shut_files

    fd, order = int(arguments[0]), Order.loads(arguments[1])
    close_strangers({fd, *order.descriptors})
    try:
        isolated = order.enforce and order.isolate and isolate()
        files = shut_files(order)
        if isolated:
            files.append("network namespace")
        shut = shut_calls(order, files)
    except (OSError, FreeholdError) as error:
        sys.stderr.write(f"freehold: vLLM's process could not be locked: {error}\n")
        return EngineError.exit_code
    if order.enforce and shut.calls != "recorded":
        sys.stderr.write(
            "freehold: vLLM needs a watchman for its sockets, and this kernel gives it none "
            "(see docs/cluster.md): --no-lock starts it without the lock\n"
        )
        return EngineError.exit_code
    return Warden(fd).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
