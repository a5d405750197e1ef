"""The hall: every command of ``freehold``, parsed here and done elsewhere.

Only this room knows all the others. Heavy imports stay inside the functions that need them, so
that ``freehold --help`` answers at once.
"""

from __future__ import annotations

import sys

import typer

from freehold import __version__
from freehold.cli import (
    adapters,
    adapting,
    benching,
    bundling,
    checking,
    converting,
    evaluating,
    foundry,
    guarding,
    inspecting,
    keys,
    laboratory,
    ledger,
    models,
    openness,
    packing,
    passports,
    probing,
    residency,
    reviewing,
    serving,
    signers,
    talking,
    tracing,
    watching,
)
from freehold.cli.output import fail
from freehold.errors import FreeholdError

app = typer.Typer(
    name="freehold",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)

app.command("pull")(models.pull)
app.command("list")(models.list_models)
app.command("show")(models.show)
app.command("template")(models.template)
app.command("verify")(checking.verify)
app.command("sign")(checking.sign)
app.command("openness")(openness.openness)
app.command("rm")(models.remove)
app.command("pack")(packing.pack)
app.command("convert")(converting.convert)
app.command("serve")(serving.serve)
app.command("chat")(talking.chat)
app.command("bench")(benching.bench)
app.command("eval")(evaluating.evaluate)
app.command("inspect")(inspecting.inspect)
app.command("bundle")(bundling.bundle)
app.command("train")(foundry.train)
app.command("reproduce")(foundry.reproduce)
app.add_typer(foundry.data, name="data")
app.add_typer(adapting.app, name="adapt")
app.add_typer(adapters.app, name="adapters")
app.add_typer(guarding.app, name="guard")
app.add_typer(passports.app, name="passport")
app.add_typer(keys.app, name="keys")
app.add_typer(ledger.app, name="ledger")
app.add_typer(signers.app, name="signer")
app.add_typer(residency.app, name="residency")
app.add_typer(laboratory.app, name="audit")
foundry.data.command("index")(tracing.index)
foundry.data.command("trace")(tracing.trace)
guarding.app.add_typer(reviewing.app, name="review")
guarding.app.command("policies")(watching.policies)
guarding.app.command("probe")(probing.probe)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"freehold {__version__}")
        raise typer.Exit


@app.callback()
def hall(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    """Run open-weight Qwen models on hardware you own.

    Exit codes: 0 done, 1 failed, 2 wrong request, 3 bytes are not what they must be, 4 no source
    could deliver, 5 disk, 6 busy, 7 engine failed, 8 refused by the gate, 130 interrupted.
    """


def main() -> None:
    """Entry point of the ``freehold`` command."""
    try:
        app()
    except FreeholdError as error:
        sys.exit(fail(error, as_json="--json" in sys.argv))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader of a pipe (head, less) left: nobody is there to tell. The descriptor is
        # replaced so that the interpreter's own flush at exit does not fail again.
        import os

        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
