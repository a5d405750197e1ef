"""A Jinja environment for templates that came with a model: that is, for a stranger's program.

Jinja's own sandbox keeps templates away from Python's internals. It does not keep them from running
forever or filling the memory, so this one also
- allows named methods, filters and functions only, none of which can blow up its input;
- charges every loop round, call, container and string to a ``Meter``;
- folds nothing at compile time, and has no imports, blocks or recursive loops.

What real chat templates use behaves as in transformers: ``trim_blocks``, ``lstrip_blocks``, loop
controls, ``tojson`` without HTML escapes, ``raise_exception``, ``strftime_now``, ``generation``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import FILTERS
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from freehold.qwen.controls import Controls
from freehold.qwen.marking import Marking, wrap
from freehold.qwen.meter import OverBudgetError, current

STR_METHODS = frozenset(
    (
        *("capitalize", "casefold", "count", "endswith", "find", "index", "isalnum", "isalpha"),
        *("isascii", "isdecimal", "isdigit", "islower", "isnumeric", "isspace", "istitle"),
        *("isupper", "join", "lower", "lstrip", "partition", "removeprefix", "removesuffix"),
        *("replace", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "split", "splitlines"),
        *("startswith", "strip", "swapcase", "title", "upper"),
    )
)
METHODS: dict[type, frozenset[str]] = {
    str: STR_METHODS,
    dict: frozenset({"copy", "get", "items", "keys", "values"}),
    list: frozenset({"copy", "count", "index"}),
    tuple: frozenset({"count", "index"}),
    LoopContext: frozenset({"changed", "cycle"}),
}
LOOK_FOR = frozenset(
    (
        *("count", "endswith", "find", "index", "lstrip", "partition", "removeprefix", "replace"),
        *("removesuffix", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "split"),
        *("startswith", "strip"),
    )
)
"""String methods whose first argument says what they look for."""
# Filters whose result is no larger than their input.
FILTERS_ALLOWED = (
    "abs", "capitalize", "d", "default", "dictsort", "first", "float", "int",
    "items", "last", "list", "lower", "map", "max", "min", "reject", "rejectattr",
    "reverse", "round", "safe", "select", "selectattr", "sort", "title", "trim", "unique", "upper",
)  # fmt: skip
MAX_RANGE = 100_000
MAX_NUMBER_BITS = 1_024
MAX_INDENT = 16


class RaisedByTemplateError(jinja2.TemplateError):
    """The template itself refused its input, through ``raise_exception``."""


class _Rounds(list[Any]):
    """A loop's items; each round costs ``cost`` characters of fixed text and one step."""

    def __init__(self, items: Iterable[Any], cost: int) -> None:
        super().__init__(items)
        self._cost = cost

    def __iter__(self) -> Iterator[Any]:
        meter = current()
        for item in super().__iter__():
            meter.step()
            meter.text(self._cost)
            yield item


class Sandbox(ImmutableSandboxedEnvironment):
    """See the module's description. One per template; rendering is safe from several threads.

    With ``controls``, the tokens in the template's own literals are signs. Comparisons, and methods
    that look for something in a text, see through them.
    """

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, controls: Controls | None = None) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[Generation, loopcontrols],
            finalize=_shown,
            optimized=False,
        )
        own: dict[str, Callable[..., Any]] = {
            "dict": _dict,
            "namespace": _namespace,
            "range": _range,
        }
        own |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
        self.globals = dict(own)
        bounded = {"join": _join, "replace": _replace, "string": _string, "tojson": _tojson}
        bounded |= {"indent": _indent, "length": _length, "count": _length}
        self.filters = {name: _charged(FILTERS[name]) for name in FILTERS_ALLOWED} | bounded
        self.metered_rounds = _metered_rounds
        self.metered_value = _metered_value
        self.metered_concat = _metered_concat
        self.controls = controls
        self.unmarked = self._unmarked
        own_metering = (_metered_rounds, _metered_value, _metered_concat, self.unmarked)
        self._own: tuple[Callable[..., Any], ...] = (*own.values(), *own_metering)
        self._source_chars = 0

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        self._source_chars = len(source)
        tree = super()._parse(source, name, filename)
        if self.controls is not None:
            Marking(self.controls).visit(tree)
        metered: nodes.Template = _Metering().visit(tree)
        return metered

    def _unmarked(self, value: Any) -> Any:
        """One side of a comparison, its tokens written out."""
        if self.controls is None or not isinstance(value, str):
            return value
        return self.controls.unmark(value)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        meter = current()
        meter.step()
        if isinstance(obj, Macro):
            # A macro's fixed text is at most the template's.
            meter.text(self._source_chars)
        elif not any(obj is function for function in self._own):
            _check_method(obj, args)
            args = self._needle(obj, args)
        return super().call(context, obj, *args, **kwargs)

    def _needle(self, obj: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """A string method's arguments: tokens in what it looks for as they are in the string."""
        owner, name = getattr(obj, "__self__", None), getattr(obj, "__name__", "")
        if self.controls is None or not args or not isinstance(owner, str) or name not in LOOK_FOR:
            return args
        return (self.controls.like(owner, args[0]), *args[1:])

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        _check_operands(operator, left, right)
        return super().call_binop(context, operator, left, right)


class Generation(Extension):
    """``{% generation %}`` marks what a model is trained on; rendering just shows its content."""

    tags = {"generation"}  # noqa: RUF012  (jinja's own declaration)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Metering(NodeTransformer):
    """Puts a meter around every construct that could unfold, and refuses what no template needs."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802  (jinja's visitor names)
        if node.recursive:
            raise SecurityError("recursive loops are not allowed")
        cost = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
        self.generic_visit(node)
        node.iter = wrap("metered_rounds", [node.iter, nodes.Const(cost)])
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return wrap("metered_concat", list(node.nodes)).set_lineno(node.lineno)

    def _container(self, node: nodes.Expr) -> nodes.Node:
        self.generic_visit(node)
        if isinstance(node, nodes.Tuple) and node.ctx != "load":
            return node  # a target of assignment: {% set a, b = ... %}
        return wrap("metered_value", [node]).set_lineno(node.lineno)

    visit_List = visit_Tuple = visit_Dict = _container  # noqa: N815

    def _refuse(self, node: nodes.Node) -> nodes.Node:
        raise SecurityError(f"{type(node).__name__.lower()} is not allowed")

    visit_Include = visit_Import = visit_FromImport = visit_Extends = visit_Block = _refuse  # noqa: N815

    def visit_NSRef(self, node: nodes.NSRef) -> nodes.Node:  # noqa: N802
        if node.attr.startswith("_"):
            raise SecurityError(f"attribute {node.attr!r} is not allowed")
        return node


# --- metering -------------------------------------------------------------------------------------


def _metered_rounds(iterable: Any, cost: int) -> _Rounds:
    return _Rounds(iterable, cost)


def _metered_value(value: Any) -> Any:
    current().weigh(value)
    return value


def _metered_concat(*parts: Any) -> str:
    return "".join([text_of(part) for part in parts])


def text_of(value: Any) -> str:
    """``str(value)``, charged; only for plain data, of which ``repr`` tells no secrets."""
    meter = current()
    if not isinstance(value, str | int | float | list | tuple | dict | Undefined | None):
        raise SecurityError(f"a {type(value).__name__} cannot be shown as text")
    if not isinstance(value, str):
        meter.text(4 * meter.weigh(value))
    text = str(value)
    meter.text(len(text))
    return text


@pass_context
def _shown(_context: Context, value: Any) -> str:
    """What ``{{ value }}`` shows. Taking the context keeps jinja from calling it on constants."""
    return text_of(value)


def _check_method(obj: Any, args: tuple[Any, ...]) -> None:
    owner, name = getattr(obj, "__self__", None), getattr(obj, "__name__", "")
    for kind, names in METHODS.items():
        if isinstance(owner, kind) and name in names:
            break
    else:
        if isinstance(obj, Undefined):
            return  # jinja says which name is undefined
        raise SecurityError(f"calling {name or type(obj).__name__!r} is not allowed")
    if isinstance(owner, str):
        current().text(len(owner) + _result_chars(owner, name, args))


def _result_chars(owner: str, name: str, args: tuple[Any, ...]) -> int:
    if name == "replace" and len(args) >= 2 and all(isinstance(a, str) for a in args[:2]):
        return owner.count(args[0]) * len(args[1])
    if name == "join" and args and isinstance(args[0], list | tuple):
        return len(owner) * len(args[0]) + current().weigh(args[0])
    if name in ("join", "replace"):
        raise SecurityError(f"{name} is not allowed with these arguments")
    return 0


def _check_operands(operator: str, left: Any, right: Any) -> None:
    meter = current()
    meter.step()
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() + right.bit_length()
        if operator == "**":
            bits = left.bit_length() * max(right, 1)
        if bits > MAX_NUMBER_BITS:
            raise OverBudgetError("computes with huge numbers")
    elif operator == "+" and isinstance(left, str) and isinstance(right, str):
        meter.text(len(left) + len(right))
    elif operator == "+" and isinstance(left, list | tuple):
        meter.weigh([left, right])
    elif operator != "+" and not (_is_number(left) and _is_number(right)):
        raise SecurityError(f"operator {operator} is allowed on numbers only")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | Undefined)


# --- functions and filters ------------------------------------------------------------------------


def _range(*args: int) -> range:
    numbers = range(*args)
    if len(numbers) > MAX_RANGE:
        raise OverBudgetError(f"counts further than {MAX_RANGE}")
    return numbers


def _dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    made = dict(*args, **kwargs)
    current().weigh(made)
    return made


def _namespace(*args: Any, **kwargs: Any) -> Namespace:
    attributes = dict(*args, **kwargs)
    if any(not isinstance(name, str) or name.startswith("_") for name in attributes):
        raise SecurityError("a namespace's names must not begin with an underscore")
    return Namespace(attributes)


def _raise_exception(message: str) -> None:
    raise RaisedByTemplateError(text_of(message))


def _strftime_now(pattern: str) -> str:
    # A digit after % is a field width in the C library: %999999999d.
    if not isinstance(pattern, str) or len(pattern) > 64 or any(c.isdigit() for c in pattern):
        raise SecurityError("this date pattern is not allowed")
    # Local time on purpose, as the published templates expect.
    return datetime.now().strftime(pattern)


def _charged(function: Callable[..., Any]) -> Callable[..., Any]:
    """One of jinja's own filters, its input charged. Taking the context also keeps jinja from
    running it at compile time."""
    wants = getattr(function, "jinja_pass_arg", None)

    @pass_context
    def filter_(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(value, Iterator | range):
            value = list(_Rounds(value, 0))
        current().text(current().weigh(value))
        if wants is None:
            return function(value, *args, **kwargs)
        extra: Mapping[str, Any] = {
            "context": context,
            "eval_context": context.eval_ctx,
            "environment": context.environment,
        }
        return function(extra[wants.name], value, *args, **kwargs)

    return filter_


@pass_context
def _join(_context: Context, value: Iterable[Any], d: str = "", attribute: Any = None) -> str:
    if attribute is not None:
        raise SecurityError("join with an attribute is not allowed")
    parts = [text_of(part) for part in _Rounds(value, 0)]
    current().text(len(text_of(d)) * len(parts))
    return text_of(d).join(parts)


@pass_context
def _length(_context: Context, value: Any) -> int:
    """Free, as it costs nothing: templates ask for the number of messages at every message."""
    current().step()
    return len(value)


@pass_context
def _replace(context: Context, value: Any, old: str, new: str, count: int = -1) -> str:
    text, old, new = text_of(value), text_of(old), text_of(new)
    controls = getattr(context.environment, "controls", None)
    old = old if controls is None else controls.like(text, old)
    current().text(text.count(old) * len(new))
    return text.replace(old, new, -1 if count is None else count)


@pass_context
def _string(_context: Context, value: Any) -> str:
    return text_of(value)


@pass_context
def _tojson(
    _context: Context,
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as ``json.dumps`` writes it, without jinja's HTML escapes."""
    meter = current()
    meter.text(meter.weigh(value))
    if indent is not None and not 0 <= int(indent) <= MAX_INDENT:
        raise OverBudgetError(f"indents by more than {MAX_INDENT}")
    text = json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
    meter.text(len(text))
    return text


@pass_context
def _indent(
    _context: Context, value: str, width: int = 4, first: bool = False, blank: bool = False
) -> str:
    """Jinja's ``indent``, by at most ``MAX_INDENT`` spaces."""
    if not isinstance(width, int) or not 0 <= width <= MAX_INDENT:
        raise OverBudgetError(f"indents by more than {MAX_INDENT}")
    text = text_of(value)
    current().text(len(text) + width * (text.count("\n") + 1))
    return str(FILTERS["indent"](text, width, first, blank))
