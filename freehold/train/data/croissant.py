"""A corpus's manifest as other programs read it: Croissant 1.1, JSON-LD.

Source: docs.mlcommons.org/croissant, specification 1.1: a ``sc:Dataset`` with a distribution of
``cr:FileObject`` and a record set whose fields are taken out of JSON lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

VERSION = "http://mlcommons.org/croissant/1.1"
_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


def of(manifest: dict[str, Any]) -> dict[str, Any]:
    """The JSON-LD document of a corpus."""
    sources = manifest["sources"]
    web = any("extractor" in one for one in sources)
    columns = ("id", "source", *(["address"] if web else []), "text", "messages")
    told = "; ".join(f"{one['name']}: {one['documents']:,} documents" for one in sources)
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": VERSION,
        "name": manifest["name"],
        "description": f"A corpus built by Freehold from declared sources ({told}).",
        "license": sorted({one["licence"] for one in sources}),
        "url": next((one["address"] for one in sources if one["address"]), "urn:freehold:corpus"),
        "version": manifest["digest"],
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": one["file"],
                "name": one["file"],
                "contentUrl": one["file"],
                "encodingFormat": "application/json"
                if one["file"].endswith(".json")
                else "application/jsonl",
                "contentSize": f"{one['size']} B",
                "sha256": one["sha256"],
            }
            for one in manifest["files"]
        ],
        "recordSet": [
            _records(one["file"], columns)
            for one in manifest["files"]
            if one["file"].endswith(".jsonl")
        ],
    }


def _records(file: str, columns: Sequence[str]) -> dict[str, Any]:
    name = file.removesuffix(".jsonl")
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"{name}/{column}",
                "name": column,
                "dataType": "sc:Text",
                "source": {
                    "fileObject": {"@id": file},
                    "extract": {"jsonPath": f"$.{column}"},
                },
            }
            for column in columns
        ],
    }
