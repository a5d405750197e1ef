"""Learn what tells languages apart, and measure it on sets that it was not learnt from.

    python benchmarks/languages.py --data ../shared/data [--write]

Learns from ``corpus/`` (all of it may be shipped) and measures on the questions and passages of
``eval/``. With ``--write`` the table that ships is made anew.
"""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path

from freehold.evals import trigrams
from freehold.evals.languages import Table, language_of

SETS = (
    *(
        ("mgsm", language, "question")
        for language in ("bn", "de", "en", "es", "fr", "ja", "ru", "sw", "te", "th", "zh")
    ),
    *(("belebele", language, "question") for language in ("id", "th", "vi")),
    *(("belebele", language, "passage") for language in ("id", "th", "vi")),
    *(("xquad", language, "question") for language in ("de", "en", "th", "vi", "zh")),
    *(
        ("xcopa", language, "premise")
        for language in ("et", "ht", "id", "it", "sw", "ta", "th", "tr", "vi", "zh")
    ),
    *(
        ("global_mmlu_lite", language, "question")
        for language in ("en", "id", "ms", "my", "tl", "vi", "zh")
    ),
    ("tydiqa", "id", "question"),
)


def learnt(data: Path) -> Table:
    manifest = json.loads((data / "MANIFEST.json").read_text("utf-8"))["files"]
    sources = {
        Path(entry["path"]).name.split(".")[0]: {
            "source": entry["source"],
            "licence": entry["licence"],
        }
        for entry in manifest
        if entry["path"].startswith("corpus/") and entry["ship_ok"]
    }
    return trigrams.learn(data / "corpus", sources)


def measured(table: Table, data: Path, name: str, language: str, field: str) -> tuple[str, ...]:
    path = data / "eval" / name / f"{language}.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        texts = [text for line in lines if (text := json.loads(line)[field])]
    found = [language_of(text, table) for text in texts]
    right = sum(each == language for each in found) / len(found)
    none = found.count(None) / len(found)
    wrong = {each for each in found if each not in (language, None)}
    most = max(wrong, key=found.count, default="")
    told = f"{most} {found.count(most) / len(found):.3f}" if most else ""
    return f"{name} {language} {field}", str(len(found)), f"{right:.3f}", f"{none:.3f}", told


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    table = learnt(options.data)
    encoded = trigrams.encode(table)
    if options.write:
        Path(trigrams.__file__).with_name("trigrams.json").write_bytes(encoded)
    print(f"{len(table.costs)} trigrams, {len(encoded)} bytes")
    print("| texts | n | right | none | mistaken most for |\n|---|---|---|---|---|")
    for each in SETS:
        print(f"| {' | '.join(measured(table, options.data, *each))} |")


if __name__ == "__main__":
    main()
