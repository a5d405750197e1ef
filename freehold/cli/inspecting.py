"""``freehold inspect``: what happened inside a model while it chose its next word."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from freehold.cli import options
from freehold.cli.home import at_home
from freehold.cli.output import Bar, emit, table, write_over
from freehold.cli.places import root
from freehold.cli.settings import read_settings
from freehold.errors import UsageError

if TYPE_CHECKING:
    from freehold.audit.inner.account import Account


def inspect(
    model: Annotated[str, typer.Argument(help="A model in the vault.")],
    prompt: Annotated[str, typer.Argument(help="What to ask it.")],
    against: Annotated[
        str | None,
        typer.Option(help="A second prompt of as many tokens: which layer tells them apart?"),
    ] = None,
    after: Annotated[
        str, typer.Option(help="How its answer begins: look at the word that comes then.")
    ] = "",
    span: Annotated[
        list[str] | None,
        typer.Option(help="Part of the prompt to leave out, instead of each word; repeatable."),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(help="Words of the prompt: what would each layer have said behind them?"),
    ] = None,
    refusal: Annotated[
        str | None,
        typer.Option(help="Language (en, id, zh, ...): how harmful does each token look to it?"),
    ] = None,
    page: Annotated[Path | None, typer.Option(help="Write a page (HTML) here.")] = None,
    threads: options.Threads = None,
    no_lock: Annotated[bool, typer.Option("--no-lock", help="Leave every way out open.")] = False,
    json: options.Json = False,
) -> None:
    """Look inside a model at the moment its answer begins (extra `lab`).

    Shows what each layer would have said, which parts wrote the next token of the answer, which
    words of the prompt it hangs on, and with `--against` which layer decided.
    """
    if page is not None and page.exists():
        raise UsageError(f"{page} is there already: name another file", param="page")
    settings = read_settings(root(), residency="off" if no_lock else None)
    write = () if page is None else (str(page.resolve().parent),)
    with at_home(settings, "front", write=write) as home:
        home.shut_files()
        home.shut_calls()
        from freehold.audit.inner.account import Asked, give
        from freehold.audit.inner.page import render
        from freehold.qwen import codec
        from freehold.qwen.model import load
        from freehold.store import Store, verify

        asked = Asked(
            prompt=prompt,
            against=against,
            after=after,
            spans=tuple(span or ()),
            at=at,
            refusal=refusal,
        )
        with Bar(quiet=json, of_bytes=False) as bar:
            found = verify(Store(root()), model)
            loaded = load(found, backend="torch", threads=threads)
            account = give(loaded, codec.load(found), asked, bar)
        if page is not None:
            write_over(page, render(account).encode())
    emit(account.facts(), _lines(account, page), as_json=json)


def _lines(account: Account, page: Path | None) -> list[str]:
    facts: dict[str, Any] = account.facts()
    words = sorted(facts["spans"], key=lambda span: -abs(span["effect"]))[:8]
    parts = sorted(facts["parts"], key=lambda part: -abs(part["logit"]))[:8]
    lines = [
        f"{account.model} goes on with {account.answer!r}"
        + (f" after {account.after!r}" if account.after else ""),
        "",
        "What each layer would have said:",
        *_lens(facts["lens"]),
        "",
        "Words the answer hangs on (how far its logit falls without them):",
        *table(("word", "effect"), [(one["text"], f"{one['effect']:+.2f}") for one in words]),
        "",
        "Parts that wrote most towards it (its logit, split exactly):",
        *table(("part", "logit"), [(one["part"], f"{one['logit']:+.2f}") for one in parts]),
    ]
    if facts["patch"] is not None:
        rows = [
            (str(i), *(f"{share:+.2f}" for share in row))
            for i, row in enumerate(facts["patch"]["restored"])
        ]
        head = ("layer", *facts["patch"]["positions"])
        lines += ["", "Which layer decided (1: the answer turned, 0: it did not):"]
        lines += table(head, rows)
    if account.at is not None:
        lines += ["", f"What each layer would have said behind {account.at!r}:"]
        lines += _lens(facts["lens_at"])
    if facts["refusal"] is not None:
        lines += ["", *_refusal(facts["refusal"])]
    if page is not None:
        lines += ["", f"the page is {page}"]
    return lines


def _lens(layers: list[dict[str, Any]]) -> list[str]:
    rows = [
        [str(row["layer"]), *(f"{one['text']!r} {one['p']:.0%}" for one in row["top"][:3])]
        for row in layers
    ]
    return table(("layer", "first", "second", "third"), rows)


def _refusal(found: dict[str, Any]) -> list[str]:
    """At the last token of the prompt, with what the direction is worth beside it."""
    rows = [
        (str(i), f"{cosines[-1]:+.2f}", *(f"{n} of {found['held_out']}" for n in right))
        for i, (cosines, *right) in enumerate(
            zip(
                found["cosine"],
                found["right_harmful"],
                found["right_harmless"],
                found["right_double"],
                strict=True,
            )
        )
    ]
    head = ("layer", "here", "harmful", "harmless", "only sounds so")
    return [
        "Along the direction of refusal (cosine at the last token; how many requests that had no "
        "part in it",
        "fell on their own side; it describes, and proves no cause):",
        *table(head, rows),
    ]
