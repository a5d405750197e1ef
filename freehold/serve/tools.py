"""Tools that a model may call: what it is shown of them, and the grammar that holds its calls."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from freehold.errors import UsageError
from freehold.serve.jsonschema import enforceable
from freehold.serve.schema import ChatMessage, ChatRequest, Tool
from freehold.serve.structured import Held, json_rule, limited
from freehold.types import CallForm, Codec, Parameter

ONE_CALL = "</tool_call>"
"""Stops an answer behind its first call."""


def shown(asked: ChatRequest, codec: Codec) -> list[dict[str, Any]]:
    """The tools as the model's template is to show them: none where it may not call any.

    Raises ``UsageError`` naming ``tools`` where the model cannot.
    """
    if not asked.tools or asked.choice.mode == "none":
        return []
    if not codec.calls_tools:
        raise UsageError(
            "tools are not supported by this model: its chat template has no calls in a form that "
            "is known here",
            param="tools",
        )
    return [tool.model_dump(exclude_none=True) for tool in asked.tools]


def callers(messages: Sequence[ChatMessage]) -> list[str]:
    """For each message the name of the tool that it is a result of, empty where that is unknown."""
    names: dict[str, str] = {}
    found = []
    for message in messages:
        found.append(names.get(message.tool_call_id or "", ""))
        names |= {call.id: call.function.name for call in message.tool_calls if call.id}
    return found


def stops(asked: ChatRequest) -> tuple[str, ...]:
    """Stop strings beside the client's own."""
    alone = asked.parallel_tool_calls is False or asked.choice.mode == "named"
    return (ONE_CALL,) if alone and asked.tools and asked.choice.mode != "none" else ()


def held(asked: ChatRequest, codec: Codec, answer: Held | None) -> Held | None:
    """What an answer is held to, calls and all; ``answer`` is what its words are held to.

    A call that must be made is held to its form, and one of a ``strict`` tool to its schema.
    """
    if not asked.tools or asked.choice.mode == "none":
        return answer
    must = asked.choice.mode in ("required", "named")
    strict = any(tool.function.strict for tool in asked.tools)
    if not must and not strict and answer is None:
        return None
    named = [tool for tool in asked.tools if asked.choice.name in (None, tool.function.name)]
    forms = [_form(tool, f"tools[{asked.tools.index(tool)}]") for tool in named]
    many = asked.parallel_tool_calls is not False and asked.choice.mode != "named"
    if must:
        return limited(codec.call_grammar(forms, least=1, many=many), "tool_choice")
    if answer is None:
        return limited(codec.call_grammar(forms, least=0, many=many), "tools")
    calls = codec.call_grammar(forms, least=1, many=many)
    either = [{"lark_grammar": "start: @words | @calls"}]
    parts = [{"name": "words", "lark_grammar": answer.grammar}]
    parts.append({"name": "calls", "lark_grammar": calls})
    return limited(json.dumps({"grammars": [*either, *parts]}), answer.param)


def _form(tool: Tool, at: str) -> CallForm:
    """A tool's form. A schema that cannot be enforced is an error of a strict tool; of any other,
    the arguments are held to be an object, and the rest is left to the model."""
    name, at = tool.function.name, f"{at}.function.parameters"
    try:
        schema = enforceable(tool.function.parameters or {}, at)
        if schema.get("type", "object") != "object":
            raise UsageError(f"{at}.type must be 'object'", param=f"{at}.type")
        return CallForm(
            name=name,
            arguments=json_rule({"type": "object", **schema}),
            parameters=_parameters(schema),
        )
    except UsageError:
        if tool.function.strict:
            raise
        return CallForm(name=name, arguments=json_rule({"type": "object"}), parameters=None)


def _parameters(schema: Mapping[str, Any]) -> tuple[Parameter, ...] | None:
    """A tool's parameters one by one; ``None`` where the schema does not list them."""
    properties = schema.get("properties")
    required = schema.get("required", [])
    if not isinstance(properties, dict) or not isinstance(required, list):
        return None
    shared = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    return tuple(
        Parameter(name=name, required=name in required, rule=_value(one, shared))
        for name, one in properties.items()
        if ">" not in name and "\n" not in name
    )


def _value(schema: object, shared: Mapping[str, Any]) -> str | None:
    """The rule for a value that is written as JSON, or plainly where it is text."""
    if not isinstance(schema, dict) or schema.get("type") != "string":
        told = schema if isinstance(schema, dict) else {}
        return json_rule({**shared, **told})
    options: Sequence[Any] = schema.get("enum", [])
    if options and all(isinstance(one, str) for one in options):
        return "(" + " | ".join(json.dumps(one, ensure_ascii=False) for one in options) + ")"
    return None
