"""Chat templates: from messages and tools to the text the model was trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from freehold.errors import FreeholdError, MalformedError, RefusedError, UsageError
from freehold.qwen.controls import Controls
from freehold.qwen.documents import Reader, parse_json
from freehold.types import Message, VerifiedModel

if TYPE_CHECKING:
    import jinja2

MAX_TEMPLATE_CHARS = 1 << 18
MAX_DEPTH = 24
FILE = "chat template"

# What a template's own expressions raise when the messages are not shaped as it expects.
SHAPE_ERRORS = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError)


SPEAKERS = ("assistant", "system", "developer")
"""Whose words may hold a model's own marks: its own, and the operator's who tells it of them."""
SPOKEN = ("content", "reasoning_content")


class ChatTemplate:
    """One compiled template. ``special`` are the token names it may use (``bos_token``, ...),
    ``controls`` the tokens that its own text, and nothing else, can bring into a prompt.

    Raises ``MalformedError`` where the source is no template, ``RefusedError`` where it reaches
    for what templates must not touch.
    """

    def __init__(
        self,
        source: str,
        *,
        special: Mapping[str, str] | None = None,
        controls: Controls | None = None,
    ) -> None:
        if len(source) > MAX_TEMPLATE_CHARS:
            raise MalformedError(
                f"the chat template is longer than {MAX_TEMPLATE_CHARS} characters", file=FILE
            )
        self._controls = Controls({}) if controls is None else controls
        self._special = {n: self._controls.mark(text) for n, text in (special or {}).items()}
        self._template = _compile(source, self._controls)

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        options: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt's text, ending where the model is to answer.

        ``options`` reach the template by name (``enable_thinking``, ...). Raises ``UsageError``
        naming ``messages``, ``tools`` or the option; ``MalformedError`` or ``RefusedError`` where
        the template misbehaves.
        """
        return self._controls.text(self._rendered(messages, tools, options))

    def parts(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        options: Mapping[str, Any] | None = None,
    ) -> list[str | int]:
        """The same text, cut at the template's own control tokens: plain texts and ids in turn, the
        first and the last a text. Raises as ``render`` does."""
        return self._controls.parts(self._rendered(messages, tools, options))

    def _rendered(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        options: Mapping[str, Any] | None,
    ) -> str:
        escape, variables = self._controls.escape, dict[str, Any](add_generation_prompt=True)
        variables |= self._special
        for name, value in (options or {}).items():
            if name in ("messages", "tools"):
                raise UsageError(f"{name} cannot be given as a template option", param=name)
            variables[name] = plain(value, param=name, change=escape)
        told = [plain(message, param="messages", change=escape) for message in messages]
        variables["messages"] = [self._own_marks(message) for message in told]
        described = [plain(tool, param="tools", change=escape) for tool in tools]
        variables["tools"] = described or None
        return _render(self._template, variables)

    def _own_marks(self, message: Any) -> Any:
        if not isinstance(message, dict) or message.get("role") not in SPEAKERS:
            return message
        spoken = {key: message[key] for key in SPOKEN if isinstance(message.get(key), str)}
        return message | {key: self._controls.mark_own(text) for key, text in spoken.items()}


def template_of(model: VerifiedModel, controls: Controls | None = None) -> ChatTemplate | None:
    """The model's own template, or ``None`` for a base model without one."""
    source, settings = source_of(model), _tokenizer_config(model)
    special = _special_tokens(settings) if settings else {}
    return None if source is None else ChatTemplate(source, special=special, controls=controls)


def source_of(model: VerifiedModel) -> str | None:
    """The template's own text, as it is run; ``None`` for a base model without one.

    Looked for in the GGUF key-values, ``chat_template.jinja`` and ``tokenizer_config.json``.
    """
    source = model.metadata.get("tokenizer.chat_template")
    settings = _tokenizer_config(model)
    if settings is not None and source is None:
        source = _named_default(settings)
    if "chat_template.jinja" in model.documents:
        source = _utf8(model.documents["chat_template.jinja"])
    if source is None or isinstance(source, str):
        return source
    raise MalformedError("the chat template is not text", file=FILE)


def digest_of(model: VerifiedModel) -> str:
    """``sha256:`` and the SHA-256 of the template's UTF-8 bytes; empty where there is none."""
    source = source_of(model)
    return "" if source is None else f"sha256:{hashlib.sha256(source.encode()).hexdigest()}"


def _tokenizer_config(model: VerifiedModel) -> Reader | None:
    file = "tokenizer_config.json"
    if file not in model.documents:
        return None
    return Reader(parse_json(model.documents[file], file=file), file=file)


def _named_default(settings: Reader) -> Any:
    """``chat_template`` is a text, or a list of named ones of which ``default`` counts."""
    given = settings.get("chat_template")
    if not isinstance(given, list):
        return given
    for entry in given:
        one = Reader(entry, file=settings.file, within="chat_template")
        if one.string("name") == "default":
            return one.string("template")
    raise settings.error("chat_template", "names no default template")


def _special_tokens(settings: Reader) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
        given = settings.get(name)
        if isinstance(given, Mapping):
            given = given.get("content")
        if given is not None and not isinstance(given, str):
            raise settings.error(name, "must be a token's text")
        if given is not None:
            found[name] = given
    return found


def _utf8(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedError(f"the chat template is not UTF-8: {error}", file=FILE) from error


def _compile(source: str, controls: Controls) -> jinja2.Template:
    import jinja2

    from freehold.qwen.sandbox import Sandbox

    try:
        return Sandbox(controls).from_string(source)
    except jinja2.exceptions.SecurityError as error:
        raise RefusedError(f"the chat template is refused: {error}") from error
    except (jinja2.TemplateError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise MalformedError(f"the chat template does not parse: {error}", file=FILE) from error


def _render(template: jinja2.Template, variables: Mapping[str, Any]) -> str:
    import jinja2

    from freehold.qwen.meter import OverBudgetError, metered
    from freehold.qwen.sandbox import RaisedByTemplateError

    try:
        with metered(_chars(variables)):
            return template.render(variables)
    except RaisedByTemplateError as error:
        raise _about_messages(f"the model's chat template refuses them: {error}") from error
    except jinja2.exceptions.SecurityError as error:
        raise RefusedError(f"the chat template is refused: {error}") from error
    except (OverBudgetError, RecursionError, MemoryError) as error:
        raise MalformedError(f"the chat template {error}: it is not run", file=FILE) from error
    except (jinja2.TemplateError, *SHAPE_ERRORS) as error:
        raise _about_messages(f"the model's chat template cannot render them: {error}") from error


def _about_messages(problem: str) -> FreeholdError:
    return UsageError(f"messages: {problem}", param="messages")


def plain(
    value: Any, *, param: str, change: Callable[[str], str] = str.__str__, depth: int = 0
) -> Any:
    """A copy made of plain JSON types only, so that a template meets no object with powers.
    ``change`` is applied to every string, keys included.

    Raises ``UsageError`` naming ``param`` for other types, broken Unicode and deep nesting.
    """
    if depth > MAX_DEPTH:
        raise UsageError(f"{param} is nested deeper than {MAX_DEPTH}", param=param)
    if isinstance(value, str):
        return change(_valid_text(str.__str__(value), param))
    if value is None or type(value) in (bool, int, float):
        return value

    def inner(one: Any) -> Any:
        return plain(one, param=param, change=change, depth=depth + 1)

    if isinstance(value, Mapping):
        return {inner(k): inner(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [inner(item) for item in value]
    raise UsageError(f"{param} holds a {type(value).__name__}: only JSON is allowed", param=param)


def _valid_text(text: str, param: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UsageError(
            f"{param} holds half a character (a lone surrogate) at position {error.start}",
            param=param,
        ) from error
    return text


def _chars(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(_chars(k) + _chars(v) for k, v in value.items())
    if isinstance(value, list):
        return sum(map(_chars, value)) + len(value)
    return 1
