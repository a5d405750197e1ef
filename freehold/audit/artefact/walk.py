"""A walk over a chat template's syntax tree: what decides, what is said, what is reached for.

A template may put marks around messages. It has no business to decide by what a message says, to
give orders of its own, or to reach into Python. The tree is made by Jinja's parser; nothing runs.

What came from a message's content is followed through assignments, loops, filters and macros.
Source of the attack: templates that poison a model without touching its weights, see
``docs/audit.md``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import jinja2
from jinja2 import nodes
from jinja2.ext import loopcontrols

from freehold.audit.artefact.literals import MARKUP
from freehold.qwen.sandbox import Generation

CONTENT = frozenset({"content", "reasoning_content", "text", "reasoning", "prompt"})
CARRIERS = frozenset({"messages", "message", "loop_messages"})
STRUCTURE = frozenset(
    ("image", "image_url", "video", "video_url", "audio", "audio_url", "input_audio", "text",
     "type", "input_text", "output_text", "file", "json", "content")
)  # fmt: skip
"""What the parts of a message may be told apart by."""
TAGS = frozenset(
    ("think", "thinking", "tool_call", "tool_calls", "tool_response", "tool_responses", "tools",
     "function", "parameter", "answer", "reasoning", "scratch_pad", "im_start", "im_end",
     "endoftext", "channel", "message", "start", "end", "image_pad", "video_pad",
     "vision_start", "vision_end", "final", "analysis")
)  # fmt: skip
"""Names inside the marks that published templates look for in what was said."""
LOOKING = frozenset(
    ("startswith", "endswith", "find", "rfind", "index", "rindex", "count", "partition", "split",
     "rpartition", "rsplit", "removeprefix", "removesuffix")
)  # fmt: skip
CUTTING = frozenset({"split", "rsplit", "partition", "rpartition", "strip", "lstrip", "rstrip"})
FORBIDDEN_NAMES = frozenset(
    ("self", "cycler", "joiner", "lipsum", "config", "request", "url_for", "get_flashed_messages",
     "g", "session", "caller", "varargs", "kwargs", "os", "eval", "exec", "open", "import",
     "getattr", "globals", "builtins", "subprocess")
)  # fmt: skip
KINDS = frozenset(
    ("string", "none", "defined", "undefined", "mapping", "iterable", "sequence", "number",
     "boolean", "true", "false", "filter", "test", "callable")
)  # fmt: skip
"""Tests that ask of what kind a value is, not what it says."""
CHANGING = frozenset({"replace", "upper", "reverse", "truncate", "wordwrap", "center", "title"})
MAX_COUNT = 10_000


@dataclass(frozen=True, kw_only=True)
class Sign:
    """Something on a line that calls for a look. ``kind`` is the end of the check's name."""

    kind: str
    line: int
    what: str


@dataclass
class _Known:
    """Names that hold what a message says, its parts, its length, the messages, or the time."""

    content: set[str] = field(default_factory=set)
    parts: set[str] = field(default_factory=set)
    size: set[str] = field(default_factory=set)
    carriers: set[str] = field(default_factory=lambda: set(CARRIERS))
    time: set[str] = field(default_factory=set)

    def total(self) -> int:
        return sum(map(len, (self.content, self.parts, self.size, self.carriers, self.time)))


def tree_of(source: str) -> nodes.Template:
    """Raises ``jinja2.TemplateSyntaxError`` and what Python's parser raises for absurd depth."""
    environment = jinja2.Environment(  # noqa: S701 - parsed only, never rendered
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    return environment.parse(source)


def signs(tree: nodes.Template) -> list[Sign]:
    """Everything in the tree that calls for a look, in order of lines."""
    known = _Known()
    macros = {macro.name: macro for macro in tree.find_all(nodes.Macro)}
    while True:  # names become known through others: until no more do
        before = known.total()
        _learn(tree, known, macros)
        if known.total() == before:
            break
    found = [*_reaches(tree), *_decides(tree, known), *_changes(tree, known)]
    return sorted(dict.fromkeys(found), key=lambda sign: (sign.line, sign.kind))


def literals(tree: nodes.Template) -> Iterator[tuple[int, str, bool]]:
    """(line, text, assembled) of every text that stands in the template. ``assembled`` ones were
    written in pieces, backwards or replaced, and are given whole."""
    for node in tree.find_all(nodes.Expr):
        if isinstance(node, nodes.Const):
            if isinstance(node.value, str):
                yield node.lineno, node.value, False
            continue
        text = _fold(node)
        if text is not None and len(text) >= 4:
            yield node.lineno, text, True
    for data in tree.find_all(nodes.TemplateData):
        yield data.lineno, data.data, False


# --- what comes from a message --------------------------------------------------------------------


def _learn(tree: nodes.Template, known: _Known, macros: dict[str, nodes.Macro]) -> None:
    for node in tree.find_all((nodes.Assign, nodes.AssignBlock, nodes.For, nodes.Call)):
        if isinstance(node, nodes.Assign):
            _bind(node.target, node.node, known)
        elif isinstance(node, nodes.For):
            _bind_loop(node, known)
        elif isinstance(node, nodes.Call) and isinstance(node.node, nodes.Name):
            macro = macros.get(node.node.name)
            names = [] if macro is None else [arg.name for arg in macro.args]
            for name, value in zip(names, node.args, strict=False):
                _bind(nodes.Name(name, "store"), value, known)


def _bind(target: nodes.Node, value: nodes.Node, known: _Known) -> None:
    if isinstance(target, nodes.Tuple):
        values = value.items if isinstance(value, nodes.Tuple) else [value] * len(target.items)
        for one, given in zip(target.items, values, strict=False):
            _bind(one, given, known)
        return
    name = _named(target)
    if not name:
        return
    for holds, names in (
        (_is_content, known.content),
        (_is_size, known.size),
        (_is_carrier, known.carriers),
        (_is_time, known.time),
    ):
        if holds(value, known):
            names.add(name)


def _bind_loop(node: nodes.For, known: _Known) -> None:
    name = _named(node.target)
    if _is_content(node.iter, known):
        bare = isinstance(node.iter, nodes.Name | nodes.Getattr | nodes.Getitem)
        (known.parts if bare else known.content).add(name)
    elif _is_carrier(node.iter, known):
        known.carriers.add(name)


def _named(node: nodes.Node) -> str:
    if isinstance(node, nodes.Name):
        return node.name
    if isinstance(node, nodes.NSRef):
        return f"{node.name}.{node.attr}"
    if isinstance(node, nodes.Getattr) and isinstance(node.node, nodes.Name):
        return f"{node.node.name}.{node.attr}"
    return ""


def _member(node: nodes.Node) -> str:
    """The name of the member that an expression takes, if it takes one by a fixed name."""
    if isinstance(node, nodes.Getattr):
        return node.attr
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const):
        return str(node.arg.value)
    if (
        isinstance(node, nodes.Call)
        and isinstance(node.node, nodes.Getattr)
        and node.node.attr == "get"
        and node.args
        and isinstance(node.args[0], nodes.Const)
    ):
        return str(node.args[0].value)
    return ""


def _is_content(node: nodes.Node, known: _Known) -> bool:  # noqa: PLR0911 - one for each kind
    if _named(node) in known.content or _named(node) in known.parts:
        return True
    if _member(node) in CONTENT:
        return True
    if isinstance(node, nodes.Filter) and node.node is not None:
        if node.name in ("length", "count"):
            return False
        taken = any(
            isinstance(arg, nodes.Const) and arg.value in CONTENT
            for arg in (*node.args, *(pair.value for pair in node.kwargs))
        )
        whole = node.name in ("string", "tojson", "join", "items", "dictsort")
        carried = _is_carrier(node.node, known)
        return _is_content(node.node, known) or (carried and (taken or whole))
    if isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr):
        inside = node.node
        return _is_content(inside.node, known) or (
            inside.attr in ("values", "items") and _is_carrier(inside.node, known)
        )
    if isinstance(node, nodes.Getitem | nodes.Getattr):
        return _is_content(node.node, known)
    if isinstance(node, nodes.Concat):
        return any(_is_content(one, known) for one in node.nodes)
    if isinstance(node, nodes.BinExpr):
        return _is_content(node.left, known) or _is_content(node.right, known)
    if isinstance(node, nodes.CondExpr):
        return any(_is_content(one, known) for one in (node.expr1, node.expr2) if one is not None)
    return False


def _is_carrier(node: nodes.Node, known: _Known) -> bool:
    if _named(node) in known.carriers:
        return True
    if isinstance(node, nodes.Getitem):
        return _is_carrier(node.node, known) and _member(node) not in CONTENT | {"role", "name"}
    if isinstance(node, nodes.Filter) and node.node is not None:
        return node.name not in ("length", "count") and _is_carrier(node.node, known)
    return _named(node) in ("loop.previtem", "loop.nextitem")


def _is_size(node: nodes.Node, known: _Known) -> bool:
    if _named(node) in known.size:
        return True
    if (
        isinstance(node, nodes.Filter)
        and node.name in ("length", "count")
        and node.node is not None
    ):
        return _is_content(node.node, known) or _is_carrier(node.node, known)
    if isinstance(node, nodes.BinExpr):
        return _is_size(node.left, known) or _is_size(node.right, known)
    return False


def _is_time(node: nodes.Node, known: _Known) -> bool:
    if _named(node) in known.time:
        return True
    calls = [node, *node.find_all(nodes.Call)]
    return any(
        isinstance(one, nodes.Call)
        and isinstance(one.node, nodes.Name)
        and one.node.name in ("strftime_now", "now", "datetime")
        for one in calls
    ) or any(one.name in known.time for one in node.find_all(nodes.Name))


# --- what decides ---------------------------------------------------------------------------------


def _decides(tree: nodes.Template, known: _Known) -> Iterator[Sign]:
    for node in tree.find_all(nodes.Compare):
        sides = [node.expr, *(operand.expr for operand in node.ops)]
        texts = [text for side in sides for text in _texts(side)]
        about = [side for side in sides if _is_content(side, known)]
        if about and texts:
            parts = all(_of_part(side, known) for side in about)
            yield from _judged(texts, node.lineno, parts=parts)
        yield from _by_size(node, sides, known)
        if any(_is_time(side, known) for side in sides):
            yield Sign(kind="time-branch", line=node.lineno, what="decides by the date or time")
        if any(_member(side) == "name" for side in sides) and texts:
            what = f"decides by the name of a tool or speaker: {texts[0][:60]!r}"
            yield Sign(kind="name-branch", line=node.lineno, what=what)
    for call in tree.find_all(nodes.Call):
        inside = call.node
        if (
            isinstance(inside, nodes.Getattr)
            and inside.attr in LOOKING
            and _is_content(inside.node, known)
        ):
            yield from _judged([t for arg in call.args for t in _texts(arg)], call.lineno)
    yield from _by_kind(tree, known)
    for chosen in tree.find_all(nodes.Filter):
        if chosen.name in ("select", "reject", "selectattr", "rejectattr") and chosen.node:
            texts = [t for arg in chosen.args[1:] for t in _texts(arg)]
            plain = [
                t for t in texts if t not in ("equalto", "eq", "in", "ne", "defined", "string")
            ]
            by = _texts(chosen.args[0]) if chosen.args else []
            if (set(by) & CONTENT or _is_content(chosen.node, known)) and plain:
                yield from _judged(plain, chosen.lineno)


def _by_kind(tree: nodes.Template, known: _Known) -> Iterator[Sign]:
    """What was said as a key, and tests and methods that ask how it is written."""
    for item in tree.find_all(nodes.Getitem):
        if _is_content(item.arg, known):
            yield Sign(kind="content-branch", line=item.lineno, what="looks up what was said")
    for test in tree.find_all(nodes.Test):
        if _is_content(test.node, known) and test.name not in KINDS:
            what = f"decides by what was said: is it {test.name}?"
            yield Sign(kind="content-branch", line=test.lineno, what=what)
    for call in tree.find_all(nodes.Call):
        inside = call.node
        if (
            isinstance(inside, nodes.Getattr)
            and inside.attr.startswith("is")
            and _is_content(inside.node, known)
        ):
            what = f"decides by what was said: {inside.attr}?"
            yield Sign(kind="content-branch", line=call.lineno, what=what)


def _of_part(node: nodes.Node, known: _Known) -> bool:
    name = _named(node)
    return name in known.parts or name.split(".")[0] in known.parts or _member(node) == "type"


def _texts(node: nodes.Node) -> list[str]:
    if isinstance(node, nodes.Const):
        return [node.value] if isinstance(node.value, str) else []
    if isinstance(node, nodes.List | nodes.Tuple):
        return [text for one in node.items for text in _texts(one)]
    folded = _fold(node)
    return [] if folded is None else [folded]


def _judged(texts: list[str], line: int, *, parts: bool = False) -> Iterator[Sign]:
    """A sign for each text that honest templates do not look for in what was said."""
    for text in texts:
        bare = text.strip()
        if not bare or (parts and bare in STRUCTURE):
            continue
        marks = MARKUP.findall(bare)
        if marks and MARKUP.sub("", bare).strip() == "":
            names = {each for mark in marks for each in re.findall(r"\w+", mark)}
            if not names <= TAGS:
                what = f"looks for the unusual mark {bare[:60]!r} in what was said"
                yield Sign(kind="mark-branch", line=line, what=what)
            continue
        what = f"decides by what was said: looks for {bare[:60]!r}"
        yield Sign(kind="content-branch", line=line, what=what)


def _by_size(node: nodes.Compare, sides: list[nodes.Expr], known: _Known) -> Iterator[Sign]:
    numbers = [
        one.value for one in sides if isinstance(one, nodes.Const) and type(one.value) is int
    ]
    sized = any(_is_size(side, known) for side in sides)
    counted = any(_named(side) in ("loop.index", "loop.index0", "loop.length") for side in sides)
    if (sized or counted) and any(abs(number) > 2 for number in numbers):
        what = f"decides by how much was said ({numbers[0]})"
        yield Sign(kind="size-branch", line=node.lineno, what=what)


# --- what is changed and reached for --------------------------------------------------------------


def _changes(tree: nodes.Template, known: _Known) -> Iterator[Sign]:
    for one in tree.find_all(nodes.Filter):
        if one.name in CHANGING and one.node is not None and _is_content(one.node, known):
            texts = [text for arg in one.args for text in _texts(arg)]
            if one.name != "replace" or not _harmless(texts):
                what = f"changes what was said with `{one.name}`"
                yield Sign(kind="rewrites", line=one.lineno, what=what)
    for call in tree.find_all(nodes.Call):
        inside = call.node
        if isinstance(inside, nodes.Getattr) and _is_content(inside.node, known):
            texts = [text for arg in call.args for text in _texts(arg)]
            if inside.attr in CHANGING and not _harmless(texts):
                what = f"changes what was said with `{inside.attr}`"
                yield Sign(kind="rewrites", line=call.lineno, what=what)
    for item in tree.find_all(nodes.Getitem):
        if isinstance(item.arg, nodes.Slice) and _is_content(item.node, known):
            inner = item.node
            if not (isinstance(inner, nodes.Call) and _called(inner) in CUTTING):
                yield Sign(kind="cuts", line=item.lineno, what="takes only a part of what was said")


def _called(call: nodes.Call) -> str:
    return call.node.attr if isinstance(call.node, nodes.Getattr) else ""


def _harmless(texts: list[str]) -> bool:
    """Whether only marks and blanks are put in place of marks and blanks."""
    return bool(texts) and all(not MARKUP.sub("", text).strip() for text in texts)


def _reaches(tree: nodes.Template) -> Iterator[Sign]:
    for node in tree.find_all((nodes.Getattr, nodes.Getitem, nodes.Name)):
        name = node.name if isinstance(node, nodes.Name) else _member(node)
        if name.startswith("_") or "__" in name:
            yield Sign(kind="dunder", line=node.lineno, what=f"reaches for {name[:60]!r}")
        elif isinstance(node, nodes.Name) and name in FORBIDDEN_NAMES:
            yield Sign(kind="dunder", line=node.lineno, what=f"uses {name!r}")
    for one in tree.find_all((nodes.Filter, nodes.Test)):
        if one.name in ("attr", "format", "xmlattr", "urlize", "pprint", "filesizeformat"):
            yield Sign(kind="dunder", line=one.lineno, what=f"uses the filter `{one.name}`")
    for fetch in tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)):
        what = f"uses {type(fetch).__name__.lower()}"
        yield Sign(kind="dunder", line=fetch.lineno, what=what)
    for call in tree.find_all(nodes.Call):
        if isinstance(call.node, nodes.Name) and call.node.name == "range":
            ends = [arg.value for arg in call.args if isinstance(arg, nodes.Const)]
            if any(type(end) is int and end > MAX_COUNT for end in ends):
                yield Sign(kind="endless", line=call.lineno, what=f"counts to {max(ends):,}")


# --- texts in pieces ------------------------------------------------------------------------------


def _fold(node: nodes.Node) -> str | None:  # noqa: PLR0911 - one for each kind of node
    """The fixed text that an expression of fixed texts comes to; ``None`` for any other."""
    if isinstance(node, nodes.Const):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, nodes.Concat):
        return _joined([_fold(one) for one in node.nodes])
    if isinstance(node, nodes.Add):
        return _joined([_fold(node.left), _fold(node.right)])
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
        whole, step = _fold(node.node), node.arg.step
        if whole is None:
            return None
        backwards = isinstance(step, nodes.Neg) or (
            isinstance(step, nodes.Const) and step.value == -1
        )
        return whole[::-1] if backwards else whole
    if isinstance(node, nodes.Filter) and node.node is not None:
        return _filtered(node)
    if isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr):
        return _method(node, node.node)
    return None


def _joined(parts: list[str | None]) -> str | None:
    texts = [part for part in parts if part is not None]
    return "".join(texts) if len(texts) == len(parts) else None


def _filtered(node: nodes.Filter) -> str | None:
    assert node.node is not None, "looked at before"
    args = [_fold(arg) for arg in node.args]
    if node.name == "join" and isinstance(node.node, nodes.List | nodes.Tuple):
        glue = args[0] if args and args[0] is not None else ""
        return _glued(glue, node.node)
    whole = _fold(node.node)
    if whole is None:
        return None
    if node.name == "reverse":
        return whole[::-1]
    if node.name == "replace" and len(args) >= 2 and args[0] and args[1] is not None:
        return whole.replace(args[0], args[1])
    return whole if node.name in ("trim", "string", "safe", "lower", "upper") else None


def _method(call: nodes.Call, inside: nodes.Getattr) -> str | None:
    owner, args = _fold(inside.node), [_fold(arg) for arg in call.args]
    if owner is None:
        return None
    if inside.attr == "join" and call.args and isinstance(call.args[0], nodes.List | nodes.Tuple):
        return _glued(owner, call.args[0])
    if inside.attr == "replace" and len(args) >= 2 and args[0] and args[1] is not None:
        return owner.replace(args[0], args[1])
    return owner if inside.attr in ("strip", "lower", "upper") else None


def _glued(glue: str, items: nodes.List | nodes.Tuple) -> str | None:
    parts = [_fold(one) for one in items.items]
    texts = [part for part in parts if part is not None]
    return glue.join(texts) if texts and len(texts) == len(parts) else None
