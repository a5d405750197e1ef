"""``freehold audit``: what a model is, by what was tried, found and missed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from freehold.cli.home import at_home, existing
from freehold.cli.output import Bar, emit, one_line, say, write_over
from freehold.cli.passphrases import PassphraseFd, signing_key
from freehold.cli.places import pack_secret, root
from freehold.cli.settings import read_settings
from freehold.cli.trust import trusted
from freehold.errors import StorageError, UsageError

if TYPE_CHECKING:
    from freehold.audit.report import Report
    from freehold.audit.running import Context, Done, Part
    from freehold.audit.specimen import Specimen
    from freehold.cli.settings import Settings
    from freehold.signing.keys import SigningKey
    from freehold.store import Store
    from freehold.store.passport import Entry


def audit(
    model: Annotated[
        str,
        typer.Argument(help="A model in the vault, or a folder or file that need not be sound."),
    ],
    against: Annotated[
        str | None, typer.Option(help="What it is said to be made from: a model, folder or file.")
    ] = None,
    part: Annotated[
        list[str] | None,
        typer.Option("--part", help="Only this part; may be repeated [all that need no naming]."),
    ] = None,
    probes: Annotated[
        Path | None,
        typer.Option(
            help="Your own probes (JSON lines), or a folder of public sets: adds the part leanings."
        ),
    ] = None,
    canaries: Annotated[
        Path | None,
        typer.Option(help="Canaries and documents (JSON lines): adds the part memory."),
    ] = None,
    sample: Annotated[
        int | None, typer.Option(min=4, help="Rows of each public set that are asked [12].")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="A folder for report.html and report.json [in the vault].")
    ] = None,
    sign: Annotated[
        str | None,
        typer.Option("--sign", help="Sign the findings into the passport with this key."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of what is drawn at random.")] = 0,
    again: Annotated[
        bool, typer.Option("--again", help="Do parts that are done already once more.")
    ] = False,
    passphrase_fd: PassphraseFd = None,
    no_lock: Annotated[bool, typer.Option("--no-lock", help="Leave every way out open.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Examine a model and write a report: what was tried, what was found, and what would have been
    missed.

    Finished parts are kept and not done again. Exit code 0 says that the report was written, not
    that nothing was found: the gate judges (`freehold passport`).
    """
    settings = read_settings(root(), residency="off" if no_lock else None)
    asks = _Asks(probes, canaries, sample)
    job = _Job(settings, model, against, asks.parts(tuple(part or ())), seed, again, asks)
    key = None if sign is None else job.signer(sign, passphrase_fd)
    with at_home(
        settings, "front", read=job.reads(), write=(*job.writes(output), *_passports(key))
    ) as home:
        home.shut_files()
        home.shut_calls()
        report, done = job.run(quiet=json)
        written = _write(report, output or job.folder)
        if key is not None:
            _sign(job.specimen, report, written, key, trusted(settings))
    emit({**report.facts(), "written": {k: str(v) for k, v in written.items()}}, _told(report, done, written), as_json=json)  # fmt: skip  # noqa: E501


@dataclass(frozen=True)
class _Asks:
    """What the parts that ask the model are given."""

    probes: Path | None
    canaries: Path | None
    sample: int | None

    def parts(self, named: tuple[str, ...]) -> tuple[str, ...]:
        """With those that the options ask for. Where no part is named, beside all the others."""
        more = [("leanings", self.probes), ("memory", self.canaries)]
        asked = tuple(name for name, given in more if given is not None and name not in named)
        if asked and not named:
            from freehold.audit import parts

            named = tuple(part.name for part in parts.PARTS if not part.opt_in)
        return (*named, *asked)

    def reads(self) -> list[str]:
        return [str(one.resolve()) for one in (self.probes, self.canaries) if one is not None]

    def words(self) -> list[str]:
        """As the command line says them."""
        named = (("probes", self.probes), ("canaries", self.canaries), ("sample", self.sample))
        return [f"--{name} {value}" for name, value in named if value is not None]


class _Job:
    """One audit. What it reads and writes is known before the lock; the work comes after it."""

    def __init__(
        self,
        settings: Settings,
        model: str,
        against: str | None,
        parts: tuple[str, ...],
        seed: int,
        again: bool,
        asks: _Asks,
    ) -> None:
        from freehold.store import Store

        self._settings, self._model, self._against = settings, model, against
        self._parts, self._seed, self._again = parts, seed, again
        self._asks = asks
        self._store: Store = Store(root())
        self._audits = root() / "audits"
        self.folder = self._audits
        self.specimen: Specimen

    def signer(self, name: str, descriptor: int | None) -> SigningKey:
        """The key, for a model that has a passport to sign into."""
        if self._model not in self._store.names():
            raise UsageError(
                f"{self._model} is not in the vault, so it has no passport to sign into: "
                "`freehold pull` it first, or leave --sign out",
                param="sign",
            )
        return signing_key(name, descriptor)

    def reads(self) -> tuple[str, ...]:
        """Folders and files outside the vault."""
        given = [one for one in (self._model, self._against) if one is not None]
        held = self._store.names()
        named = [str(Path(one).expanduser().resolve()) for one in given if one not in held]
        return (*named, *self._asks.reads())

    def writes(self, output: Path | None) -> tuple[str, ...]:
        """Folders to write in, made now: a locked process makes none elsewhere."""
        folders = [self._audits] + ([] if output is None else [output])
        for folder in folders:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StorageError(f"{folder} cannot be made: {error.strerror}") from error
        return tuple(str(folder.resolve()) for folder in folders)

    def run(self, *, quiet: bool) -> tuple[Report, list[Done]]:
        from freehold.audit import parts, running
        from freehold.audit.specimen import read
        from freehold.store import Packs

        chosen = running.chosen(parts.PARTS, self._parts, with_base=self._against is not None)
        with Bar(quiet=quiet, of_bytes=False) as bar:
            bar.start(1 if self._against is None else 2, "Reading and digesting")
            self.specimen = read(self._store, self._model)
            bar.advance(1)
            base = None if self._against is None else read(self._store, self._against)
            bar.close()
            context = running.Context(
                store=self._store,
                specimen=self.specimen,
                base=base,
                candidates=self._candidates(),
                entries=tuple(self._entries()),
                seed=self._seed,
                packs=Packs(self._store, pack_secret()),
                steps=bar,
                probes=self._asks.probes,
                canaries=self._asks.canaries,
                sample=self._asks.sample,
            )
            self.folder = self._audits / running.key_of(self.specimen, base)
            work = running.Work(self.folder, context)
            if self._again:
                work.forget()
            if not quiet:
                _foretell(chosen, context, work)
            done = running.run(chosen, context, work)
        return self._report(context, done), done

    def _candidates(self) -> tuple[str, ...]:
        return tuple(
            held.name
            for held in self._store.list()
            if held.name not in (self._model, self._against) and not held.adapter
        )

    def _entries(self) -> Sequence[Entry]:
        from freehold.store import passport

        if self.specimen.manifest is None:
            return ()
        return passport.read(self._store, self.specimen.digest, trusted(self._settings))

    def _report(self, context: Context, done: Sequence[Done]) -> Report:
        from freehold import __version__
        from freehold.audit.report import Report
        from freehold.audit.running import versions
        from freehold.store.statements import now

        base = context.base
        words = ["freehold audit", self._model]
        words += [] if self._against is None else ["--against", self._against]
        words += [f"--part {name}" for name in self._parts]
        words += [f"--seed {self._seed}"] if self._seed else []
        words += self._asks.words()
        return Report(
            model=context.specimen.name,
            digest=context.specimen.digest,
            base="" if base is None else base.name,
            base_digest="" if base is None else base.digest,
            made=now(),
            tool=f"freehold {__version__}",
            command=" ".join(words),
            examinations=tuple(one.examination for one in done),
            versions=versions(),
        )


def _foretell(chosen: Sequence[Part], context: Context, work: Any) -> None:
    """What it will cost, before it starts."""
    told = [
        f"{part.title.lower()} (kept from before)"
        if work.kept(part) is not None
        else f"{part.title.lower()} (about {part.cost(context):,.0f} s)"
        for part in chosen
    ]
    say(f"{len(chosen)} parts on one core: {', '.join(told)}. Ctrl-C keeps those that are done.")


def _write(report: Report, folder: Path) -> dict[str, Path]:
    from freehold.audit.report.page import page

    written = {"html": folder / "report.html", "json": folder / "report.json"}
    write_over(written["html"], page(report))
    write_over(written["json"], report.dumps())
    return written


def _passports(key: SigningKey | None) -> tuple[str, ...]:
    """What is written when findings are signed."""
    if key is None:
        return ()
    folder = root() / "passports"
    folder.mkdir(parents=True, exist_ok=True)
    return (str(folder), existing(root() / "locks" / "store"))


def _sign(
    specimen: Specimen, report: Report, written: dict[str, Path], key: SigningKey, trust: Any
) -> None:
    from freehold.audit import stating
    from freehold.store import Store, passport, statements

    manifest = specimen.manifest
    assert manifest is not None, "a key is taken for a model of the vault only"
    digest = hashlib.sha256(written["json"].read_bytes()).hexdigest()
    envelopes = [
        statements.about(
            manifest.name, manifest.digest, stating.said(one, "report.json", digest), key
        )
        for one in report.examinations
    ]
    passport.append(Store(root()), manifest.digest, envelopes, trust)
    say(f"signed {len(envelopes)} statements into the passport of {manifest.name}")


def _told(report: Report, done: Sequence[Done], written: dict[str, Path]) -> list[str]:
    from freehold.audit import rates
    from freehold.audit.report import verdict

    lines = [f"{report.model}  {report.digest}", verdict(report), ""]
    for part, finding in report.findings():
        where = f"  ({one_line(finding.where)})" if finding.where else ""
        lines.append(f"{finding.severity:<9}{finding.title}{where}")
        lines.append(f"         {one_line(finding.detail)}")
        known = rates.for_check(part.rates, finding.check)
        if known is not None and finding.severity != "info":
            lines.append(
                f"         {finding.check}: found {known.found} of {known.planted} planted, "
                f"{known.alarms} false alarms on {known.clean}"
            )
    for each in done:
        one = each.examination
        how = "kept" if each.kept else f"{one.seconds:.1f} s"
        lines += ["", f"{one.title} ({how})", f"  tried: {one.tried}", f"  missed: {one.misses}"]
    return [*lines, "", f"report: {written['html']}", f"        {written['json']}"]
