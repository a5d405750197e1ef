"""Files that can carry code are refused by name, by content, and by what a config asks for.

A pickle runs code when it is read; ``auto_map`` in a config makes other programs import a ``.py``
file that lies beside the weights. Freehold opens neither, and fetches neither from a hub.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from freehold.errors import RefusedError

PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz"})
PROGRAMS = frozenset({".py", ".pyc", ".so", ".dll", ".dylib", ".sh", ".exe", ".h5", ".keras"})

_NEXT = "Use the model's safetensors or GGUF release, which holds data only."


def carries_code(path: str) -> bool:
    """Whether a file of this name is of a kind that can run code."""
    return PurePosixPath(path).suffix.lower() in PICKLES | PROGRAMS


def check_name(path: str) -> None:
    """Raise ``RefusedError`` if a file of this name is of a kind that can run code."""
    suffix = PurePosixPath(path).suffix.lower()
    if suffix in PICKLES:
        raise RefusedError(f"{path} is refused: {suffix} files are pickles or may hold one, and "
                           f"reading a pickle runs the code in it. {_NEXT}")  # fmt: skip
    if suffix in PROGRAMS:
        raise RefusedError(f"{path} is refused: {suffix} files are programs or load them. {_NEXT}")


def check_content(view: memoryview, path: str) -> None:
    """Raise ``RefusedError`` if a weight file begins like a pickle or like PyTorch's zip of one,
    whatever its name."""
    head = bytes(view[:9])
    # 0x80, then the protocol. A sound safetensors file may begin with the same two bytes (a header
    # of 640 bytes, say), but then has "{" at byte 8.
    pickle = len(head) > 1 and head[0] == 0x80 and 2 <= head[1] <= 5 and head[8:] != b"{"
    if pickle or head.startswith(b"PK\x03\x04"):
        kind = "a pickle" if pickle else "a zip archive, as PyTorch makes of pickles"
        raise RefusedError(f"{path} is refused: it is {kind} under another name. {_NEXT}")


def check_config(document: Any, path: str) -> None:
    """Raise ``RefusedError`` if a JSON document asks for code (``auto_map``, at any depth)."""
    level = [document]
    while level:
        following: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                if "auto_map" in value:
                    raise RefusedError(
                        f"{path} is refused: auto_map names Python code to import beside the "
                        "weights. Use a release of this model that needs no code of its own."
                    )
                following.extend(value.values())
            elif isinstance(value, list):
                following.extend(child for child in value if isinstance(child, dict | list))
        level = following
