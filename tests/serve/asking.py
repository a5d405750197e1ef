"""Asks a counter what the OpenAPI document lets be asked, and some of what it does not, and holds
the answers to the document. The asking and the checks are an outside tool's: schemathesis."""

from __future__ import annotations

import re
from typing import Any

import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from freehold.serve.openapi import document
from freehold.serve.routes import ROUTES, Route
from tests.serve.test_fuzz import BASE

DOCUMENT = document(ROUTES)
API = schemathesis.openapi.from_dict(DOCUMENT)
ALWAYS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]


_LIMITS = ("max_output_tokens", "max_tokens", "max_completion_tokens")


def _settings(examples: int) -> settings:
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def path_of(route: Route) -> str:
    """A route's path as the document writes it."""
    return re.sub(r":\w+", "", route.path)


def right(route: Route, url: str, key: str, model: str, examples: int = 30) -> None:
    """What is right by the document is answered, or refused, as it says."""

    @_settings(examples)
    @given(
        case=API[path_of(route)][route.method].as_strategy(GenerationMode.POSITIVE),
        kept=st.lists(st.integers(0, 99), min_size=1, max_size=3),
    )
    def ask(case: Any, kept: list[int]) -> None:
        if kept[0]:
            _tame(case, kept, model, stream=route.event is not None and len(kept) == 2)
        _aim(case, model)
        _shorten(case, route)
        case.validate_response(_call(case, url, key), checks=ALWAYS)

    ask()


def wrong(route: Route, url: str, key: str, model: str, examples: int = 30) -> None:
    """What is wrong by the document is refused as it says."""

    @_settings(examples)
    @given(case=API[path_of(route)][route.method].as_strategy(GenerationMode.NEGATIVE))
    def ask(case: Any) -> None:
        _aim(case, model)
        found = _call(case, url, key)
        case.validate_response(found, checks=[*ALWAYS, checks.negative_data_rejection])

    ask()


def _call(case: Any, url: str, key: str) -> Any:
    return case.call(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=300)


def _aim(case: Any, model: str) -> None:
    """Have a request that is otherwise as it should be name a model that there is."""
    named = case.body.get("model") if isinstance(case.body, dict) else None
    if isinstance(named, str) and 0 < len(named) <= 256:
        case.body["model"] = model


def _shorten(case: Any, route: Route) -> None:
    """Leave no answer without a limit: a real model might go on for as long as its context is."""
    if route.tag == "answers" and isinstance(case.body, dict):
        name = next(name for name in _LIMITS if name in route.body.known)  # type: ignore[union-attr]
        if all(case.body.get(one) is None for one in _LIMITS):
            case.body[name] = 8


def _tame(case: Any, kept: list[int], model: str, *, stream: bool) -> None:
    """Of a made-up body, put only some fields into a plain one: all of them together break some
    rule between fields nearly always, and then only refusals would be looked at."""
    if isinstance(case.body, dict):
        # What a plain one must have breaks the most rules: it is left as it is mostly.
        names = sorted(name for name in case.body if len(kept) == 1 or name not in BASE[case.path])
        some = {names[place % len(names)] for place in kept if names}
        plain = BASE[case.path] | ({"stream": True} if stream else {})
        case.body = plain | {name: case.body[name] for name in some}
    for name, value in case.path_parameters.items():
        case.path_parameters[name] = model if name == "model" else value % 3
