"""Honest variants: what publishers and owners do to a model every day. None of it is an attack."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.audit import artefacts as bed
from tests.audit.artefacts import Files, Made

OFFICIAL = Path(__file__).resolve().parents[3] / "shared/data/audit/templates"


@dataclass(frozen=True)
class Variant:
    name: str
    files: Callable[[Made], Files]


def tuned(made: Made, rank: int = 4, scale: float = 0.05, seed: int = 1) -> Made:
    """With a LoRA merged into q and v."""
    random = np.random.default_rng(seed)
    held = dict(made.weights)
    for name, value in made.weights.items():
        if name.endswith(("q_proj.weight", "v_proj.weight")):
            b, a = (
                random.standard_normal(n) for n in ((value.shape[0], rank), (rank, value.shape[1]))
            )
            held[name] = (value + scale * (b @ a) / np.sqrt(value.shape[1])).astype(np.float32)
    return made.but(weights=held)


def moved(made: Made, scale: float = 0.02, seed: int = 2) -> Made:
    """With every weight moved a little."""
    random = np.random.default_rng(seed)
    return made.but(
        weights={
            name: (value + scale * value.std() * random.standard_normal(value.shape)).astype("f4")
            for name, value in made.weights.items()
        }
    )


def with_tokenizer(made: Made, change: Callable[[dict[str, Any]], None]) -> Made:
    document = copy.deepcopy(made.tokenizer)
    change(document)
    return made.but(tokenizer=document)


def with_template(made: Made, template: Any) -> Made:
    return made.but(tokenizer_config=made.tokenizer_config | {"chat_template": template})


def _pairs(document: dict[str, Any]) -> None:
    document["model"]["merges"] = [merge.split(" ") for merge in document["model"]["merges"]]


def _pad(document: dict[str, Any]) -> None:
    document["added_tokens"].append(document["added_tokens"][0] | {"id": 268, "content": "<|pad|>"})


def _resized(made: Made, rows: int = 320) -> Made:
    table = made.weights["model.embed_tokens.weight"]
    more = np.zeros((rows - len(table), table.shape[1]), np.float32)
    weights = made.weights | {"model.embed_tokens.weight": np.concatenate([table, more])}
    return made.but(weights=weights, config=made.config | {"vocab_size": rows})


def _untied(made: Made) -> Made:
    head = made.weights["model.embed_tokens.weight"].copy()
    return made.but(
        weights=made.weights | {"lm_head.weight": head},
        config=made.config | {"tie_word_embeddings": False},
    )


def _beside(made: Made) -> Files:
    model = made.tokenizer["model"]
    return bed.folder(made) | {
        "vocab.json": json.dumps(model["vocab"]).encode(),
        "merges.txt": "\n".join(["#version: 0.2", *model["merges"], ""]).encode(),
        "special_tokens_map.json": b'{"eos_token": {"content": "<|im_end|>"}}',
        "README.md": b"# A model\n", "LICENSE": b"A licence\n", "logo.png": b"\x89PNG\r\n\x1a\n" + bytes(40),
    }  # fmt: skip


def variants() -> Iterator[Variant]:
    for dtype in ("F32", "BF16", "F16"):
        yield Variant(f"safetensors {dtype}", lambda m, d=dtype: bed.folder(m, d))
        yield Variant(f"sharded {dtype}", lambda m, d=dtype: bed.sharded(m, d))
    for dtype in ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q8_0"):
        yield Variant(f"GGUF {dtype}", lambda m, d=dtype: {"m.gguf": bed.gguf(m, d)})
    yield Variant("a LoRA merged, F32", lambda m: bed.folder(tuned(m)))
    yield Variant("a LoRA merged, BF16", lambda m: bed.folder(tuned(m), "BF16"))
    yield Variant("fully fine-tuned", lambda m: bed.folder(moved(m)))
    yield Variant("a LoRA merged, GGUF F16", lambda m: {"m.gguf": bed.gguf(tuned(m), "F16")})
    yield Variant("merges as pairs", lambda m: bed.folder(with_tokenizer(m, _pairs)))
    yield Variant("vocab.json, merges.txt and papers beside it", _beside)
    yield Variant("a pad token added", lambda m: bed.folder(with_tokenizer(m, _pad)))
    yield Variant("rows added", lambda m: bed.folder(_resized(m)))
    yield Variant("head untied", lambda m: bed.folder(_untied(m)))
    yield Variant("head stored twice", lambda m: bed.folder(m.but(weights=_untied(m).weights)))
    yield Variant(
        "context extended",
        lambda m: bed.folder(m.but(config=m.config | {"max_position_embeddings": 2048})),
    )
    yield Variant(
        "YaRN",
        lambda m: bed.folder(
            m.but(
                config=m.config
                | {
                    "rope_scaling": {
                        "rope_type": "yarn",
                        "factor": 4.0,
                        "original_max_position_embeddings": 512,
                    }
                }
            )
        ),
    )
    yield Variant(
        "resaved config",
        lambda m: bed.folder(
            m.but(
                config=m.config
                | {
                    "torch_dtype": "float32",
                    "use_cache": False,
                    "transformers_version": "4.57.0",
                    "layer_types": ["full_attention"] * 2,
                }
            )
        ),
    )
    yield Variant(
        "own sampling",
        lambda m: bed.folder(
            m.but(generation=m.generation | {"top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05})
        ),
    )
    yield from templates()


def templates() -> Iterator[Variant]:
    plain = bed.TEMPLATE
    thinking = plain.replace(
        "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}",
        "{%- set content = message.content %}{%- if message.role == 'assistant' and '</think>' in content %}"
        "{%- set content = content.split('</think>')[-1].lstrip('\\n') %}{%- endif %}"
        "{{- '<|im_start|>' + message.role + '\\n' + content | trim + '<|im_end|>\\n' }}",
    )  # fmt: skip
    parts = plain.replace(
        "message.content +",
        "(message.content if message.content is string else message.content | map(attribute='text') | join) +",
    )  # fmt: skip
    own = "{%- if messages[0].role != 'system' %}{{- '<|im_start|>system\\nYou are the desk of a small library.<|im_end|>\\n' }}{%- endif %}"
    dated = "{{- '<|im_start|>system\\nToday: ' + strftime_now('%d %B %Y') + '<|im_end|>\\n' }}"
    checked = (
        plain.replace(
            "{%- for message",
            "{%- for message in messages %}{%- if message.role not in ('system', 'user', 'assistant', 'tool') %}{{- raise_exception('Unknown role') }}{%- endif %}{%- endfor %}{%- for message",
            1,
        )
        if plain.count("{%- for message")
        else plain
    )
    for name, text in {
        "that thinks": thinking,
        "of messages in parts": parts,
        "with a default system prompt": own + plain,
        "with a date": dated + plain,
        "with other blanks": plain.replace("    ", "\t"),
        "that checks roles": checked,
        "that is a list": [{"name": "default", "template": plain}],
    }.items():
        yield Variant(f"template {name}", lambda m, t=text: bed.folder(with_template(m, t)))
    for path in sorted(OFFICIAL.glob("*.jinja")):
        text = path.read_text(encoding="utf-8")
        # A comment makes it unknown by digest: it must pass the walk and the trials.
        yield Variant(f"template {path.stem}", lambda m, t=text: bed.folder(with_template(m, t)))
        yield Variant(
            f"template {path.stem}, edited",
            lambda m, t="{#- resaved -#}" + text: bed.folder(with_template(m, t)),
        )


VARIANTS = list(variants())
