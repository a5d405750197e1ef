"""``freehold ledger``: read, verify, prove, export, erase and replay what the server recorded."""

from __future__ import annotations

import json as jsonlib
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from freehold.cli.output import Bar, emit, say, table
from freehold.cli.places import keys_folder, root
from freehold.cli.settings import read_settings
from freehold.errors import IntegrityError, LedgerError, NotFoundError, UsageError

if TYPE_CHECKING:
    from freehold.ledger.database import Database
    from freehold.ledger.log import Reader
    from freehold.signing.keys import SigningKey

app = typer.Typer(
    help="Read, verify, prove, export, erase and replay what the server recorded.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Where = Annotated[
    str | None, typer.Option(help="The ledger: a file or a data base URL [as set for serve].")
]
Number = Annotated[int, typer.Argument(help="An entry's number (the header x-freehold-entry).")]
Reader_ = Annotated[
    str | None, typer.Option("--key", help="The signing key that sealed entries are for.")
]
Passphrase = Annotated[bool, typer.Option("--passphrase", help="Ask for the key's passphrase.")]

_WAIT_SECONDS = 15.0


@app.command("show")
def show(
    entry: Annotated[int | None, typer.Argument(help="An entry; without one: the latest.")] = None,
    count: Annotated[int, typer.Option(min=1, help="How many of the latest leaves.")] = 20,
    key: Reader_ = None,
    passphrase: Passphrase = False,
    ledger: Where = None,
    json: Json = False,
) -> None:
    """Show one entry with its prompt and answer as far as they were kept, or the latest leaves."""
    with closing(_reader(ledger)) as log:
        if entry is not None:
            reader = _signing_key(key, ask=passphrase) if key else None
            leaves = [_readable(leaf, reader) for leaf in log.entry(entry)]
            emit({"entry": entry, "leaves": leaves}, _lines(leaves), as_json=json)
            return
        size = _size(log)
        leaves = [_readable(leaf, None) for leaf in log.leaves(max(0, size - count), count)]
    rows = ((str(x["place"]), x["kind"], str(x["entry"]), *map(_plain, _brief(x))) for x in leaves)
    emit(
        {"size": size, "leaves": leaves},
        [f"{size} leaves", *table(("leaf", "kind", "entry", "time", "what"), rows)],
        as_json=json,
    )


@app.command("verify")
def verify(
    export: Annotated[
        Path | None, typer.Argument(help="An exported folder; without one: the ledger itself.")
    ] = None,
    against: Annotated[
        list[Path] | None,
        typer.Option(help="A checkpoint kept elsewhere (a note, or a reply's header); repeatable."),
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="The ledger's public key as you know it: a .vkey file.")
    ] = None,
    ledger: Where = None,
    json: Json = False,
) -> None:
    """Check that every leaf is as it was written. Ends with 3 if any is not.

    A cut tail, or a log that was signed anew, shows only against a checkpoint kept elsewhere.
    """
    from freehold.ledger import verifier
    from freehold.ledger.checking import check

    kept = [(str(path), _text(path)) for path in against or []]
    known = None if key is None else _text(Path(key))
    start = time.perf_counter()
    if export is not None:
        try:
            found = verifier.verify_export(export, known, kept)
        except (verifier.Broken, OSError, ValueError) as error:
            raise IntegrityError(f"{export}: {error}") from error
        where = str(export)
    else:
        with closing(_database(ledger)) as database:
            found, where = check(database, key=known, against=kept), database.where
    facts = {
        "ledger": where,
        "leaves": found.size,
        "entries": found.entries,
        "open": sorted(found.open),
        "erasures": found.erasures,
        "root": found.root().hex(),
        "against": [name for name, _ in kept],
        "findings": found.findings,
        "seconds": round(time.perf_counter() - start, 3),
    }
    lines = [f"not as written: {finding}" for finding in found.findings[:50]]
    if not found.findings:
        lines = [
            f"{where}: {found.size} leaves, {found.entries} entries, all as written, "
            f"in {facts['seconds']} s",
            f"{len(found.open)} entries are open (under way, or cut off by a crash)"
            + (f": {', '.join(map(str, sorted(found.open)[:10]))}" if found.open else ""),
        ]
        if not kept:
            lines.append("a cut tail shows only --against a checkpoint kept elsewhere")
    emit(facts, lines, as_json=json)
    if found.findings:
        raise typer.Exit(IntegrityError.exit_code)


@app.command("checkpoint")
def checkpoint(
    add: Annotated[
        Path | None, typer.Option(help="Keep this note, which a witness has cosigned.")
    ] = None,
    ledger: Where = None,
    json: Json = False,
) -> None:
    """Print the latest signed checkpoint: keep it where this machine cannot reach.

    With --add: keep a cosigned one beside the ledger's own, so that exports carry it.
    """
    with closing(_reader(ledger)) as log:
        if add is not None:
            size = log.keep_witnessed(_text(add))
            emit({"kept": size}, [f"kept the cosigned checkpoint of {size} leaves"], as_json=json)
            return
        note, key = log.checkpoint(), str(log.verifier)
    emit({"checkpoint": note, "key": key}, [note.rstrip("\n")], as_json=json)


@app.command("key")
def key_(ledger: Where = None, json: Json = False) -> None:
    """Print the public key that checkpoints are verified with, on one line."""
    with closing(_reader(ledger)) as log:
        line = str(log.verifier)
    emit({"key": line}, [line], as_json=json)


@app.command("prove")
def prove(entry: Number, ledger: Where = None) -> None:
    """Print the proof (JSON) that an entry is in the ledger, for `verify.py --proof`."""
    with closing(_reader(ledger)) as log:
        proof = log.prove(entry)
    emit(proof, [jsonlib.dumps(proof, indent=2)], as_json=True)


@app.command("consistency")
def consistency(
    old: Annotated[Path, typer.Argument(help="A checkpoint kept elsewhere: note or header.")],
    ledger: Where = None,
    json: Json = False,
) -> None:
    """Prove that the ledger still begins with what an old checkpoint covers."""
    from freehold.ledger import merkle, verifier
    from freehold.signing import notes

    with closing(_reader(ledger)) as log:
        first = _checkpoint(_kept(verifier, _text(old)), log)
        proof = log.consistency(first.size)
        second = notes.checkpoint(notes.parse(proof["checkpoint"]))
    hashes = [bytes.fromhex(one) for one in proof["proof"]]
    merkle.check_consistency(first.size, second.size, first.root, second.root, hashes)
    emit(
        proof,
        [f"the ledger of {second.size} leaves begins with the {first.size} of {old}"],
        as_json=json,
    )


@app.command("witness")
def witness(
    name: Annotated[str, typer.Option(help="The witness's name, such as audit.example/ledger.")],
    key: Annotated[str, typer.Option(help="The witness's own Ed25519 signing key, by name.")],
    state: Annotated[
        Path, typer.Option(help="Where the witness keeps what it has seen, away from the server.")
    ],
    ledger: Where = None,
    passphrase: Passphrase = False,
    json: Json = False,
) -> None:
    """Cosign the latest checkpoint, if it goes on from the one seen last.

    Prints the cosigned note, for `checkpoint --add`. A log that was cut or rewritten since is
    refused.
    """
    from freehold.ledger.witness import cosign

    signer = _signing_key(key, ask=passphrase)
    with closing(_reader(ledger)) as log:
        note, verifier = cosign(log, state, name, signer)
    emit({"note": note, "witness": verifier}, [note.rstrip("\n")], as_json=json)
    if not json:
        say(f"the witness's key, for those who verify: {verifier}")


@app.command("export")
def export_(
    target: Annotated[Path, typer.Argument(help="A folder to make, or a file ending in .zip.")],
    ledger: Where = None,
    json: Json = False,
) -> None:
    """Write the whole ledger, its checkpoints, its key and a verifier that needs only Python."""
    from freehold.ledger.export import export

    with closing(_database(ledger)) as database:
        count = export(database, target)
    inside = "verify.py in it" if target.suffix == ".zip" else str(target / "verify.py")
    emit(
        {"target": str(target), "leaves": count},
        [f"{count} leaves in {target}", f"to verify, anywhere: python -I {inside}"],
        as_json=json,
    )


@app.command("erase")
def erase(
    entry: Number,
    reason: Annotated[str, typer.Option(help="Why; recorded in the ledger.")],
    ledger: Where = None,
    json: Json = False,
) -> None:
    """Destroy what was recorded of an entry. Its place in the ledger stays, and says so.

    A running server does it within seconds; without one it is done here.
    """
    from freehold.ledger.erasing import erase_now

    with closing(_reader(ledger)) as log:
        log.entry(entry)
        log.wish(entry, reason)
    try:
        erase_now(_url(ledger), keys_folder())
    except UsageError:
        say("a server writes this ledger: waiting for it to erase")
    deadline = time.monotonic() + _WAIT_SECONDS
    with closing(_reader(ledger)) as log:
        while not log.erased(entry):
            if time.monotonic() > deadline:
                raise LedgerError(
                    f"entry {entry} is not erased yet: the process that writes the ledger will do "
                    "it when it can; look again with `freehold ledger show`"
                )
            time.sleep(0.2)
    emit({"erased": entry}, [f"entry {entry} is erased"], as_json=json)


@app.command("replay")
def replay(
    entry: Annotated[list[int] | None, typer.Argument(help="Entries to ask again.")] = None,
    sample: Annotated[int, typer.Option(min=0, help="Also so many, taken at random.")] = 0,
    at_once: Annotated[int, typer.Option(min=1, help="How many to ask at the same time.")] = 1,
    key: Reader_ = None,
    passphrase: Passphrase = False,
    ledger: Where = None,
    json: Json = False,
) -> None:
    """Ask the model again what an entry asked, and compare token by token.

    Ends with 3 unless every answer is bit-identical. Entries of which only hashes were kept cannot
    be replayed.
    """
    from freehold.cli.replaying import choose, replay_all

    settings = read_settings(root(), ledger=ledger)
    reader = _signing_key(key, ask=passphrase) if key else None
    with closing(_reader(ledger)) as log:
        chosen = choose(log, entry or [], sample)
        entries = [[_readable(leaf, reader) for leaf in log.entry(number)] for number in chosen]
    with Bar(quiet=json) as bar:
        results = replay_all(entries, settings, at_once, bar)
    same = sum(result["identical"] for result in results)
    emit(
        {"replayed": len(results), "identical": same, "results": results},
        [
            *(line for result in results for line in result["lines"]),
            f"{same} of {len(results)} bit-identical",
        ],
        as_json=json,
    )
    if same < len(results):
        raise typer.Exit(IntegrityError.exit_code)


# --- what they share ------------------------------------------------------------------------------


def _url(ledger: str | None) -> Any:
    from freehold.ledger.database import place

    named = read_settings(root(), ledger=ledger).ledger
    if named == "off":
        raise UsageError("the ledger is off: name one with --ledger", param="ledger")
    return place(named, root())


def _database(ledger: str | None) -> Database:
    from freehold.ledger.database import Database

    return Database(_url(ledger), writer=False)


def _reader(ledger: str | None) -> Reader:
    from freehold.ledger.log import Reader

    return Reader(_database(ledger))


def _signing_key(name: str, *, ask: bool) -> SigningKey:
    from freehold.signing import keys

    secret = typer.prompt("passphrase", hide_input=True, err=True) if ask else None
    return keys.load(keys_folder(), name, passphrase=secret)


def _size(log: Reader) -> int:
    from freehold.signing import notes

    try:
        return notes.checkpoint(notes.parse(log.checkpoint())).size
    except NotFoundError:
        return 0


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise NotFoundError(f"{path} cannot be read: {error}", param="path") from error


def _kept(verifier: Any, text: str) -> str:
    try:
        return str(verifier.read_kept(text))
    except verifier.Broken as error:
        raise UsageError(f"the checkpoint: {error}") from error


def _checkpoint(note: str, log: Reader) -> Any:
    from freehold.signing import notes

    parsed = notes.parse(note)
    notes.check(parsed, log.verifier)
    return notes.checkpoint(parsed)


def _readable(leaf: dict[str, Any], reader: SigningKey | None) -> dict[str, Any]:
    """A leaf with its body and what was kept of its content as data; ``reader`` opens sealed."""
    from freehold.ledger.leaves import INFO
    from freehold.signing.sealing import unseal

    body = None if leaf["body"] is None else jsonlib.loads(leaf["body"])
    content = None
    if body is not None and leaf["content"] is not None:
        kept = bytes.fromhex(leaf["content"])
        if body["content"]["policy"] == "sealed":
            content = None if reader is None else jsonlib.loads(unseal(reader, kept, info=INFO))
        else:
            content = jsonlib.loads(kept)
    return {**{k: leaf[k] for k in ("place", "kind", "entry")}, "body": body, "content": content}


def _brief(leaf: dict[str, Any]) -> tuple[str, str]:
    body = leaf["body"]
    if body is None:
        return "", "erased"
    match leaf["kind"]:
        case "open":
            what = f"{body['model']} asked by key {body['key']}"
        case "seal":
            what = f"{body['ending']}, {body['completion_tokens']} tokens"
        case "erase":
            what = body["reason"]
        case _:
            what = _noted(body["what"], body["detail"])
    return body["time"], what


def _noted(what: str, detail: dict[str, Any]) -> str:
    """A leaf about the server itself, in words."""
    if what != "refused":
        return what
    times = "once" if detail["count"] == 1 else f"{detail['count']} times"
    return f"{detail['process']} was refused {detail['call']} {times}: {detail['what']}"


def _lines(leaves: list[dict[str, Any]]) -> list[str]:
    lines = []
    for leaf in leaves:
        lines.append(f"leaf {leaf['place']}: {leaf['kind']}")
        if leaf["body"] is None:
            lines.append("  erased")
            continue
        lines += [f"  {key}: {_plain(value)}" for key, value in leaf["body"].items() if key != "v"]
        lines += [f"  {key}: {_plain(value)}" for key, value in (leaf["content"] or {}).items()]
    return lines


def _plain(value: object) -> str:
    """Text for a terminal: what a client or an attacker wrote steers it no more than words do."""
    text = value if isinstance(value, str) else jsonlib.dumps(value, ensure_ascii=False)
    return "".join(c if c.isprintable() else "?" for c in text)
