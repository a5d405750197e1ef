"""``python -m freehold.adapt FD [ORDER]``: started by ``freehold adapt``, with its end of the
pair."""

from __future__ import annotations

import sys

from freehold.train.entry import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], room="adapt", called="the workshop"))
