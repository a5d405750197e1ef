"""Kinds of field, and the strict models that are made of them: nothing is coerced, nothing unknown
passes.

Three kinds, and no fourth: *honoured* (typed), *ignored* because they cannot change an answer here
(``Ignored``), and *refused* because they would and we cannot do it (``refused``). ``null`` means
absent, as it does for OpenAI. Each also says what the OpenAPI document tells of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, TypeAlias, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from freehold.errors import UsageError

MAX_STOPS = 4
MAX_STOP_LENGTH = 1024
MAX_PARTS = 1024
MAX_BIASES = 1024
_ROLES = {"developer": "system"} | {r: r for r in ("system", "user", "assistant", "tool")}

Model = TypeVar("Model", bound="Strict")


def fault(reason: str, at: str = "") -> PydanticCustomError:
    """A refusal in our words; ``at`` is the path below the field being validated."""
    # A literal template: the reason may hold braces that came from the client.
    return PydanticCustomError("freehold", "{reason}", {"reason": reason, "at": at})


# --- kinds of field -------------------------------------------------------------------------------

Schema: TypeAlias = dict[str, Any]


class Checked(BeforeValidator):
    """A check of our own, and what the OpenAPI document ``says`` of its field instead of what the
    types do: given that, it returns the schema."""

    def __init__(self, check: Callable[[object], object], says: Callable[[Schema], Schema]) -> None:
        super().__init__(check)
        object.__setattr__(self, "says", says)

    def __get_pydantic_json_schema__(self, core: Any, handler: GetJsonSchemaHandler) -> Schema:
        said: Schema = vars(self)["says"](handler(core))
        return said


def said(**schema: Any) -> Callable[[Schema], Schema]:
    """Say this, whatever the types do."""
    return lambda _: schema


STRING: Schema = {"type": "string"}
OBJECT: Schema = {"type": "object"}
TEXTS: Schema = {
    "anyOf": [
        STRING,
        {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"type": STRING, "text": STRING},
                "required": ["type", "text"],
            },
        },
    ]
}
"""A text, or its parts."""


def refused(reason: str, *allowed: object) -> Checked:
    """Accept ``allowed`` (the values that change nothing) and refuse the rest."""

    def check(value: object) -> object:
        if not any(type(value) is type(one) and value == one for one in allowed):
            raise fault(reason)
        return value

    return Checked(check, said(enum=[*allowed, None], description=f"It {reason}."))


def at_most(count: int, what: str) -> Checked:
    """Refuse a long list before anything looks at its items."""

    def check(value: object) -> object:
        if isinstance(value, list | dict) and len(value) > count:
            raise fault(f"holds {len(value)} {what}: at most {count} are allowed")
        return value

    def says(schema: Schema) -> Schema:
        return {**schema, "maxItems" if schema.get("type") == "array" else "maxProperties": count}

    return Checked(check, says)


def _stops(value: object) -> object:
    items = [value] if isinstance(value, str) else value
    if isinstance(items, list):
        if len(items) > MAX_STOPS:
            raise fault(f"holds {len(items)} stop strings: at most {MAX_STOPS} are allowed")
        for place, item in enumerate(items):
            if not isinstance(item, str) or not 0 < len(item) <= MAX_STOP_LENGTH:
                raise fault(
                    f"must be a string of 1 to {MAX_STOP_LENGTH} characters", at=f"[{place}]"
                )
    return items


def _biases(value: object) -> object:
    if not isinstance(value, dict):
        return value
    if len(value) > MAX_BIASES:
        raise fault(f"holds {len(value)} tokens: at most {MAX_BIASES} are allowed")
    for key, bias in value.items():
        if not (key.isascii() and key.isdecimal() and len(key) < 10):
            raise fault(f"has the key {short(key)}: keys are token ids such as '151643'")
        if type(bias) not in {int, float} or not -100 <= bias <= 100:
            raise fault(f"for token {key} must be a number between -100 and 100")
    return {int(key): float(bias) for key, bias in value.items()}


LEGACY = "is not supported: use tools"
MAX_TOOLS = 128
EFFORTS = {"minimal": 256, "low": 1024, "medium": 4096, "high": 16_384}
"""Tokens of reasoning for each ``reasoning_effort``; ``none`` asks for no reasoning at all."""
Ignored = Annotated[Any, Field(description="Accepted and ignored: it cannot change an answer.")]
Text = Annotated[str, Field(max_length=512)]
_STOP: Schema = {"type": "string", "minLength": 1, "maxLength": MAX_STOP_LENGTH}
Stops = Annotated[
    list[str],
    Checked(_stops, said(anyOf=[_STOP, {"type": "array", "items": _STOP, "maxItems": MAX_STOPS}])),
]
Biases = Annotated[
    dict[int, float],
    Checked(
        _biases,
        said(
            type="object",
            propertyNames={"pattern": "^[0-9]{1,9}$"},
            additionalProperties={"type": "number", "minimum": -100, "maximum": 100},
            maxProperties=MAX_BIASES,
        ),
    ),
]


def ranged(low: float, high: float) -> Any:
    """A number of this range, which ``types.Sampling`` sees to."""
    return Field(json_schema_extra={"minimum": low, "maximum": high})


Temperature = Annotated[float, ranged(0, 2)]
Share = Annotated[float, ranged(0, 1)]
Penalty = Annotated[float, ranged(-2, 2)]
Count = Annotated[int, Field(ge=1, le=1 << 31)]


# --- base -----------------------------------------------------------------------------------------


class Strict(BaseModel):
    """Exact types, no unknown names, ``null`` read as absent."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True
    )

    known: ClassVar[frozenset[str]] = frozenset()
    """The names that clients may use."""

    @classmethod
    def __pydantic_init_subclass__(cls, **more: Any) -> None:
        super().__pydantic_init_subclass__(**more)
        fields = cls.model_fields.items()
        cls.known = frozenset(field.alias or name for name, field in fields)

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: GetJsonSchemaHandler) -> Schema:
        """``null`` may stand for every field that may be absent."""
        told = handler.resolve_ref_schema(handler(core))
        for name, field in told.get("properties", {}).items():
            free = not {"type", "enum", "anyOf", "$ref", "const"} & field.keys()
            null = {"type": "null"} in field.get("anyOf", ()) or None in field.get("enum", ())
            if name not in told.get("required", ()) and not free and not null:
                kept = {key: field.pop(key) for key in ("default", "title") if key in field}
                told["properties"][name] = {"anyOf": [field, {"type": "null"}], **kept}
        return told

    @model_validator(mode="before")
    @classmethod
    def _known_and_present(cls, data: object) -> object:
        if not isinstance(data, dict):
            return data
        # By hand, and the first only: a body of a million unknown names must not cost a million
        # error records.
        for name in data:
            if name not in cls.known:
                raise fault(f"Unrecognized request argument supplied: {short(name)}", f".{name}")
        return {name: value for name, value in data.items() if value is not None}


def parse(model: type[Model], data: object) -> Model:
    """``data`` as a ``model``. Raises ``UsageError`` naming the first field that is wrong."""
    if not isinstance(data, dict):
        raise UsageError('the body must be a JSON object, such as {"model": "..."}')
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise _first(error.errors(include_url=False, include_input=False)[0]) from None


def _first(detail: ErrorDetails) -> UsageError:
    context: Mapping[str, Any] = detail.get("ctx", {})
    path = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in detail["loc"])
    path = (path + context.get("at", "")).removeprefix(".")
    param = path[:256] or None
    message = detail["msg"]
    if message.startswith("Unrecognized request argument"):
        return UsageError(message, param=param)
    if detail["type"] == "missing":
        return UsageError(f"{param} is required but was not given", param=param)
    if detail["type"] == "freehold":
        return UsageError(f"{param} {message}" if param else message, param=param)
    return UsageError(f"{param} is wrong: {message[0].lower()}{message[1:]}", param=param)


def short(text: str) -> str:
    return text if len(text) <= 64 else text[:61] + "..."
