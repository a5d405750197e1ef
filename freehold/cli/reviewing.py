"""``freehold guard review``: people decide on what a policy puts before them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from freehold.cli.keyring import open_keyring
from freehold.cli.output import emit, table

if TYPE_CHECKING:
    from freehold.serve.reviews import Review, Reviews

app = typer.Typer(
    help="Decide on what the guard puts before people.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Number = Annotated[str, typer.Argument(help="The review's id.")]


@app.command("list")
def list_reviews(
    every: Annotated[bool, typer.Option("--all", help="Those decided too.")] = False,
    json: Json = False,
) -> None:
    """List reviews that wait: id, when, whose key, what was found."""
    found = _reviews().list(None if every else "waiting")
    head = ("id", "made", "state", "key", "policy", "side", "found")
    emit(
        [_row(one) for one in found],
        table(
            head,
            (
                (
                    *(one.id, f"{one.created:%Y-%m-%d %H:%M}Z", one.state, one.key or "-"),
                    *(one.policy, one.side, " ".join(one.categories)),
                )
                for one in found
            ),
        )
        if found
        else ["nothing waits"],
        as_json=json,
    )


@app.command("show")
def show(number: Number, json: Json = False) -> None:
    """Show one review: the reasons, and the text if the policy keeps it."""
    one = _reviews().find(number)
    text = "the text was not kept" if one.content is None else one.content
    emit(_row(one), [*one.reasons, "", text], as_json=json)


@app.command("approve")
def approve(number: Number, json: Json = False) -> None:
    """Let this prompt pass from now on, or this call once, also in a server that is running."""
    one = _reviews().decide(number, "approved")
    once = ", once" if one.side == "call" else ""
    emit(_row(one), [f"approved {one.id}: the same {one.side} passes now" + once], as_json=json)


@app.command("refuse")
def refuse(number: Number, json: Json = False) -> None:
    """Say that this was stopped rightly."""
    one = _reviews().decide(number, "refused")
    emit(_row(one), [f"refused {one.id}: it stays stopped"], as_json=json)


def _reviews() -> Reviews:
    from freehold.serve.reviews import Reviews

    return Reviews(open_keyring().url)


def _row(one: Review) -> dict[str, Any]:
    return {
        "id": one.id,
        "key": one.key,
        "policy": one.policy,
        "side": one.side,
        "tier": one.tier,
        "state": one.state,
        "categories": list(one.categories),
        "reasons": list(one.reasons),
        "created": one.created.isoformat(),
        "decided": None if one.decided is None else one.decided.isoformat(),
        "content": one.content,
    }
