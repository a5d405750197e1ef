"""A small manifest of data sets, made by the tests themselves."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pytest

from freehold.guard import synthetic

KINDS: dict[str, tuple[synthetic.Kind, str, str]] = {
    # set: the kind of our own texts it is made of, and the row's label and category
    "attack_one": ("injection", "attack", "prompt_injection/direct"),
    "attack_two": ("injection", "attack", "prompt_injection/direct"),
    "attack_three": ("jailbreak", "attack", "jailbreak"),
    "attack_four": ("jailbreak", "attack", "jailbreak"),
    "harmful_five": ("harmful", "harmful", "unspecified"),
    "harmful_six": ("harmful", "harmful", "unspecified"),
    "toxic_seven": ("toxicity", "toxic", "toxicity"),
    "benign_one": ("benign", "benign", "instruction"),
    "benign_two": ("benign", "benign", "instruction"),
    "benign_three": ("benign", "benign", "instruction"),
    "benign_four": ("benign", "benign", "instruction"),
    "benign_five": ("benign", "benign", "instruction"),
}


def write_set(folder: Path, name: str, rows: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    data = gzip.compress("\n".join(json.dumps(row) for row in rows).encode(), mtime=0)
    (folder / "guard").mkdir(exist_ok=True)
    path = folder / "guard" / f"{name}.jsonl.gz"
    path.write_bytes(data)
    return {
        "name": name,
        "path": f"guard/{name}.jsonl.gz",
        "licence": "CC0-1.0",
        "ship_ok": True,
        "sha256": hashlib.sha256(data).hexdigest(),
        "languages": ["en"],
        **more,
    }


@pytest.fixture(scope="session")
def small_manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve small sets in English, and one that may not be shipped."""
    folder = tmp_path_factory.mktemp("data")
    files = []
    for i, (name, (kind, label, category)) in enumerate(KINDS.items()):
        found = synthetic.texts(kind, "en", 40, seed=100 + i)
        random.Random(i).shuffle(found)
        rows = [
            {"text": text, "label": label, "category": category, "lang": "en"} for text in found
        ]
        files.append(write_set(folder, name, rows))
    secret = [{"text": "never train on this", "label": "harmful", "category": "x", "lang": "en"}]
    files.append(write_set(folder, "harmful_kept", secret * 5, ship_ok=False))
    manifest = folder / "MANIFEST.json"
    manifest.write_text(json.dumps({"files": files}))
    return manifest
