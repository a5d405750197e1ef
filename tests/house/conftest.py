"""The whole house, as a user starts it: real commands, real processes, the real default model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.running import Server, start


@pytest.fixture(scope="session")
def server(real_root: Path) -> Iterator[Server]:
    """The default model, served."""
    running = start(real_root)
    yield running
    assert running.stop() == 0
