"""The configuration against the tensors, against what is published, and against the base; and the
tokens that begin, end and pad."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from blake3 import blake3

from freehold.audit.artefact.facts import ENDS, STEERING_KEYS, shape_of
from freehold.audit.findings import Finding, Severity
from freehold.audit.noting import fact
from freehold.audit.specimen import Specimen
from freehold.errors import MalformedError
from freehold.qwen import names, quants
from freehold.qwen.config import Config
from freehold.qwen.tokenizer import Tables
from freehold.types import RawTensor

_WHERE = "configuration"
_COMPARED: dict[str, Severity] = {
    "n_layers": "medium",
    "width": "medium",
    "mlp_width": "medium",
    "n_heads": "high",
    "n_kv_heads": "high",
    "head_dim": "high",
    "rope_theta": "high",
    "norm_eps": "high",
    "windows": "high",
    "qkv_bias": "high",
    "qk_norm": "high",
    "tied_head": "medium",
    "rope_scaling": "medium",
    "context": "low",
    "vocab": "low",
}
"""Fields of the configuration, and what it means if one is not the base's."""


def examine(
    specimen: Specimen, base: Specimen | None, tables: Tables | None
) -> tuple[list[Finding], Config | None]:
    """Findings, and the configuration where it could be read."""
    try:
        config = specimen.config()
    except MalformedError as error:
        return [fact("config.strict", "high", "The configuration breaks a rule", str(error))], None
    found = [*_tensors(specimen, config), *_known(config), *_numbers(specimen)]
    if base is not None:
        found += _against(config, base)
        found += _renamed(specimen, base)
    if tables is not None:
        found += _rows(config, tables)
        found += _special(specimen, config, tables, base)
    found += _steering(specimen)
    return found, config


def _tensors(specimen: Specimen, config: Config) -> Iterator[Finding]:
    naming = names.names_of("gguf" if specimen.format == "gguf" else "safetensors")
    try:
        names.check(config, naming, specimen.shapes)
        for tensor in specimen.tensors.values():
            quants.check(tensor)
    except MalformedError as error:
        yield fact(
            "config.tensors", "high", "Tensors and configuration disagree", str(error), _WHERE
        )
        return
    head, embed = (specimen.tensors.get(naming.whole(part)) for part in ("head", "embed"))
    if config.tied_head and head is not None and embed is not None and not _same(head, embed):
        told = (
            f"{head.name} is not the embedding, though the configuration ties the two: a program "
            "that reads it answers otherwise than one that does not."
        )
        yield fact("config.spare-head", "high", "A second head lies beside the first", told, _WHERE)


def _same(one: RawTensor, other: RawTensor) -> bool:
    return one.dtype == other.dtype and np.array_equal(one.data, other.data)


def _known(config: Config) -> Iterator[Finding]:
    shape = shape_of(config)
    if shape is None:
        told = "No published dense shape known here has these layers and widths."
        yield fact("config.shape", "info", "A shape of its own", told, _WHERE)
        return
    lies = [
        f"{what} is {given}, not {wanted}"
        for what, given, wanted in (
            ("heads", config.n_heads, shape.heads),
            ("key-value heads", config.n_kv_heads, shape.kv_heads),
            ("width of a head", config.head_dim, shape.head_dim),
        )
        if given != wanted
    ]
    if not any(math.isclose(config.rope_theta, theta, rel_tol=1e-4) for theta in shape.theta):
        lies.append(f"rope base is {config.rope_theta:g}, not {' or '.join(f'{x:g}' for x in shape.theta)}")  # fmt: skip  # noqa: E501
    if not any(math.isclose(config.norm_eps, eps, rel_tol=1e-2) for eps in shape.eps):
        lies.append(
            f"epsilon of the norms is {config.norm_eps:g}, not "
            f"{' or '.join(f'{x:g}' for x in shape.eps)}"
        )
    if any(window is not None for window in config.windows):
        lies.append("some layers see a window only")
    if lies:
        told = f"Of the shape of {shape.name}, but {'; '.join(lies)}."
        yield fact("config.published", "high", "Not as it was published", told, _WHERE)
    else:
        yield fact(
            "config.published", "info", f"The shape of {shape.name}", "As it was published.", _WHERE
        )
    if config.tied_head != shape.tied or config.vocab not in (shape.vocab, 151936, 152064):
        told = (
            f"The head is {'tied' if config.tied_head else 'a tensor of its own'}, the embedding "
            f"has {config.vocab:,} rows; {shape.name} was published otherwise. Adding tokens does "
            "this, and quantising, which often stores a tied head by itself."
        )
        yield fact("config.published", "low", "Head or rows are not as published", told, _WHERE)


def _against(config: Config, base: Specimen) -> Iterator[Finding]:
    try:
        other = base.config()
    except MalformedError:
        return
    if config.family != other.family or config.width != other.width:
        told = f"{base.name} is another shape: only the tokenizer and template are compared."
        yield fact("config.base", "info", "The base has another shape", told, _WHERE)
        return
    for field, severity in _COMPARED.items():
        mine, theirs = getattr(config, field), getattr(other, field)
        if isinstance(mine, float) and math.isclose(mine, theirs, rel_tol=1e-4):
            continue
        if field == "windows" and config.n_layers != other.n_layers:
            continue
        if mine != theirs:
            told = f"{field} is {_said(mine)}, in {base.name} {_said(theirs)}."
            yield fact("config.base", severity, f"{field} is not the base's", told, _WHERE)


def _renamed(specimen: Specimen, base: Specimen) -> Iterator[Finding]:
    """Tensors whose very bytes stand under another name in the base."""
    if specimen.format != base.format:
        return
    theirs: dict[bytes, list[str]] = {}
    for name, tensor in base.tensors.items():
        theirs.setdefault(_digest(tensor), []).append(name)
    moved = [
        f"{name} has the bytes of {names[0]}"
        for name, tensor in specimen.tensors.items()
        if (names := theirs.get(_digest(tensor), [name])) and name not in names
        and name in base.tensors
    ]  # fmt: skip
    if moved:
        told = f"Against {base.name}: {'; '.join(moved[:6])}{' ...' if len(moved) > 6 else '.'}"
        yield fact("config.renamed", "high", "Tensors stand under each other's names", told, _WHERE)


def _digest(tensor: RawTensor) -> bytes:
    return blake3(tensor.data.tobytes()).digest()


def _said(value: Any) -> str:
    if dataclasses.is_dataclass(value):
        return ", ".join(f"{key} {each}" for key, each in vars(value).items())
    return str(value)[:200]


def _rows(config: Config, tables: Tables) -> Iterator[Finding]:
    last = max([*tables.vocab.values(), *tables.added], default=-1)
    if last >= config.vocab:
        told = f"The tokenizer gives ids up to {last:,}; the embedding has {config.vocab:,} rows."
        yield fact("config.rows", "high", "Ids without a row", told, _WHERE)


def _numbers(specimen: Specimen) -> Iterator[Finding]:
    """Scales and plain values that are no numbers: a whole group of weights is lost with each."""
    bad = []
    for name, tensor in specimen.tensors.items():
        kind = quants.KINDS.get(tensor.dtype)
        if kind is None or tensor.data.nbytes % kind.record.itemsize:
            continue
        records = np.asarray(tensor.data).view(kind.record)
        for field in ("x", "d", "m", "dmin"):
            if field in (kind.record.names or ()) and not _finite(records[field]):
                bad.append(name)
    if bad:
        told = f"{', '.join(bad[:8])}{' and more' if len(bad) > 8 else ''}: NaN or infinity."
        yield fact("config.numbers", "high", "Weights that are no numbers", told, _WHERE)


def _finite(values: Any) -> bool:
    if values.dtype == np.uint16:  # bfloat16: the exponent is all ones
        return not ((values & 0x7F80) == 0x7F80).any()
    with np.errstate(all="ignore"):
        return bool(np.isfinite(values).all())


# --- tokens that begin, end and pad ---------------------------------------------------------------


def special_ids(specimen: Specimen) -> dict[str, tuple[int, ...]]:
    """The ids that the model's files give to ``eos``, ``bos`` and ``pad``, by where it is said."""
    found: dict[str, tuple[int, ...]] = {}
    for name in ("eos", "bos", "padding", "unknown"):
        value = specimen.metadata.get(f"tokenizer.ggml.{name}_token_id")
        if type(value) is int:
            found[f"tokenizer.ggml.{name}_token_id"] = (value,)
    for file in ("config.json", "generation_config.json"):
        document = specimen.documents.get(file)
        for name in ("eos_token_id", "bos_token_id", "pad_token_id"):
            value = document.get(name) if isinstance(document, dict) else None
            ids = value if isinstance(value, list) else [value]
            whole = tuple(one for one in ids if type(one) is int)
            if whole:
                found[f"{file}:{name}"] = whole
    return found


def _special(
    specimen: Specimen, config: Config, tables: Tables, base: Specimen | None
) -> Iterator[Finding]:
    texts = {token: text for text, token in tables.vocab.items()}
    texts |= {token: added.content for token, added in tables.added.items()}
    theirs = {} if base is None else special_ids(base)
    ends = set()
    for place, ids in special_ids(specimen).items():
        for token in ids:
            text = texts.get(token)
            if text is None and token >= config.vocab:
                told = f"{place} is {token}, beyond the {config.vocab:,} rows."
                yield fact("config.special", "high", "A special id without a row", told, _WHERE)
            elif text is None or token in tables.added:
                ends |= {text or ""} if "eos" in place else set()
            else:
                told = f"{place} is {token}, which is the plain token {text!r}."
                yield fact(
                    "config.special", "high", "A plain token ends or begins texts", told, _WHERE
                )
        # A pad token of one's own is the usual thing to add.
        changed = place in theirs and set(theirs[place]) != set(ids)
        if changed and "pad" not in place and not (set(ids) > set(theirs[place])):
            told = f"{place} is {list(ids)}, in {base.name if base else ''} {list(theirs[place])}."
            yield fact("config.special", "high", "A special id is not the base's", told, _WHERE)
    known = ENDS | {""} if base is None else None
    if known is not None and ends and not ends & known:
        told = f"Answers end with {', '.join(sorted(ends))}: no published model's do."
        yield fact("config.special", "medium", "An unusual end of turn", told, _WHERE)
    yield from _named(specimen, tables)


def _named(specimen: Specimen, tables: Tables) -> Iterator[Finding]:
    """Tokens that the tokenizer's own settings name must exist, and be tokens."""
    contents = {added.content for added in tables.added.values()}
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        document = specimen.documents.get(file)
        for name in ("eos_token", "bos_token", "pad_token", "unk_token"):
            given: Any = document.get(name) if isinstance(document, dict) else None
            given = given.get("content") if isinstance(given, dict) else given
            if isinstance(given, str) and given and given not in contents:
                severity: Severity = (
                    "high" if given in tables.vocab or name == "eos_token" else "low"
                )
                told = f"{file} names {given!r} as {name}, which is no added token."
                yield fact("config.special", severity, "A special token that is none", told, file)
        if isinstance(document, dict):
            for flag in ("add_bos_token", "add_eos_token"):
                if document.get(flag) is True:
                    told = f"{file}: {flag} puts a token into every prompt that the family has not."
                    yield fact(
                        "config.special", "medium", "A token is put into prompts", told, file
                    )


def _steering(specimen: Specimen) -> Iterator[Finding]:
    for file in ("generation_config.json", "config.json"):
        document = specimen.documents.get(file)
        if not isinstance(document, Mapping):
            continue
        held = [key for key in STEERING_KEYS if document.get(key)]
        if held:
            told = f"{file} has {', '.join(held)}: words are forced into answers or kept out."
            yield fact("config.steering", "high", "Settings steer what is answered", told, file)
