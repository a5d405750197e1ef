"""The unit, the container file and the dashboard."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from prometheus_client.parser import text_string_to_metric_families

from freehold.serve.metrics import Meter, Metrics, Moment
from freehold.types import EngineStats

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
UNIT = DEPLOY / "systemd" / "freehold.service"
_WORDS = re.compile(r"\b(?:freehold|process)_[a-z_]+\b")


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, check=False, capture_output=True, text=True)


# --- systemd --------------------------------------------------------------------------------------


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    here = tmp_path / UNIT.name
    here.write_text(UNIT.read_text().replace("/opt/freehold/bin/freehold", sys.executable))
    checked = run("systemd-analyze", "verify", "--man=no", str(here))
    assert (checked.returncode, checked.stderr) == (0, "")
    judged = run("systemd-analyze", "security", "--offline=true", "--threshold=45", str(here))
    assert judged.returncode == 0, judged.stdout[-400:]


def test_the_unit_leaves_refusals_to_be_written_down() -> None:
    """What systemd's filters refuse, the watchman never sees."""
    keys = {line.partition("=")[0] for line in UNIT.read_text().splitlines()}
    assert not keys & {"SystemCallFilter", "RestrictAddressFamilies", "RestrictNamespaces"}
    assert {"NoNewPrivileges", "ProtectSystem", "CapabilityBoundingSet", "IPAddressDeny"} <= keys


# --- container ------------------------------------------------------------------------------------


def test_the_container_file_is_clean() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if hadolint is None:
        pytest.skip("needs hadolint")
    done = run(hadolint, "--failure-threshold", "info", str(DEPLOY / "container/Containerfile"))
    assert (done.returncode, done.stdout) == (0, "")


def test_what_the_container_copies_is_there() -> None:
    text = (DEPLOY / "container/Containerfile").read_text()
    for line in re.findall(r"^COPY ((?!--from)[^\n]+) \S+$", text, re.MULTILINE):
        for name in line.split():
            assert (DEPLOY.parent / name).exists(), name


# --- the dashboard --------------------------------------------------------------------------------


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "freehold_dashboard", DEPLOY / "grafana" / "generate.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def samples() -> dict[str, set[str]]:
    """The labels of every sample that a counter gives, by its name."""
    metrics = Metrics()
    metrics.serves("m", "sha256:00", "native")
    meter = Meter(metrics, "m")
    metrics.request("/health", "GET", 200, 0.1)
    metrics.refused("server_busy")
    for histogram in (metrics.opening, metrics.sealing, meter.first, meter.between, meter.prefill):
        histogram.observe(0.1)
    stats = EngineStats(running=0, waiting=0, pages_total=1, pages_free=1, pages_cached=0)
    told = {
        "processes": [{"kernel": True}],
        "recording": True,
        "attempts_by": {"engine": {"socket": 1}},
    }
    page = metrics.page(Moment(engines=[("m", stats)], residency=told)).decode()
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(page):
        assert family.documentation, family.name
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def test_names_are_as_prometheus_wants_them(samples: dict[str, set[str]]) -> None:
    """Base units, ``_total`` on counters and on nothing else, one prefix."""
    metrics = Metrics()
    for family in text_string_to_metric_families(metrics.page(Moment()).decode()):
        for sample in family.samples:
            if sample.name.endswith("_total"):
                assert family.type == "counter", sample.name
            if family.type == "counter" and not sample.name.endswith("_created"):
                assert sample.name.endswith("_total"), sample.name
        assert not re.search(r"_(ms|millis|minutes|percent|kb|mb)(_|$)", family.name)
        assert family.name.startswith(("freehold_", "process_")), family.name
    assert {"freehold_requests_inside", "process_cpu_seconds_total"} <= samples.keys()


def test_the_dashboard_is_fresh() -> None:
    generator = _generator()
    assert generator.TARGET.read_text() == generator.written(), (
        "run python deploy/grafana/generate.py"
    )


def test_every_query_names_what_there_is(samples: dict[str, set[str]]) -> None:
    dashboard = json.loads((DEPLOY / "grafana" / "freehold.json").read_text())
    queries = [t["expr"] for panel in dashboard["panels"] for t in panel.get("targets", [])]
    assert len(queries) > 30
    for query in queries:
        names = _WORDS.findall(query)
        assert names
        assert set(names) <= samples.keys(), query
        labels = {label for name in names for label in samples[name]} | {"job", "instance"}
        for by in re.findall(r"by \(([^)]*)\)", query):
            assert {one.strip() for one in by.split(",")} <= labels, query
        assert query.count("(") == query.count(")")
    shown = {name for query in queries for name in _WORDS.findall(query)}
    unseen = {
        name for name in samples
        if name.startswith("freehold_")
        and not name.endswith(("_created", "_sum", "_count", "_bucket"))
    } - shown  # fmt: skip
    assert unseen == set()


def test_panels_do_not_overlap() -> None:
    panels = json.loads((DEPLOY / "grafana" / "freehold.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"])
                 for y in range(at["y"], at["y"] + at["h"])}  # fmt: skip
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
