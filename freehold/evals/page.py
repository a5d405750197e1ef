"""Placeholder replaced below."""

from freehold.evals.results import Results


def page(results: Results, compared: object = ()) -> str:
    return ""
