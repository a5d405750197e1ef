"""A passport for others: one JSON document, one HTML page, or a CycloneDX bill of materials.

All three show the same facts. Only the first can be verified by itself: it holds the signed
envelopes and the keys. The page asks nothing from anywhere: no script, no image, no font, and a
policy that forbids the browser to fetch any; every text in it is escaped.

Source: CycloneDX 1.6, JSON, profile for machine learning (ML-BOM).
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from freehold import __version__
from freehold.page import document, escaped, table
from freehold.signing import dsse
from freehold.store import licences, openness
from freehold.store.gate import licence_of
from freehold.store.lineage import Link
from freehold.store.manifest import Manifest
from freehold.store.passport import Entry, Trust
from freehold.store.statements import Audit, Eval, Source, Weights

BUNDLE = "freehold-passport/1"
_NAMESPACE = uuid.UUID("6f1f4c5e-5d5b-5c0e-9c2a-2f6d6b8f3f10")


def facts(manifest: Manifest, entries: Sequence[Entry], links: Sequence[Link]) -> dict[str, Any]:
    """What is known of a model, in plain JSON: what the vault saw, every statement with who signed
    it, and the chain."""
    licence = licences.about(licence_of(manifest, entries))
    return {
        "name": manifest.name,
        "digest": manifest.digest,
        "bytes": manifest.size,
        "source": manifest.source,
        "repository": manifest.repository,
        "revision": manifest.revision,
        "attested": manifest.attested,
        "admitted": manifest.admitted,
        "licence": {
            "id": licence.id,
            "title": licence.title,
            "commercial": licence.commercial,
            "facts": list(licence.facts),
        },
        "files": [
            {"path": file.path, "bytes": file.size, "sha256": file.sha256, "blake3": file.blake3}
            for file in manifest.files
        ],
        "openness": openness.facts(openness.of_model(manifest, entries)),
        "statements": [_statement(entry) for entry in entries],
        "chain": [link_facts(link) for link in links],
    }


def link_facts(link: Link) -> dict[str, Any]:
    """One link of the chain, in plain JSON."""
    return {
        "name": link.name,
        "digest": link.digest,
        "child": link.child or None,
        "state": link.state,
        "source": link.manifest.source if link.manifest else None,
        "relation": link.made.relation if link.made else None,
        "parents": _names(link.made.parents) if link.made else [],
        "deltas": _names(link.made.deltas) if link.made else [],
        "signers": list(link.signers),
    }


def bundle(
    manifest: Manifest, entries: Sequence[Entry], links: Sequence[Link], trust: Trust
) -> bytes:
    """One JSON document: the facts, the signed envelopes as they are, and the public keys (PEM) of
    those signers that are trusted here."""
    signers = sorted({name for entry in entries for name in entry.signers})
    return _json(
        {
            "format": BUNDLE,
            "model": facts(manifest, entries, links),
            "envelopes": [json.loads(dsse.encode(entry.envelope)) for entry in entries],
            "keys": [
                {"name": name, "id": trust[name].key_id, "pem": trust[name].pem()}
                for name in signers
            ],
        }
    )


# --- CycloneDX ------------------------------------------------------------------------------------


def cyclonedx(manifest: Manifest, entries: Sequence[Entry], links: Sequence[Link]) -> bytes:
    """A CycloneDX 1.6 ML-BOM, JSON. The same passport gives the same bytes, serial number
    included."""
    digest = manifest.digest.removeprefix("sha256:")
    trusted = [entry for entry in entries if entry.signers]
    seed = "".join(f"{digest} {entry.envelope.payload.hex()}" for entry in entries) or digest
    made = max([manifest.admitted, *(entry.predicate.made for entry in entries)])
    return _json(
        {
            "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
            "bomFormat": "CycloneDX",
            "specVersion": "1.6",
            "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, seed)}",
            "version": 1,
            "metadata": {
                "timestamp": made,
                "tools": {
                    "components": [
                        {"type": "application", "name": "freehold", "version": __version__}
                    ]
                },
                "component": _component(manifest, trusted, links),
            },
            "components": [_file(file.path, file.sha256) for file in manifest.files],
            "dependencies": [
                {
                    "ref": manifest.digest,
                    "dependsOn": sorted({f"file:{file.path}" for file in manifest.files}),
                }
            ],
        }
    )


def _component(
    manifest: Manifest, trusted: Sequence[Entry], links: Sequence[Link]
) -> dict[str, Any]:
    digest = manifest.digest.removeprefix("sha256:")
    ancestors = [
        {
            "type": "machine-learning-model",
            "name": link.name,
            "version": link.digest,
            "hashes": [{"alg": "SHA-256", "content": link.digest.removeprefix("sha256:")}],
        }
        for link in links[1:]
    ]
    scores = [
        {"type": f"{entry.predicate.task}: {name}", "value": str(value)}
        for entry in trusted
        if isinstance(entry.predicate, Eval)
        for name, value in entry.predicate.scores.items()
    ]
    licence = licence_of(manifest, trusted)
    return {
        "type": "machine-learning-model",
        "bom-ref": manifest.digest,
        "name": manifest.name,
        "version": manifest.revision or manifest.digest,
        "hashes": [{"alg": "SHA-256", "content": digest}],
        **({"licenses": [_licence(licence)]} if licence != licences.UNKNOWN_LICENCE else {}),
        **({"pedigree": {"ancestors": ancestors}} if ancestors else {}),
        "modelCard": {
            "modelParameters": {"task": "text-generation"},
            **({"quantitativeAnalysis": {"performanceMetrics": scores}} if scores else {}),
        },
        "properties": [
            {"name": f"freehold:{name}", "value": value}
            for name, value in _properties(manifest, trusted, licence)
        ]
        + [
            {
                "name": f"freehold:statement:{entry.line}",
                "value": f"{entry.predicate.kind} at {entry.predicate.made} "
                f"by {', '.join(entry.signers)}",
            }
            for entry in trusted
        ],
    }


def _properties(
    manifest: Manifest, trusted: Sequence[Entry], licence: str
) -> list[tuple[str, str]]:
    opened = openness.of_model(manifest, trusted)
    return [
        ("openness", f"{opened.title} ({openness.FRAMEWORK})"),
        ("open-source-ai", "yes" if opened.open_source else "no"),
        ("source", manifest.source),
        ("repository", manifest.repository),
        ("attested", manifest.attested),
        ("admitted", manifest.admitted),
        *(("licence-fact", fact) for fact in licences.about(licence).facts),
    ]


def _licence(id: str) -> dict[str, Any]:
    # The schema takes only ids of SPDX's own list; whatever else goes by name.
    known = licences.about(id)
    return {"license": {"id": id} if known.listed else {"name": id}}


def _file(path: str, sha256: str) -> dict[str, Any]:
    return {
        "type": "file",
        "bom-ref": f"file:{path}",
        "name": path,
        "hashes": [{"alg": "SHA-256", "content": sha256}],
    }


# --- HTML -----------------------------------------------------------------------------------------


def page(manifest: Manifest, entries: Sequence[Entry], links: Sequence[Link]) -> bytes:
    """One HTML page that shows the passport by itself."""
    known = facts(manifest, entries, links)
    licence = known["licence"]
    opened = openness.lines(openness.of_model(manifest, entries))
    told = [
        ("digest", known["digest"]),
        ("source", " ".join(filter(None, (known["source"], known["repository"])))),
        ("revision", known["revision"] or "-"),
        ("digests vouched for by", known["attested"]),
        ("admitted", known["admitted"]),
        ("licence", f"{licence['id']}; commercial use: {licence['commercial']}"),
        *(("", fact) for fact in licence["facts"]),
        ("openness", opened[0].removeprefix("openness: ")),
        *(("", line.strip()) for line in opened[1:]),
    ]
    said = [
        (
            str(entry["line"]),
            entry["kind"],
            entry["made"],
            ", ".join(entry["signers"]) or "no key that is trusted here",
            _summary(entry["predicate"]),
        )
        for entry in known["statements"]
    ]
    body = [
        f'<p class="over">Freehold passport</p><h1>Passport of {escaped(manifest.name)}</h1>',
        table((), told),
        "<h2>Files</h2>",
        table(
            ("file", "bytes", "SHA-256"),
            [(f["path"], f"{f['bytes']:,}", f["sha256"]) for f in known["files"]],
        ),
        "<h2>Chain</h2>",
        table(
            ("model", "digest", "made by", "is", "vouched for by"),
            [
                (
                    link["name"],
                    link["digest"],
                    link["relation"] or "-",
                    link["state"],
                    ", ".join(link["signers"]) or "-",
                )
                for link in known["chain"]
            ],
        ),
        "<h2>Statements</h2>",
        table(("line", "kind", "made", "signed by", "says"), said)
        if said
        else "<p>Nobody has signed anything yet.</p>",
        f"<p>Written by Freehold {escaped(__version__)}. This page proves nothing by itself: "
        "verify the JSON export against the signers' public keys.</p>",
    ]
    return document(f"Passport of {manifest.name}", "\n".join(body)).encode()


def _summary(predicate: Mapping[str, Any]) -> str:
    return "; ".join(
        f"{key}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
        for key, value in predicate.items()
        if key != "made" and value not in ("", [], None)
    )


# --- common ---------------------------------------------------------------------------------------


def _statement(entry: Entry) -> dict[str, Any]:
    """An entry in plain JSON. What stands whole elsewhere (files, the weights' signature) is left
    out."""
    predicate = msgspec.to_builtins(entry.predicate)
    if isinstance(entry.predicate, Source):
        del predicate["files"]
    if isinstance(entry.predicate, Weights):
        del predicate["bundle"]
    if isinstance(entry.predicate, Audit):
        predicate["findings"] = [
            f"{finding.severity}: {finding.title}" for finding in entry.predicate.findings
        ]
    return {
        "line": entry.line,
        "kind": entry.predicate.kind,
        "made": entry.predicate.made,
        "signers": list(entry.signers),
        "other_keys": list(entry.others),
        "predicate": predicate,
    }


def _names(named: Iterable[Any]) -> list[dict[str, str]]:
    return [{"name": one.name, "digest": one.digest} for one in named]


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, indent=2).encode() + b"\n"
