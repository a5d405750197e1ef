"""``freehold residency``: what is shut, who tried, and the proof that nothing gets out."""

from __future__ import annotations

import json as jsons
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from freehold.cli.output import emit, say, table
from freehold.cli.places import keys_folder, residency_folder, root
from freehold.cli.settings import read_settings
from freehold.errors import FreeholdError, IntegrityError

app = typer.Typer(
    help="Show and prove that nothing leaves this machine.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
RENDERER = "freehold.qwen.template:ChatTemplate"
PAYLOAD_TYPE = "application/vnd.freehold.residency-proof+json"


@app.command("status")
def status(json: Json = False) -> None:
    """What is shut in each running server's processes, and how many attempts were refused."""
    from freehold.residency.watching import public, running

    found = [public(state, watched=True) for _, state in running(residency_folder())]
    emit(found, _status_lines(found), as_json=json)


def _status_lines(found: list[dict[str, Any]]) -> list[str]:
    if not found:
        return ["no locked server runs here (one started with --no-lock is not listed)"]
    lines = []
    for one in found:
        lines.append(f"{one['residency']} (Landlock ABI {one['landlock_abi']})")
        rows = [
            (
                process["role"],
                str(process["pid"]),
                ", ".join(process["files"]) or "open",
                process["calls"] or "open",
                _kernel_says(process["pid"]),
                str(sum(one["attempts_by"].get(process["role"], {}).values())),
            )
            for process in one["processes"]
        ]
        lines += table(("process", "pid", "shut", "calls", "filter", "attempts"), rows)
        known = one["in_ledger"]
        lines.append(
            f"{one['attempts']} attempts, "
            + ("recorded in no ledger" if known is None else f"{known} of them in the ledger")
        )
    return [*lines, f"attempts are written to {residency_folder() / 'attempts.jsonl'}"]


def _kernel_says(pid: int) -> str:
    """What the kernel itself says of a process's filter."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "gone"
    words = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return "in force" if words.get("Seccomp", "").strip() == "2" else "none"


@app.command("prove")
def prove(
    model: Annotated[
        str | None, typer.Argument(help="A model in the vault. Without one: the default model.")
    ] = None,
    output: Annotated[
        Path, typer.Option(help="Folder for the report and the capture, made if need be.")
    ] = Path("residency-proof"),
    key: Annotated[
        str | None, typer.Option(help="The signing key; without one, the only one there is.")
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="What the attacked server answers with [freehold].")
    ] = None,
    no_lock: Annotated[
        bool, typer.Option("--no-lock", help="Attack an unlocked server: the proof must fail.")
    ] = False,
    json: Json = False,
) -> None:
    """Attack a server from inside each of its processes, and capture what gets out.

    Starts a server of its own in a network namespace with one wire. Needs Linux, root or user
    namespaces, and iproute2. Exit code 0 only if every attempt was blocked and no packet left.
    """
    from freehold.residency.prove import prove as attack
    from freehold.signing import dsse, keys
    from freehold.store import Store

    settings = read_settings(root(), model=model)
    Store(root()).manifest(settings.model)
    name = _signer(key)
    output.mkdir(parents=True, exist_ok=True)
    capture = output / "capture.pcap"
    told = (lambda line: None) if json else say
    report = attack(
        settings.model,
        root(),
        capture=capture,
        renderer=RENDERER,
        noted=_noted,
        locked=not no_lock,
        engine=engine,
        say=told,
    )
    payload = jsons.dumps(report, indent=1).encode()
    path = output / "report.json"
    path.write_bytes(payload)
    if name is not None:
        path = output / "report.dsse.json"
        envelope = dsse.sign(PAYLOAD_TYPE, payload, keys.load(keys_folder(), name))
        path.write_bytes(dsse.encode(envelope))
    emit(report, _proof_lines(report, path, name), as_json=json)
    if not report["held"]:
        raise typer.Exit(FreeholdError.exit_code)


def _noted(ledger: Path) -> int:
    """How many refused calls the ledger in a file knows of, if it is as it was written."""
    from freehold.ledger.attempts import REFUSED
    from freehold.ledger.checking import check
    from freehold.ledger.database import Database, place
    from freehold.ledger.log import Reader

    database = Database(place(str(ledger), root()), writer=False)
    with closing(database):
        if findings := check(database).findings:
            raise IntegrityError(f"the attacked server's ledger: {findings[0]}")
        notes = [leaf for leaf in Reader(database).leaves(0, 1 << 20) if leaf["kind"] == "note"]
    bodies = [jsons.loads(leaf["body"]) for leaf in notes]
    return sum(body["detail"]["count"] for body in bodies if body["what"] == REFUSED)


def _signer(key: str | None) -> str | None:
    from freehold.signing import keys

    if key is not None:
        keys.load(keys_folder(), key)  # before minutes of work
        return key
    there = [name for name in keys.names(keys_folder()) if name != "ledger"]
    return there[0] if len(there) == 1 else None


def _proof_lines(report: dict[str, Any], path: Path, key: str | None) -> list[str]:
    out = [one for one in report["attempts"] if one["outcome"] == "out"]
    lines = [f"{one['process']}: {one['what']}: got out ({one['how']})" for one in out]
    lines += [
        f"{report['kinds']} kinds of attempt, {report['attempts_made']} attempts, "
        f"{report['attempts_blocked']} blocked, {report['packets_out']} packets out",
        f"{report['attempts_recorded']} refusals recorded, {report['attempts_in_ledger']} of them "
        "in the ledger",
        "held: nothing got out" if report["held"] else "NOT HELD",
        f"report: {path}" + (f", signed by {key}" if key else ""),
    ]
    if key is None:
        lines.append(
            "not signed: make a key with `freehold signer create NAME`, or name one: --key"
        )
    return lines
