"""``freehold passport``: what is known of a model, and who says so."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from freehold.cli.output import emit, one_line, say, write_new
from freehold.cli.passphrases import PassphraseFd, signing_key
from freehold.cli.places import root
from freehold.cli.settings import Settings, read_settings
from freehold.cli.trust import trusted
from freehold.errors import NotFoundError, SignatureError, StorageError, UsageError

if TYPE_CHECKING:
    from freehold.signing.dsse import Envelope
    from freehold.store import Manifest, Record
    from freehold.store.lineage import Link
    from freehold.store.passport import Entry
    from freehold.store.statements import Predicate

app = typer.Typer(
    help="Show, verify and add to what is known of a model.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Model = Annotated[str, typer.Argument(help="A model in the vault, see `freehold list`.")]
Key = Annotated[str, typer.Option("--key", help="The signing key's name, see `freehold signer`.")]
Output = Annotated[
    Path | None, typer.Option("--output", help="Write to this file instead. It must be new.")
]

_FORMATS = ("json", "html", "cyclonedx")


@app.command("show")
def show(model: Model, json: Json = False) -> None:
    """Show everything that is known of a model: source, licence, chain, statements and signers."""
    from freehold.store import export, gate, licences, openness

    manifest, entries, links = _opened(model)
    lines = [
        f"{manifest.name}  {manifest.digest}",
        f"from {manifest.source} {manifest.repository}".rstrip()
        + f", admitted {manifest.admitted}",
        *licences.told(gate.licence_of(manifest, entries)),
        *openness.lines(openness.of_model(manifest, entries)),
    ]
    if not entries:
        lines.append("no statements yet: `freehold passport add` and `approve` sign some")
    for entry in entries:
        lines += [_line(entry), f"    {one_line(entry.predicate.gist())}"]
    emit(export.facts(manifest, entries, links), lines, as_json=json)


@app.command("verify")
def verify(model: Model, json: Json = False) -> None:
    """Check every statement: its form, its subject, and a signature by a key that `trust` names."""
    from freehold.store import passport

    manifest, entries, _ = _opened(model)
    for entry in entries:
        if not entry.signers:
            ids = ", ".join(key[:16] for key in entry.others)
            raise SignatureError(
                f"{passport.path_of(_store(), manifest.digest)}, line {entry.line}: a statement of "
                f"kind {entry.predicate.kind!r} is signed by no key that is trusted here ({ids}). "
                "If you know whose key that is, add its public half to `trust` in freehold.toml"
            )
    emit(
        {
            "name": manifest.name,
            "digest": manifest.digest,
            "statements": [
                {"line": e.line, "kind": e.predicate.kind, "signers": list(e.signers)}
                for e in entries
            ],
        },
        [*map(_line, entries), f"{len(entries)} statements, each signed by a trusted key"],
        as_json=json,
    )


@app.command("add")
def add(
    model: Model,
    envelope: Annotated[
        Path | None,
        typer.Option("--envelope", help="Add statements that were signed elsewhere: this file."),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(help="What to state: source, licence, lineage, audit, eval, adaptation."),
    ] = None,
    predicate: Annotated[
        Path | None, typer.Option(help="The statement's predicate, JSON, without `made`.")
    ] = None,
    licence: Annotated[
        str | None, typer.Option(help="State this licence (an SPDX id or LicenseRef- name).")
    ] = None,
    key: Annotated[str | None, typer.Option("--key", help="The signing key's name.")] = None,
    passphrase_fd: PassphraseFd = None,
    output: Output = None,
    json: Json = False,
) -> None:
    """Add a statement: signed now with --key, or elsewhere (--envelope).

    With --output it is only signed: hand the file to whoever keeps the passport.
    """
    from freehold.store import passport, statements

    if envelope is not None:
        if kind or predicate or licence or key or output:
            raise UsageError("--envelope is signed already: it goes with no other option")
        manifest = _store().manifest(model)
        given = passport.envelopes_in(_read(envelope), file=str(envelope))
        _report(manifest, append(manifest, given), json=json)
        return
    if key is None or (licence is None) == (kind is None or predicate is None):
        raise UsageError(
            "say what to state: --envelope FILE, or --key NAME with --licence ID or with "
            "--kind KIND --predicate FILE"
        )
    said: Predicate
    if licence is not None:
        said = passport.licence_said(licence, statements.now())
    else:
        said = _predicate(kind or "", predicate or Path())
    _sign(model, said, key, passphrase_fd, output, json=json)


@app.command("approve")
def approve(
    model: Model,
    key: Key,
    purpose: Annotated[
        str, typer.Option("--for", help="serve or publish: what is approved.")
    ] = "serve",
    days: Annotated[
        int | None, typer.Option(min=1, max=36500, help="It expires after so many days [never].")
    ] = None,
    reason: Annotated[str, typer.Option(help="Why, in a sentence.")] = "",
    withdraw: Annotated[bool, typer.Option("--withdraw", help="Take your approval back.")] = False,
    passphrase_fd: PassphraseFd = None,
    output: Output = None,
    json: Json = False,
) -> None:
    """Sign that a model may be served or published, or take that back."""
    from freehold.store import statements

    if purpose not in ("serve", "publish"):
        raise UsageError(f"--for is {purpose!r}: take serve or publish", param="for")
    expires = ""
    if days is not None:
        expires = (datetime.now(UTC) + timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")
    said = statements.predicate_of(
        statements.Approval,
        {
            "made": statements.now(),
            "decision": "withdraw" if withdraw else "approve",
            "purpose": purpose,
            "expires": expires,
            "reason": reason,
        },
        file="the approval",
    )
    _sign(model, said, key, passphrase_fd, output, json=json)


@app.command("export")
def export(
    model: Model,
    format: Annotated[
        str, typer.Option(help="json (with all signatures), html or cyclonedx (1.6 ML-BOM).")
    ] = "json",
    publish: Annotated[
        bool,
        typer.Option("--publish", help="Only if [publish] in freehold.toml lets the model out."),
    ] = False,
    output: Output = None,
) -> None:
    """Write a model's passport for others, to standard output or a file."""
    from freehold.cli.gating import admit
    from freehold.store import export as exports
    from freehold.store import verify as check

    if format not in _FORMATS:
        raise UsageError(f"{format!r} is no format: take {', '.join(_FORMATS)}", param="format")
    settings = read_settings(root())
    if publish:
        admit(check(_store(), model), settings, "publish")
    manifest, entries, links = _opened(model, settings)
    if format == "json":
        data = exports.bundle(manifest, entries, links, trusted(settings))
    elif format == "html":
        data = exports.page(manifest, entries, links)
    else:
        data = exports.cyclonedx(manifest, entries, links)
    if output is None:
        sys.stdout.buffer.write(data)
    else:
        write_new(output, data)
        say(f"wrote {output}")


def passport_of(model: str, settings: Settings) -> bytes:
    """The passport as ``export`` writes it in JSON. Raises as ``show`` does."""
    from freehold.store import export as exports

    return exports.bundle(*_opened(model, settings), trusted(settings))


def sign_known(
    manifest: Manifest, signer: str, descriptor: int | None, record: Record | None = None
) -> None:
    """Sign with the key ``signer`` what pull knows of a model, and what packing knows of its pack,
    unless it has said so before."""
    from freehold.store import passport, statements

    entries = passport.read(_store(), manifest.digest, trusted(read_settings(root())))
    held = [entry.predicate for entry in entries if signer in entry.signers]
    kinds = {said.kind for said in held}
    missing = [said for said in passport.first_statements(manifest) if said.kind not in kinds]
    if record is not None:
        said = passport.packing_said(record)
        if not any(passport.same_but_time(said, other) for other in held):
            missing.append(said)
    if missing:
        key = signing_key(signer, descriptor)
        append(
            manifest,
            [statements.about(manifest.name, manifest.digest, said, key) for said in missing],
        )


def append(manifest: Manifest, envelopes: Sequence[Envelope]) -> list[Entry]:
    """Add envelopes to a model's passport; returns the new entries."""
    from freehold.store import passport

    trust = trusted(read_settings(root()))
    return passport.append(_store(), manifest.digest, envelopes, trust)


def _sign(
    model: str,
    said: Predicate,
    key: str,
    descriptor: int | None,
    output: Path | None,
    *,
    json: bool,
) -> None:
    from freehold.signing import dsse
    from freehold.store import statements

    manifest = _store().manifest(model)
    envelope = statements.about(manifest.name, manifest.digest, said, signing_key(key, descriptor))
    if output is None:
        _report(manifest, append(manifest, [envelope]), json=json)
        return
    write_new(output, dsse.encode(envelope) + b"\n")
    emit(
        {"name": manifest.name, "digest": manifest.digest, "written": str(output)},
        [
            f"wrote {output}: whoever keeps the passport runs "
            f"`freehold passport add {model} --envelope {output}`"
        ],
        as_json=json,
    )


def _report(manifest: Manifest, entries: Sequence[Entry], *, json: bool) -> None:
    added = [
        {"line": e.line, "kind": e.predicate.kind, "signers": list(e.signers)} for e in entries
    ]
    emit(
        {"name": manifest.name, "digest": manifest.digest, "added": added},
        [f"added to the passport of {manifest.name}, {manifest.digest}:", *map(_line, entries)]
        if entries
        else [f"the passport of {manifest.name} has all of it already"],
        as_json=json,
    )
    if any(not entry.signers for entry in entries):
        say("no key that `trust` names has signed this: it counts for nothing on this machine")


def _predicate(kind: str, path: Path) -> Predicate:
    from freehold import strictjson
    from freehold.store import statements

    cls = statements.kind_named(kind)
    step = {
        "approval": "passport approve",
        "weights": "sign",
        "packing": "pack",
        "released": "openness --release",
    }.get(kind)
    if step is not None:
        raise UsageError(f"{kind} is stated by `freehold {step}` alone", param="kind")
    value = strictjson.parse(_read(path), file=str(path), max_bytes=statements.MAX_PAYLOAD)
    if not isinstance(value, dict):
        raise UsageError(f"{path} holds no JSON object", param="predicate")
    return statements.predicate_of(cls, {"made": statements.now(), **value}, file=str(path))


def _read(path: Path) -> bytes:
    from freehold.store.passport import MAX_PASSPORT

    try:
        with path.open("rb") as file:
            return file.read(MAX_PASSPORT + 1)
    except FileNotFoundError:
        raise NotFoundError(f"there is no file {path}", param="file") from None
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}") from error


def _store() -> Any:
    from freehold.store import Store

    return Store(root())


def _opened(
    model: str, settings: Settings | None = None
) -> tuple[Manifest, list[Entry], list[Link]]:
    """Manifest, passport and chain of a model in the vault."""
    from freehold.store import lineage, passport
    from freehold.store.verify import check_pins

    trust = trusted(settings or read_settings(root()))
    store = _store()
    manifest = store.manifest(model)
    check_pins(manifest)
    entries = passport.read(store, manifest.digest, trust)
    return manifest, entries, lineage.chain(store, manifest, trust)


def _line(entry: Entry) -> str:
    who = ", ".join(entry.signers) or "unknown key " + ", ".join(k[:16] for k in entry.others)
    return f"{entry.line:>3}  {entry.predicate.made}  {entry.predicate.kind:<10}  {who}"
