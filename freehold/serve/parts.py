"""What of a request a guard reads: every text that a model is shown, and whose it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from freehold.types import Codec, Part

Path: TypeAlias = tuple[str | int, ...]


def of_conversation(
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] = (),
    callers: Sequence[str] = (),
) -> tuple[list[Part], list[Path]]:
    """The descriptions of ``tools`` and the parts of ``messages``; of the latter, which come last,
    where each stands. ``callers`` are the tools that messages are results of."""
    # A tool may come from somebody whom the client only met.
    parts = [Part(role="tool", text="\n".join(_descriptions(tool))) for tool in tools]
    paths = []
    for place, message in enumerate(messages):
        for path, text in _texts(message):
            name = callers[place] if callers else ""
            parts.append(Part(role=message["role"], text=text, name=name))
            paths.append((place, *path))
    return parts, paths


def with_texts(
    messages: Sequence[dict[str, Any]], paths: Sequence[Path], texts: Sequence[str]
) -> list[dict[str, Any]]:
    """``messages`` with the last of ``texts`` in these places."""
    changed: list[Any] = list(messages)
    for path, text in zip(paths, texts[len(texts) - len(paths) :], strict=True):
        changed = _put(changed, path, text)
    return changed


def of_prompts(prompt: Any, codec: Codec) -> list[list[Part]]:
    """Of each prompt of ``prompt.py``'s four shapes the one part; what is not of them is refused
    there."""
    single = not isinstance(prompt, list) or (prompt and type(prompt[0]) is int)
    each = [prompt] if single else prompt
    return [[Part(role="user", text=_text(one, codec))] for one in each]


def _text(one: Any, codec: Codec) -> str:
    if isinstance(one, str):
        return one
    ids = [i for i in one if type(i) is int] if isinstance(one, list) else []
    known = (codec.token_bytes(i) for i in ids if 0 <= i < 1 << 31)
    return b"".join(known).decode(errors="replace")


def _texts(message: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    for name in ("reasoning_content", "content"):
        if message.get(name):
            yield (name,), message[name]
    for i, call in enumerate(message.get("tool_calls", ())):
        for path, text in _leaves(call["function"]["arguments"]):
            yield ("tool_calls", i, "function", "arguments", *path), text


def _leaves(value: Any) -> Iterator[tuple[Path, str]]:
    """Every string in plain JSON data, names not among them."""
    if isinstance(value, str):
        yield (), value
    elif isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for at, inner in pairs:
            for path, text in _leaves(inner):
                yield (at, *path), text


def _descriptions(value: Any) -> Iterator[str]:
    for path, text in _leaves(value):
        if path and path[-1] == "description":
            yield text


def _put(value: Any, path: Path, text: str) -> Any:
    """A copy of ``value`` with ``text`` at ``path``; ``value`` itself if it stands there."""
    if not path:
        return value if value == text else text
    at, *rest = path
    before = value[at]
    after = _put(before, tuple(rest), text)
    if after is before:
        return value
    copy = value.copy()
    copy[at] = after
    return copy
