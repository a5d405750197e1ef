"""The tokens in a template's own literals become signs (``Controls``), when it is compiled."""

from __future__ import annotations

from typing import Any, TypeGuard

from jinja2 import nodes
from jinja2.visitor import NodeTransformer

from freehold.qwen.controls import Controls


class Marking(NodeTransformer):
    """Makes signs of the tokens in the template's literals, and comparisons see through them."""

    def __init__(self, controls: Controls) -> None:
        self._controls = controls

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Node:  # noqa: N802
        node.data = self._controls.mark(self._controls.escape(node.data))
        return node

    def visit_Const(self, node: nodes.Const) -> nodes.Node:  # noqa: N802
        if isinstance(node.value, str):
            node.value = self._controls.mark(self._controls.escape(node.value))
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:  # noqa: N802
        sides = [node.expr, *(operand.expr for operand in node.ops)]
        fixed = [isinstance(side, nodes.Const) for side in sides]
        named = any(self._controls.named(side.value) for side in sides if _is_text(side))
        if named or (sum(fixed) < len(sides) - 1 and {op.op for op in node.ops} & _ALIKE):
            shown = [
                side if constant else wrap("unmarked", [self.visit(side)])
                for side, constant in zip(sides, fixed, strict=True)
            ]
            node.expr = shown[0]
            for operand, side in zip(node.ops, shown[1:], strict=True):
                operand.expr = side
            return node
        return self.generic_visit(node)


_ALIKE = frozenset({"eq", "ne", "in", "notin"})


def _is_text(node: nodes.Expr) -> TypeGuard[nodes.Const]:
    return isinstance(node, nodes.Const) and isinstance(node.value, str)


def wrap(function: str, args: list[Any]) -> nodes.Call:
    """A call of the environment's ``function`` with ``args``."""
    # An attribute of the environment: a name could be shadowed by the template.
    return nodes.Call(nodes.EnvironmentAttribute(function), args, [], None, None)
