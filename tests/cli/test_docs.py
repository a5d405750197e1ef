"""The generated pages say what the commands and settings say today."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from freehold.cli.main import app

DOCS = Path(__file__).resolve().parents[2] / "docs"


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["cli.md", "configuration.md"])
def test_generated_page_is_current(page: str) -> None:
    current = (DOCS / page).read_text(encoding="utf-8")
    assert current == generator().PAGES[page](), "stale: run `make docs`"


PAGES = [*DOCS.rglob("*.md"), *DOCS.parent.glob("*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_named_in_the_pages_exist(page: Path) -> None:
    known = {command.name for command in app.registered_commands} | {
        group.name for group in app.registered_groups
    }
    text = page.read_text(encoding="utf-8")
    shown = re.findall(r"`freehold ([a-z]+)|^freehold ([a-z]+)", text, re.MULTILINE)
    for word in ("".join(pair) for pair in shown):
        assert word in known, f"{page.name} names `freehold {word}`"


def test_every_room_has_a_page_in_the_index() -> None:
    house = DOCS.parent / "freehold"
    rooms = {path.parent.name for path in house.glob("*/__init__.py")}
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    assert {room for room in rooms if f"| `{room}` |" not in index} == set()
