"""``docs/clients.md`` is what the recorded results make, of the versions that are pinned."""

from __future__ import annotations

import json
import re

import pytest

from tests.clients.page import CLIENTS, ENGINES, FEATURES, HERE, PAGE, load, page


def test_the_page_is_the_one_that_the_results_make() -> None:
    assert PAGE.read_text() == page(load()), "run `make clients`"


@pytest.mark.parametrize("engine", ENGINES)
def test_every_client_was_tried_and_could_do_everything(engine: str) -> None:
    found = load()[engine]["clients"]
    assert found.keys() == {client.name for client in CLIENTS}
    for name, one in found.items():
        assert all(one[feature] for feature in FEATURES), name
        assert one["calls"], name


@pytest.mark.parametrize("engine", ENGINES)
def test_the_versions_told_are_the_versions_pinned(engine: str) -> None:
    for name, one in load()[engine]["clients"].items():
        if name == "node":
            lock = json.loads((HERE / "node" / "package-lock.json").read_text())
            assert one["version"] == lock["packages"]["node_modules/openai"]["version"]
            continue
        package = next(client.package for client in CLIENTS if client.name == name)
        pins = (HERE / "pins" / f"{name}.txt").read_text()
        pinned = re.search(rf"(?mi)^{package}==(\S+)$", pins)
        assert pinned is not None, name
        assert one["version"] == pinned[1]


def test_nothing_pinned_names_an_address() -> None:
    for file in [*(HERE / "pins").glob("*.txt"), HERE / "node" / "package-lock.json"]:
        assert "://" not in file.read_text(), file.name
