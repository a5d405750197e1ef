"""How good the fast tier is where one attack set and one harmless set are left out at a time.

    python benchmarks/guard_leave_one.py MANIFEST.json [--texts 800] [--json FILE]

This is the protocol that the aims are read on. `freehold guard report` leaves out a fifth of all
sets at once and nests the threshold, which is harder. Here each attack family in turn is left out
together with one harmless family, and with near twins (MinHash) in other sets. One threshold for
everything: where harmless sets, each scored by heads that never saw it, would be flagged once in a
hundred, each set weighing the same. A harmless set's own false alarms are counted at the threshold
of the *other* sets. Sets that may not be shipped are measured by heads that left nothing out but
their twins. Every text is scored in all its views, as served.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from freehold.guard import corpus
from freehold.guard.evaluation import protocol
from freehold.guard.evaluation.intervals import share
from freehold.guard.evaluation.scoring import Panel
from freehold.guard.training import Group, Recipe, fit, prepare

Floats = npt.NDArray[np.float32]


class Told:
    """Steps on one line each."""

    def start(self, total: int, what: str, /) -> None:
        print(f"{what} ({total})", flush=True)

    def advance(self, n: int, /) -> None:
        pass


def pairs(groups: Sequence[Group]) -> list[tuple[str, ...]]:
    """Each attack family with one harmless family, in turn; every harmless family at least once.
    The last is empty: nothing is left out, for what is never trained on."""
    ours = [group for group in groups if group.trainable and group.family]
    attacks = sorted({group.family or "" for group in ours if group.kind != "benign"})
    harmless = sorted({group.family or "" for group in ours} - set(attacks))
    longest = max(len(attacks), len(harmless))
    found = [
        (attacks[i % len(attacks)], harmless[i % len(harmless)])
        for i in range(longest)
    ]  # fmt: skip
    return [*found, ()]


def left_out(groups: Sequence[Group], recipe: Recipe) -> list[tuple[Group, Floats]]:
    """Every measured set once, with the logits (texts, heads) of the first heads that left it
    out."""
    told = Told()
    cluster = protocol.twins(groups, told)
    found: dict[int, tuple[Group, Floats]] = {}
    for families in pairs(groups):
        told.start(1, f"without {' and '.join(families) or 'what may not be shipped'}")
        skip = protocol.skipped(groups, families, cluster)
        panel = Panel([fit(groups, recipe, without=families, skip=skip)])
        for group in groups:
            mine = group.family in families if group.trainable else not families
            if mine and id(group) not in found:
                found[id(group)] = group, panel.all(group.texts, told.advance)[:, 0]
    return list(found.values())


def rows(held: Sequence[tuple[Group, Floats]]) -> list[dict[str, Any]]:
    """What is flagged of each set, with its 95 % interval."""
    harmless = [one for one in held if one[0].trainable and one[0].kind == "benign"]
    out = []
    for group, logits in held:
        offsets, limit = protocol.judge([other for each, other in harmless if each is not group])
        hits = int(((logits - offsets).max(axis=1) > limit).sum())
        out.append(
            {
                "set": group.name,
                "kind": group.kind,
                "trainable": group.trainable,
                "flagged": asdict(share(hits, len(logits))),
            }
        )
    return sorted(out, key=lambda row: (row["kind"] == "benign", not row["trainable"], row["set"]))


def summary(found: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Toxic sets stand in the table and not in the mean, as in the report."""
    asked = [r for r in found if r["trainable"] and r["kind"] not in ("benign", "toxicity")]
    calm = [r for r in found if r["trainable"] and r["kind"] == "benign"]
    unseen = [r for r in found if not r["trainable"] and r["kind"] != "benign"]
    shares = [[r["flagged"]["share"] for r in part] for part in (asked, calm, unseen)]
    return {
        "mean_tpr": float(np.mean(shares[0])),
        "worst_tpr": min(shares[0]),
        "mean_fpr": float(np.mean(shares[1])),
        "worst_fpr": max(shares[1]),
        "mean_tpr_of_sets_never_trained_on": float(np.mean(shares[2])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--texts", type=int, default=corpus.CAP, help="of each set and class")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    options = parser.parse_args()
    recipe = Recipe()
    groups = prepare(corpus.read(options.manifest, cap=options.texts), recipe)
    found = rows(left_out(groups, recipe))
    if options.json:
        options.json.write_text(json.dumps({"summary": summary(found), "sets": found}, indent=1))
    for row in found:
        flagged = row["flagged"]
        mark = "" if row["trainable"] else " (never trained on)"
        print(
            f"{row['set'] + mark:60} {row['kind']:10} {flagged['share']:.3f}"
            f"   (95 %: {flagged['low']:.3f} to {flagged['high']:.3f}, n {flagged['n']})"
        )
    for name, value in summary(found).items():
        print(f"{name:36} {value:.3f}")


if __name__ == "__main__":
    main()
