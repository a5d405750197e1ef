"""Write the dashboard ``freehold.json`` beside this file.

    python deploy/grafana/generate.py

A test compares the file with what this would write, and every query with the metrics there are.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TARGET = Path(__file__).with_name("freehold.json")
SOURCE = {"type": "prometheus", "uid": "${source}"}
WHERE = 'job=~"$job",instance=~"$instance"'
RATE = "$__rate_interval"


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One graph: queries with their legends, in a unit of Grafana's."""

    title: str
    queries: Sequence[tuple[str, str]]
    unit: str = "short"
    text: str = ""
    stat: bool = False


def rate(metric: str, by: str = "", more: str = "") -> str:
    """What a counter grows by in a second."""
    return f"sum{f' by ({by})' if by else ''} (rate({metric}{{{WHERE}{more}}}[{RATE}]))"


def total(metric: str, by: str = "", more: str = "") -> str:
    """A gauge over all counters."""
    return f"sum{f' by ({by})' if by else ''} ({metric}{{{WHERE}{more}}})"


def quantiles(metric: str, by: str = "") -> list[tuple[str, str]]:
    """Half, 95 and 99 of 100 observations are below these."""
    also = f", {by}" if by else ""
    return [
        (f"histogram_quantile({q}, {rate(f'{metric}_bucket', f'le{also}')})",
         f"p{round(100 * q)}{f' {{{{{by}}}}}' if by else ''}")
        for q in (0.5, 0.95, 0.99)
    ]  # fmt: skip


ROWS: dict[str, list[Panel]] = {
    "Now": [
        Panel(title="Engines up", queries=[(total("freehold_engine_up"), "up")], stat=True),
        Panel(
            title="Requests inside",
            queries=[(total("freehold_requests_inside"), "inside")],
            stat=True,
        ),
        Panel(
            title="Tokens generated per second",
            queries=[(rate("freehold_generated_tokens_total"), "tokens")],
            stat=True,
        ),
        Panel(
            title="Shut by the kernel",
            queries=[(f"min(freehold_residency_enforced{{{WHERE}}})", "enforced")],
            text="1 while the kernel shuts every process of every counter.",
            stat=True,
        ),
        Panel(
            title="Attempts refused, ever",
            queries=[(total("freehold_residency_attempts_total"), "attempts")],
            stat=True,
        ),
        Panel(
            title="Ledger lag",
            queries=[(f"max(freehold_ledger_lag_seconds{{{WHERE}}})", "lag")],
            unit="s",
            stat=True,
        ),
    ],
    "Answers": [
        Panel(
            title="Time to first token",
            queries=quantiles("freehold_time_to_first_token_seconds"),
            unit="s",
            text="From a choice's hand-over to the engine, queueing included.",
        ),
        Panel(
            title="Time per token", queries=quantiles("freehold_time_per_token_seconds"), unit="s"
        ),
        Panel(title="Prompt read", queries=quantiles("freehold_prefill_seconds"), unit="s"),
        Panel(
            title="Tokens per second",
            queries=[
                (rate("freehold_prompt_tokens_total", "model"), "in {{model}}"),
                (rate("freehold_cached_tokens_total", "model"), "in, cached {{model}}"),
                (rate("freehold_generated_tokens_total", "model"), "out {{model}}"),
            ],
        ),
        Panel(
            title="Guesses kept",
            queries=[
                (
                    f"{rate('freehold_kept_guesses_total', 'model')} / "
                    f"{rate('freehold_guessed_tokens_total', 'model')}",
                    "{{model}}",
                )
            ],
            unit="percentunit",
        ),
        Panel(
            title="HTTP requests by status",
            queries=[(rate("freehold_http_requests_total", "status"), "{{status}}")],
            unit="reqps",
        ),
        Panel(
            title="HTTP request time",
            queries=quantiles("freehold_http_request_seconds", "route"),
            unit="s",
        ),
        Panel(
            title="Refusals by reason",
            queries=[(rate("freehold_refusals_total", "reason"), "{{reason}}")],
            unit="reqps",
        ),
    ],
    "Engine": [
        Panel(
            title="Requests",
            queries=[
                (total("freehold_requests_running", "model"), "running {{model}}"),
                (total("freehold_requests_waiting", "model"), "waiting {{model}}"),
            ],
        ),
        Panel(
            title="KV cache pages",
            queries=[(total("freehold_kv_pages", "model, state"), "{{state}} {{model}}")],
        ),
        Panel(
            title="Models served",
            queries=[
                (
                    f"count by (model, digest) (freehold_model_info{{{WHERE}}})",
                    "{{model}} {{digest}}",
                )
            ],
        ),
        Panel(
            title="Versions",
            queries=[(f"count by (version) (freehold_build_info{{{WHERE}}})", "{{version}}")],
        ),
    ],
    "Ledger and lock": [
        Panel(
            title="Leaf until durable",
            queries=quantiles("freehold_ledger_write_seconds", "leaf"),
            unit="s",
        ),
        Panel(
            title="Entries unsealed",
            queries=[(total("freehold_ledger_entries_unsealed", "instance"), "{{instance}}")],
        ),
        Panel(
            title="Calls refused",
            queries=[
                (
                    f"sum by (process, call) (increase(freehold_residency_attempts_total{{{WHERE}}}"
                    f"[{RATE}]))",
                    "{{process}} {{call}}",
                )
            ],
        ),
        Panel(
            title="Refused calls are noted",
            queries=[
                (
                    f"min by (instance) (freehold_residency_recording{{{WHERE}}})",
                    "{{instance}}",
                )
            ],
        ),
    ],
    "Counter process": [
        Panel(
            title="Certificate ends in",
            queries=[
                (
                    f"min by (instance) (freehold_tls_certificate_end_timestamp_seconds{{{WHERE}}}"
                    " > 0) - time()",
                    "{{instance}}",
                )
            ],
            unit="s",
        ),
        Panel(
            title="Processor",
            queries=[(rate("process_cpu_seconds_total", "instance"), "{{instance}}")],
            unit="percentunit",
        ),
        Panel(
            title="Memory",
            queries=[(total("process_resident_memory_bytes", "instance"), "{{instance}}")],
            unit="bytes",
        ),
        Panel(
            title="Open descriptors",
            queries=[(total("process_open_fds", "instance"), "{{instance}}")],
        ),
    ],
}


def dashboard() -> dict[str, Any]:
    """The whole dashboard, as Grafana imports it."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in ROWS.items():
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": title,
                "collapsed": False,
                "panels": [],
                "gridPos": {"x": 0, "y": top, "w": 24, "h": 1},
            }
        )
        top += 1
        width, height = (4, 4) if row[0].stat else (8, 8)
        for place, panel in enumerate(row):
            line, column = divmod(place, 24 // width)
            where = {"x": column * width, "y": top + line * height, "w": width, "h": height}
            panels.append(drawn(panel, len(panels) + 1, where))
        top += -(-len(row) * width // 24) * height
    return {
        "title": "Freehold",
        "uid": "freehold",
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "30s",
        "tags": ["freehold"],
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": variables()},
        "panels": panels,
    }


def drawn(panel: Panel, number: int, where: dict[str, int]) -> dict[str, Any]:
    """One panel at its place."""
    return {
        "id": number,
        "type": "stat" if panel.stat else "timeseries",
        "title": panel.title,
        "description": panel.text,
        "datasource": SOURCE,
        "gridPos": where,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(65 + i), "datasource": SOURCE, "expr": query, "legendFormat": legend}
            for i, (query, legend) in enumerate(panel.queries)
        ],
    }


def variables() -> list[dict[str, Any]]:
    """What can be chosen above the panels: the source, and the counters to look at."""
    chosen: list[dict[str, Any]] = [
        {"name": "source", "type": "datasource", "query": "prometheus", "label": "Data source"}
    ]
    for name, also in (("job", ""), ("instance", '{job=~"$job"}')):
        chosen.append(
            {
                "name": name,
                "type": "query",
                "datasource": SOURCE,
                "query": f"label_values(freehold_build_info{also}, {name})",
                "includeAll": True,
                "multi": True,
                "refresh": 2,
                "current": {"text": "All", "value": "$__all"},
            }
        )
    return chosen


def written() -> str:
    """The file, whole."""
    return json.dumps(dashboard(), indent=2) + "\n"


if __name__ == "__main__":
    TARGET.write_text(written(), encoding="utf-8")
