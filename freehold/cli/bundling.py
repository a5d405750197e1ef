"""``freehold bundle``: everything in one folder, for a machine behind an air gap."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from freehold.cli.output import emit, say, size
from freehold.cli.passphrases import PassphraseFd, signing_key
from freehold.cli.places import root
from freehold.cli.settings import read_settings
from freehold.cli.trust import trusted
from freehold.errors import NotFoundError, SignatureError, UsageError

if TYPE_CHECKING:
    from freehold.signing.keys import SigningKey

PAYLOAD_TYPE = "application/vnd.freehold.bundle+sha256sums"

_INSTALL = """#!/bin/sh
# Installs Freehold and its models from this folder. Needs Python {python} and no network.
#
#   sh install.sh [FOLDER]        FOLDER: where the program goes, ~/freehold without one
#
# Models, keys, ledger and passports lie elsewhere (see `freehold bundle --help`), and are kept.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
to=${{1:-$HOME/freehold}}
python=${{PYTHON:-python3}}
"$python" -I -c 'import sys; sys.exit(sys.version_info[:2] != ({version}))' || {{
  echo "this bundle needs Python {python}: name one, PYTHON=/path/to/python{python}" >&2; exit 2; }}
"$python" -I "$here/check.py" "$here" || {{
  echo "the bundle is not as it was packed: nothing was installed" >&2; exit 3; }}
"$python" -m venv --without-pip --upgrade "$to" 2>/dev/null || "$python" -m venv --without-pip "$to"
for pip in "$here"/wheels/pip-*.whl; do :; done
"$to/bin/python" -I "$pip/pip" --disable-pip-version-check --quiet \\
  install --no-index --find-links "$here/wheels" --force-reinstall --no-deps "$here"/wheels/*.whl
"$to/bin/freehold" bundle --install "$here"
echo "Freehold is in $to: start it with $to/bin/freehold serve --temporary-key" >&2
"""
_README = """Freehold {version} for {machine}, Python {python}

sh install.sh [FOLDER]     installs the program and the models, without any network
python3 -I check.py        says whether a file is changed, missing or added
SHA256SUMS                 digests of all files; SHA256SUMS.dsse.json, if there, is its signature
"""


def bundle(
    folder: Annotated[Path, typer.Argument(help="The folder to make, check or install from.")],
    models: Annotated[
        list[str] | None, typer.Argument(help="Models to take. Without one: the default model.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Name what is changed, missing or added.")
    ] = False,
    install: Annotated[
        bool, typer.Option("--install", help="Admit the bundle's models into the vault here.")
    ] = False,
    key: Annotated[str | None, typer.Option(help="Sign the list of files with this key.")] = None,
    passphrase_fd: PassphraseFd = None,
    public_key: Annotated[
        Path | None,
        typer.Option(
            help="With --check or --install: whose signature the list of files must have, PEM."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Make one folder with wheels, models, passports, digests and an install script.

    For machines of this kind behind an air gap: they need Python of the same version, and neither
    network, compiler nor package index.
    """
    from freehold.store import Store
    from freehold.store import bundle as bundles

    reading = check or install
    if (check and install) or (reading and (models or key)) or (public_key and not reading):
        raise UsageError(
            "--check and --install each stand alone with the bundle's folder, and take --public-key"
        )
    if public_key is not None:
        _check_signature(folder, public_key)
    if check:
        bundles.check(folder)
        emit(
            {"bundle": str(folder), "whole": True}, [f"{folder} is as it was packed"], as_json=json
        )
    elif install:
        names = bundles.install_models(Store(root()), folder, trusted(read_settings(root())), say)
        emit(
            {"installed": names}, [f"in the vault: {', '.join(names) or 'no model'}"], as_json=json
        )
    else:
        signer = signing_key(key, passphrase_fd) if key is not None else None
        _make(folder, models or [read_settings(root()).model], signer)
        total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        line = f"{folder}: {size(total)}; carry it over and run `sh install.sh` there"
        emit({"bundle": str(folder), "bytes": total}, [line], as_json=json)


def _make(folder: Path, models: list[str], signer: SigningKey | None) -> None:
    from freehold import __version__
    from freehold.cli.wheels import closure, repack
    from freehold.signing import dsse
    from freehold.store import Store, checklist
    from freehold.store import bundle as bundles
    from freehold.store.digest import sync_directory
    from freehold.store.vault import disk_errors

    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty: name a new folder", param="folder")
    store = Store(root())
    for name in models:
        store.manifest(name)
    # Under another name until it is whole: half a bundle is not mistaken for one.
    with disk_errors(folder.parent, "No bundle was made."):
        part = Path(tempfile.mkdtemp(dir=folder.absolute().parent, prefix=f".{folder.name}-"))
        part.chmod(0o755)
    try:
        (part / "wheels").mkdir(parents=True)
        say("packing the program")
        for one in closure():
            repack(one, part / "wheels")
        bundles.pack_models(store, models, part, say)
        facts = {
            "version": __version__,
            "python": f"{sys.version_info[0]}.{sys.version_info[1]}",
            "machine": f"{platform.system()} {platform.machine()}",
        }
        version = ", ".join(map(str, sys.version_info[:2]))
        script = _INSTALL.format(python=facts["python"], version=version)
        (part / "install.sh").write_text(script, encoding="utf-8")
        (part / "install.sh").chmod(0o755)
        (part / "README.txt").write_text(_README.format(**facts), encoding="utf-8")
        shutil.copyfile(str(checklist.__file__), part / "check.py")
        data = bundles.seal(part)
        if signer is not None:
            sealed = dsse.encode(dsse.sign(PAYLOAD_TYPE, data, signer))
            with (part / checklist.SEAL).open("wb") as file:
                file.write(sealed)
                file.flush()
                os.fsync(file.fileno())
        if folder.exists():
            folder.rmdir()
        part.rename(folder)
        sync_directory(folder.absolute().parent)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _check_signature(folder: Path, public_key: Path) -> None:
    """Return if the list of files is signed by the key. Raises ``SignatureError``,
    ``NotFoundError``, ``MalformedError``."""
    from freehold.signing import dsse, keys
    from freehold.store import checklist

    try:
        sealed, listed = ((folder / name).read_bytes() for name in (checklist.SEAL, checklist.LIST))
    except OSError as error:
        raise NotFoundError(
            f"{folder} is not signed: its {checklist.LIST} or {checklist.SEAL} cannot be read "
            f"({error.strerror})",
            param="public_key",
        ) from None
    envelope = dsse.decode(sealed, file=checklist.SEAL)
    if (envelope.payload_type, envelope.payload) != (PAYLOAD_TYPE, listed):
        raise SignatureError("the envelope signs something else than this list of files")
    if not dsse.signers(envelope, {"given": keys.load_public(public_key)}):
        raise SignatureError(f"{folder} is not signed by the key in {public_key}")
