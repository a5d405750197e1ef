"""The published prompt as a chat template, made of our own text of it: Qwen3Guard's template is
not at hand."""

from __future__ import annotations

import json

from freehold.guard import qwen3guard


def template() -> str:
    """A chat template that renders what ``qwen3guard.prompt`` says."""
    parts = {
        role: (qwen3guard._task(role), qwen3guard._closing(role)) for role in ("user", "assistant")
    }
    begin, end = ({role: both[i] for role, both in parts.items()} for i in (0, 1))
    return (
        f"{{{{- {json.dumps(begin)}[messages[-1].role] -}}}}"
        "{%- for m in messages -%}{%- if not loop.first -%}{{- '\\n\\n' -}}{%- endif -%}"
        "{%- if loop.first or messages[loop.index0 - 1].role != 'system' -%}"
        "{{- 'ASSISTANT: ' if m.role == 'assistant' else 'USER: ' -}}{%- endif -%}"
        "{{- m.content -}}{%- endfor -%}"
        f"{{{{- {json.dumps(end)}[messages[-1].role] -}}}}"
    )
