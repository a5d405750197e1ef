"""``freehold`` as a shell runs it, with a home and keys of its own, and small models to pull."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def freehold(tmp_path: Path) -> Run:
    """Run ``freehold`` with a home and a folder of keys of its own."""

    def run(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
        own = {"FREEHOLD_HOME": str(tmp_path / "home"), "FREEHOLD_KEYS": str(tmp_path / "keys")}
        return subprocess.run(
            [sys.executable, "-m", "freehold.cli", *words],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, **own, **env},
        )

    return run


@pytest.fixture
def small_model(tmp_path: Path) -> Callable[..., Path]:
    """Writes a GGUF file that is sound, and too small to answer."""

    def write(name: str = "small", template: str | None = None, rows: int = 4) -> Path:
        path = tmp_path / "brought" / f"{name}.gguf"
        path.parent.mkdir(exist_ok=True)
        writer = GGUFWriter(path, "qwen2")
        writer.add_block_count(1)
        if template is not None:
            writer.add_chat_template(template)
        writer.add_tensor("big.weight", np.ones((rows, 256), dtype=np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write
