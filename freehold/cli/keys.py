"""``freehold keys``: who may ask, and for how much."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from freehold.cli.keyring import open_keyring
from freehold.cli.output import emit, table

if TYPE_CHECKING:
    from freehold.serve.keys import KeyInfo, KeyLimits

app = typer.Typer(
    help="Make, list, limit and revoke API keys.", no_args_is_help=True, rich_markup_mode=None
)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Models = Annotated[
    list[str] | None, typer.Option("--model", help="A model it may use; give it again for more.")
]
Expires = Annotated[
    str | None, typer.Option(help="When it ends: a date (2027-01-31, UTC) or days from now (30d).")
]
Concurrency = Annotated[int | None, typer.Option(help="Requests at once.")]
PerMinute = Annotated[int | None, typer.Option(help="Requests in a minute.")]
PerDay = Annotated[int | None, typer.Option(help="Requests in a day (UTC).")]
TokensPerMinute = Annotated[int | None, typer.Option(help="Tokens in a minute.")]
TokensPerDay = Annotated[int | None, typer.Option(help="Tokens in a day (UTC).")]
GuardPolicy = Annotated[
    str | None,
    typer.Option("--policy", help="The guard's policy it falls under; '' for the server's own."),
]
Budget = Annotated[int | None, typer.Option(help="Tokens for as long as it lives.")]


@app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="Who or what the key is for.")],
    role: Annotated[
        str,
        typer.Option(
            help="user asks the model; auditor reads the ledger and passports, nothing else."
        ),
    ] = "user",
    model: Models = None,
    expires: Expires = None,
    concurrency: Concurrency = None,
    requests_per_minute: PerMinute = None,
    requests_per_day: PerDay = None,
    tokens_per_minute: TokensPerMinute = None,
    tokens_per_day: TokensPerDay = None,
    token_budget: Budget = None,
    policy: GuardPolicy = None,
    certificate: Annotated[
        Path | None,
        typer.Option(help="A client certificate (PEM) that it opens with, and never without."),
    ] = None,
    json: Json = False,
) -> None:
    """Make a key. The secret is shown once and stored only as a hash."""
    limits = _limits(
        model,
        expires,
        policy,
        concurrency=concurrency,
        requests_per_minute=requests_per_minute,
        requests_per_day=requests_per_day,
        tokens_per_minute=tokens_per_minute,
        tokens_per_day=tokens_per_day,
        token_budget=token_budget,
    )
    pin = None
    if certificate is not None:
        from freehold.serve.tls import read_pin

        pin = read_pin(certificate)
    new = open_keyring().add(name, role=role, limits=limits, certificate=pin)
    emit(
        {
            "id": new.id,
            "name": new.name,
            "role": role,
            "secret": new.secret,
            "certificate": pin,
            "limits": _told(limits),
        },
        [f"{role} key {new.id} for {new.name}, shown only now:", new.secret],
        as_json=json,
    )


@app.command("limit")
def limit(
    key: Annotated[str, typer.Argument(help="The key's id or name.")],
    model: Models = None,
    expires: Expires = None,
    concurrency: Concurrency = None,
    requests_per_minute: PerMinute = None,
    requests_per_day: PerDay = None,
    tokens_per_minute: TokensPerMinute = None,
    tokens_per_day: TokensPerDay = None,
    token_budget: Budget = None,
    policy: GuardPolicy = None,
    json: Json = False,
) -> None:
    """Give a key these limits in place of what it had; without any, it has none. Its policy stays
    unless another is named. At once, also in a server that is running."""
    limits = _limits(
        model,
        expires,
        policy,
        concurrency=concurrency,
        requests_per_minute=requests_per_minute,
        requests_per_day=requests_per_day,
        tokens_per_minute=tokens_per_minute,
        tokens_per_day=tokens_per_day,
        token_budget=token_budget,
    )
    changed = open_keyring().limit(key, limits)
    told = _shown(changed) or "none"
    emit(_row(changed), [f"limits of {changed.name}: {told}"], as_json=json)


@app.command("list")
def list_keys(json: Json = False) -> None:
    """List keys: id, name, when made, whether revoked, limits."""
    found = open_keyring().list()
    emit(
        [_row(key) for key in found],
        table(
            ("id", "name", "role", "made", "state", "limits"),
            (
                (
                    *(key.id, key.name, key.role, f"{key.created:%Y-%m-%d %H:%M}Z"),
                    *(_state(key), _shown(key)),
                )
                for key in found
            ),
        )
        if found
        else ["no keys yet: make one with `freehold keys add NAME`"],
        as_json=json,
    )


@app.command("revoke")
def revoke(
    key: Annotated[str, typer.Argument(help="The key's id or name.")], json: Json = False
) -> None:
    """Revoke a key at once, also in a server that is running."""
    revoked = open_keyring().revoke(key)
    emit(_row(revoked), [f"revoked key {revoked.id} ({revoked.name})"], as_json=json)


@app.command("usage")
def usage(
    days: Annotated[int, typer.Option(help="So many days back, today (UTC) included.")] = 30,
    prices: Annotated[
        Path | None,
        typer.Option(help="A TOML file of prices, to estimate what others would have charged."),
    ] = None,
    json: Json = False,
) -> None:
    """What each key has used, by model; with prices, what that would have cost elsewhere."""
    from freehold.cli.pricing import read_prices

    lists = read_prices(prices) if prices is not None else []
    ring = open_keyring()
    names = {key.id: key.name for key in ring.list()}
    since = datetime.now(UTC).date() - timedelta(days=max(days, 1) - 1)
    totals: dict[tuple[str, str], dict[str, int]] = {}
    for one in ring.usage(since):
        total = totals.setdefault((one.key, one.model), dict.fromkeys(_COUNTED, 0))
        for name in _COUNTED:
            total[name] += getattr(one, name)
    rows: list[dict[str, Any]] = [
        {
            "key": key,
            "name": names.get(key, ""),
            "model": model,
            **total,
            "estimates": {price.name: round(price.of(**total), 6) for price in lists},
        }
        for (key, model), total in totals.items()
    ]
    head = ("key", "name", "model", "requests", "prompt", "of it cached", "answers")
    emit(
        {"since": since.isoformat(), "usage": rows},
        table(
            (*head, *(price.name for price in lists)),
            (
                (
                    *(str(row[name]) for name in ("key", "name", "model", *_COUNTED)),
                    *(f"{cost:.2f}" for cost in row["estimates"].values()),
                )
                for row in rows
            ),
        )
        if rows
        else [f"nothing was used since {since}"],
        as_json=json,
    )


_COUNTED = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens")


def _limits(
    models: list[str] | None, expires: str | None, policy: str | None, **counts: int | None
) -> KeyLimits:
    from freehold.serve.keys import KeyLimits

    limits = KeyLimits(
        models=tuple(models) if models else None, expires=_end(expires), policy=policy, **counts
    )
    limits.check()
    return limits


def _end(text: str | None) -> float | None:
    """When a key ends, in Unix seconds. Raises ``UsageError``."""
    from freehold.errors import UsageError

    if text is None:
        return None
    try:
        if text.endswith("d"):
            return (datetime.now(UTC) + timedelta(days=int(text[:-1]))).timestamp()
        day = date.fromisoformat(text)
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"expires is {text!r}: write a date such as 2027-01-31, or days such as 30d",
            param="expires",
        ) from error
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()


def _row(key: KeyInfo) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "role": key.role,
        "certificate": key.certificate,
        "created": key.created.isoformat(),
        "revoked": key.revoked.isoformat() if key.revoked else None,
        "limits": _told(key.limits),
    }


def _told(limits: KeyLimits) -> dict[str, Any]:
    """The limits there are; the end as a time."""
    import msgspec

    told = {k: v for k, v in msgspec.to_builtins(limits).items() if v is not None}
    if limits.expires is not None:
        told["expires"] = datetime.fromtimestamp(limits.expires, UTC).isoformat()
    return told


def _shown(key: KeyInfo) -> str:
    told = _told(key.limits) | (
        {"models": " ".join(key.limits.models)} if key.limits.models else {}
    )
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in told.items())


def _state(key: KeyInfo) -> str:
    if key.revoked:
        return f"revoked {key.revoked:%Y-%m-%d %H:%M}Z"
    return "expired" if key.expired else "in use"
