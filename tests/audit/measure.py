"""Measure the detectors and write down how often they err.

    python -m tests.audit.measure            # writes freehold/audit/rates.json
    python -m tests.audit.measure --check    # exit code 1 if the file says otherwise

Attacks count as found if the detector that is meant for them speaks with the severity that the
table asks for; honest variants give a false alarm if anything of high severity is said.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from freehold.audit.lineage.delta import compare, story
from freehold.audit.lineage.kinship import RELATED
from tests.audit import artefacts as bed
from tests.audit import trained
from tests.audit.artefacts import Silent
from tests.audit.attacks import ATTACKS
from tests.audit.finetunes import TUNES, base_weights, stored, strangers, tuned
from tests.audit.test_attacks import found
from tests.audit.test_lineage import kin, right
from tests.audit.variants import VARIANTS

FILE = Path(__file__).resolve().parents[2] / "freehold" / "audit" / "rates.json"
COMMAND = "python -m tests.audit.measure"
GROUPS = ("files", "template", "tokenizer", "config", "served")


def artefact(root: Path) -> dict[str, Any]:
    made = bed.honest()
    bases = {
        "folder": bed.specimen(bed.lay(bed.folder(made), root / "base")),
        "gguf": bed.specimen(bed.lay({"base.gguf": bed.gguf(made)}, root / "base-gguf")),
    }
    planted: Counter[str] = Counter(attack.group for attack in ATTACKS)
    caught: Counter[str] = Counter()
    for number, attack in enumerate(ATTACKS):
        caught[attack.group] += bool(found(attack, root / f"attack-{number}", bases))
    alarms: Counter[str] = Counter()
    for number, variant in enumerate(VARIANTS):
        one = bed.specimen(bed.lay(variant.files(made), root / f"variant-{number}"))
        grave = {
            each.check.partition(".")[0]
            for each in bed.looked(one, bases["folder"])
            if each.severity in ("high", "critical")
        }
        alarms.update(grave)
    told = "attacks on a small model's files, the base named, and honest variants of it"
    return {
        group: _rates(caught[group], planted[group], alarms[group], len(VARIANTS), told)
        for group in GROUPS
    }


def lineage() -> dict[str, Any]:
    ranks, related = 0, 0
    for number, tune in enumerate(TUNES):
        theirs = stored(base_weights(0), tune.base)
        mine = stored(tuned(base_weights(0), tune, number), tune.dtype)
        ranks += right(tune, story(compare(mine, theirs, 0, Silent())))
        own = kin(mine, theirs).log10_p
        others = [kin(mine, stored(base_weights(seed), "F32")).log10_p for seed in (1, 2)]
        related += own < RELATED < min(others)
    base = stored(base_weights(0), "F32")
    learnt = trained.base()
    strange = [
        *((mine, base) for _, mine in strangers()),
        *((mine, learnt) for mine in trained.strangers()),
    ]
    claimed = sum(kin(mine, theirs).related for mine, theirs in strange)
    made_from = sum(
        story(compare(mine, theirs, 0, Silent())).kind != "unrelated" for mine, theirs in strange
    )
    told = (
        "fine-tunes of a small model (right rank, modules and layers; or right base), strangers, "
        f"{trained.STRANGERS} of them trained on what their base was trained on"
    )
    return {
        "lineage": _rates(ranks, len(TUNES), made_from, len(strange), told),
        "kinship": _rates(related, len(TUNES), claimed, len(strange), told),
    }


def _rates(found_: int, planted: int, alarms: int, clean: int, told: str) -> dict[str, Any]:
    return {
        "found": found_, "planted": planted, "alarms": alarms, "clean": clean, "bed": told,
        "command": COMMAND,
    }  # fmt: skip


def measure() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        return artefact(Path(folder)) | lineage()


if __name__ == "__main__":
    text = json.dumps(measure(), indent=1) + "\n"
    if "--check" in sys.argv:
        sys.exit(FILE.read_text(encoding="utf-8") != text)
    FILE.write_text(text, encoding="utf-8")
    print(text)
