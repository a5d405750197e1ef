"""``python -m freehold.train FD [ORDER]``: started by ``freehold train`` and ``freehold data``,
with its end of the pair."""

from __future__ import annotations

import sys

from freehold.train.entry import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], room="train", called="the foundry"))
