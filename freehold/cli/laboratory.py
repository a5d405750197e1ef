"""``audit``: a model's name where a command could stand means `audit model`."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from freehold.cli import auditing, selftest

DEFAULT = "model"


class Laboratory(TyperGroup):
    """A group in which ``audit X ...`` is ``audit model X ...``, unless X is a command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        named = bool(args) and (args[0] in self.commands or args[0] in ctx.help_option_names)
        if args and not named and DEFAULT in self.commands:
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=Laboratory,
    help="Examine a model, and try the means of examining.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.callback()
def laboratory() -> None:
    """Examine a model, and try the means of examining."""


app.command(DEFAULT)(auditing.audit)
app.command("selftest")(selftest.selftest)
