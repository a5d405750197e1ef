"""Put a trained model and all that made it into a folder of its own, and say what is in it.

    python models/release.py FOLDER RUN CORPUS [STEP ...]
    python models/release.py FOLDER

RUN and CORPUS are folders in the vault (`train/NAME`, `corpora/NAME`). FOLDER gets the model, its
record, the checkpoints of the steps that are named, and the corpus's manifest; what it holds
already (cards, report, results) stays. Then `release.json` lists every component with the digests
of its files: `freehold openness NAME --release FOLDER` computes the class from them. With FOLDER
alone only that is written anew, as it must be when a file of the package that it names changes.
"""

from __future__ import annotations

import json
import shutil
import sys
from importlib import metadata
from pathlib import Path

from freehold.store import Store, default_root, openness
from freehold.store.openness import ReleasePart
from freehold.train import record, run
from freehold.train.data import build
from freehold.train.job import MODEL

LICENCE = "Apache-2.0"
HERE = "the repository of Freehold, models/hearth"
PACKAGE = "the package freehold"
DATA = ("train/data/stories.py", "train/data/words.toml", "train/data/hearth.toml")
LIBRARIES = ("torch", "numpy", "tokenizers")


def main(arguments: list[str]) -> None:
    folder = Path(arguments[0])
    if len(arguments) > 1:
        source, corpus = map(Path, arguments[1:3])
        _gather(source, corpus, folder, [int(step) for step in arguments[3:]])
        digest = Store(default_root()).manifest(folder.name).digest
    else:
        digest = json.loads((folder / openness.RELEASE).read_bytes())["model"]
    openness.write_release(folder, digest, components(folder))


def _gather(source: Path, corpus: Path, folder: Path, steps: list[int]) -> None:
    training = folder / "training"
    (training / run.CHECKPOINTS).mkdir(parents=True, exist_ok=True)
    (folder / "data").mkdir(exist_ok=True)
    for path in (source / MODEL).iterdir():
        shutil.copy(path, folder / path.name)
    for name in (run.RECIPE, record.LINES, record.NOTE, "loss.html"):
        shutil.copy(source / name, training / name)
    for step in steps:
        path = run.checkpoint(source, step)
        shutil.copy(path, training / run.CHECKPOINTS / path.name)
    for name in (build.MANIFEST, build.CROISSANT):
        shutil.copy(corpus / name, folder / "data" / name)
    pinned = "".join(f"{name}=={metadata.version(name)}\n" for name in LIBRARIES)
    (folder / "libraries.txt").write_text(pinned, encoding="utf-8")


def components(folder: Path) -> dict[str, ReleasePart]:
    """What the release in ``folder`` has of each component. Of the package the files are named that
    decide what the component does; the rest is what they import."""

    def here(*paths: str) -> ReleasePart:
        files = openness.hashed(folder, paths)
        return ReleasePart(licence=LICENCE, where=HERE, files=files)

    def package(*paths: str) -> ReleasePart:
        files = openness.hashed(folder, paths, root="freehold")
        return ReleasePart(licence=LICENCE, where=PACKAGE, files=files)

    kept = sorted((folder / "training" / run.CHECKPOINTS).iterdir())
    return {
        "architecture": package("qwen/forward.py", "train/recipe.py"),
        "parameters": here("model.safetensors"),
        "technical-report": here("REPORT.md"),
        "evaluation-results": here("evals.json"),
        "model-card": here("README.md"),
        "data-card": here("DATA.md", "data/manifest.json", "data/croissant.json"),
        "sample-outputs": here("samples.json"),
        "training-code": package(
            "train/run.py",
            "train/learner.py",
            "train/taught.py",
            "train/loss.py",
            "train/batches.py",
            "train/tokens.py",
        ),
        "inference-code": package("qwen/forward.py"),
        "evaluation-code": here("evaluate.py"),
        "evaluation-data": package(*DATA),
        "libraries": here("libraries.txt"),
        "datasets": package(*DATA),
        "preprocessing-code": package("train/data/build.py", "train/data/sifting.py"),
        "checkpoints": here(*(str(path.relative_to(folder)) for path in kept)),
        "research-paper": here("REPORT.md"),
        "metadata": here("config.json", "training/recipe.json", "training/record.jsonl"),
    }


if __name__ == "__main__":
    main(sys.argv[1:])
