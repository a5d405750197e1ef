"""Write the generated parts of docs/: ``docs/cli.md`` from the commands' own help,
and ``docs/configuration.md`` from the settings' own descriptions.

    python docs/generate.py

A test compares the files with what this would write, so a stale page fails the suite.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import typer
from typer.testing import CliRunner

from freehold.cli.main import app
from freehold.cli.settings import Settings, is_table, table_of

HERE = Path(__file__).resolve().parent
INTRO = """# The command line

Generated from the commands' own `--help` by `make docs`.

Results go to standard output, everything else to standard error; `--json` turns a result, and also
an error, into one JSON document. Settings come from the command line, else from `freehold.toml`
(see [configuration](configuration.md)), else from the defaults.
"""


def commands(group: typer.core.TyperGroup, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every command's words, groups before their members."""
    found = [path]
    for name, command in group.commands.items():
        if isinstance(command, typer.core.TyperGroup):
            found += commands(command, (*path, name))
        else:
            found.append((*path, name))
    return found


def cli_page() -> str:
    """``docs/cli.md``, whole."""
    root = typer.main.get_command(app)
    if not isinstance(root, typer.core.TyperGroup):
        raise TypeError("freehold is a group of commands")
    parts = [INTRO]
    for words in commands(root):
        result = CliRunner().invoke(
            app, [*words, "--help"], prog_name="freehold", env={"COLUMNS": "88", "TERM": "dumb"}
        )
        text = "\n".join(line.rstrip() for line in result.output.strip().splitlines())
        parts.append(f"## {' '.join(('freehold', *words))}\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


CONFIGURATION = """# Configuration

Generated from the settings' own descriptions by `make docs`.

Freehold keeps everything under one folder: `$FREEHOLD_HOME`, else `freehold` in your user data
folder (`$XDG_DATA_HOME`, else `~/.local/share`). The owner's file is `freehold.toml` in that
folder, or the file that `$FREEHOLD_CONFIG` names. There need not be one. A key that is not in this
table is an error, and a command-line option goes before the file. Signing keys lie elsewhere: in
`$FREEHOLD_KEYS`, else in `freehold/keys` in your configuration folder (`$XDG_CONFIG_HOME`, else
`~/.config`).

| key | default | meaning |
|---|---|---|
"""


TABLE = """
{which}:

| key | default | meaning |
|---|---|---|
"""


def configuration_page() -> str:
    """``docs/configuration.md``, whole."""
    keys = dataclasses.fields(Settings)
    tables: dict[type, list[str]] = {}
    for key in filter(is_table, keys):
        tables.setdefault(table_of(key), []).append(f"`[{key.name}]`, {key.metadata['help']}")
    pages = [CONFIGURATION, *(row(key) for key in keys if not is_table(key)), "\n## Tables\n"]
    for kind, which in tables.items():
        pages += [TABLE.format(which="; ".join(which)), *map(row, dataclasses.fields(kind))]
    return "".join(pages)


def row(key: dataclasses.Field[object]) -> str:
    """One key of a table of settings."""
    return f"| `{key.name}` | `{json.dumps(key.default)}` | {key.metadata['help']} |\n"


PAGES = {"cli.md": cli_page, "configuration.md": configuration_page}

if __name__ == "__main__":
    for name, write in PAGES.items():
        (HERE / name).write_text(write(), encoding="utf-8")
