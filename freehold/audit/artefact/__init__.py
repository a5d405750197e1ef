"""The artefact: what follows from the bytes alone, in seconds and without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from freehold.audit.artefact import files, requantised, settings, template, tokenizer
from freehold.audit.findings import Finding, Steps
from freehold.audit.specimen import Specimen
from freehold.errors import MalformedError
from freehold.qwen.names import names_of
from freehold.qwen.tokenizer import Tables
from freehold.store.passport import Entry
from freehold.types import RawTensor

TITLE = "The artefact"
TRIED = (
    "Every file was digested and compared with the catalog, the vault and the passport; read by "
    "the strict parsers; and looked at for kinds that can run code. The chat template was compared "
    "with published ones, its syntax tree walked, its texts read, and it was rendered in the "
    "sandbox over messages that differ only in what they say. The tokenizer was compared id by id "
    "with a reference, and texts were cut and joined again. The configuration was compared with "
    "the tensors, the published shape and the base; so were the special tokens. Quantised weights "
    "were held against the plain ones of the base, where it has any."
)
MISSES = (
    "What a weight means: a model trained to misbehave has sound files. A template that waits for "
    "words that are not among those tried and compares nothing with a fixed text. A change of "
    "codes within one step of their own scale. Whether the publisher's own release is honest."
)


@dataclass(frozen=True, kw_only=True)
class Looked:
    """What the look came to: findings, and the two tables that later parts use."""

    findings: list[Finding]
    tables: Tables | None = None
    figures: dict[str, object] = field(default_factory=dict)


def examine(
    specimen: Specimen,
    *,
    base: Specimen | None,
    reference: Tables | None,
    reference_name: str,
    entries: Sequence[Entry],
    steps: Steps,
) -> Looked:
    """Everything that follows from the bytes. ``reference`` are the tables of the family's
    tokenizer, of the base or of a model in the vault; ``entries`` are the passport's."""
    found: list[Finding] = []
    steps.start(4, "Looking at the files")
    told, tables = tokenizer.examine(specimen, reference, reference_name)
    steps.advance(1)
    about, config = settings.examine(specimen, base, tables)
    steps.advance(1)
    found += files.examine(specimen, config, entries)
    found += about
    found += told
    steps.advance(1)
    found += template.examine(specimen, base)
    steps.advance(1)
    if base is not None:
        found += requantised.examine(plainly(specimen), plainly(base), base.name, steps)
    kinds: dict[str, int] = {}
    for tensor in specimen.tensors.values():
        kinds[tensor.dtype] = kinds.get(tensor.dtype, 0) + tensor.data.nbytes
    plot = {
        "kind": "bars",
        "title": "What the weights are stored as",
        "x": list(kinds),
        "y": [round(size / 1e6, 3) for size in kinds.values()],
        "unit": "MB",
    }
    rows = [
        [path, f"{len(view):,}", specimen.sha256[path]] for path, view in specimen.files.items()
    ]
    table = {"title": "Files", "head": ["file", "bytes", "SHA-256"], "rows": rows[:200]}
    return Looked(
        findings=found,
        tables=tables,
        figures={"plots": [plot] if kinds else [], "tables": [table]},
    )


def plainly(specimen: Specimen) -> dict[str, RawTensor]:
    """The tensors under Hugging Face's names, whatever the file calls them: so two formats can be
    compared. Tensors that the configuration does not know are left out."""
    from freehold.qwen.names import HF, block_shapes

    try:
        config = specimen.config()
    except MalformedError:
        return {}
    names = names_of("gguf" if specimen.format == "gguf" else "safetensors")
    pairs = [(names.whole(part), HF.whole(part)) for part in ("embed", "norm", "head")]
    for layer in range(config.n_layers):
        pairs += [
            (names.block(layer, part), HF.block(layer, part)) for part in block_shapes(config)
        ]
    return {hf: specimen.tensors[own] for own, hf in pairs if own in specimen.tensors}
