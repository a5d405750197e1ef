"""``docs/clients.md``: which clients there are, how each is pointed at Freehold, and what came of
trying them (``results.json``, which ``test_clients.py`` writes)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results.json"
PAGE = HERE.parents[1] / "docs" / "clients.md"
ENGINES = ("native", "vllm")
FEATURES = ("chat", "streaming", "tools", "structured output")


@dataclass(frozen=True, kw_only=True)
class Client:
    """One client: its ``package`` under a ``title``, the lines (``how``) that point it at Freehold,
    and what is worth knowing of it."""

    name: str
    title: str
    package: str
    how: str
    language: str = "python"
    notes: str = ""


CLIENTS = (
    Client(
        name="openai",
        title="OpenAI for Python",
        package="openai",
        how='client = openai.OpenAI(base_url="http://127.0.0.1:8080/v1", api_key="fh-...")',
        notes=(
            "Tried with strict validation: its own models check every answer and every event. Chat "
            "completions and Responses both."
        ),
    ),
    Client(
        name="node",
        title="OpenAI for Node",
        package="openai (npm)",
        language="js",
        how=(
            'const client = new OpenAI({ baseURL: "http://127.0.0.1:8080/v1", apiKey: "fh-..." });'
        ),
        notes="With the Zod helpers, which parse answers strictly. Chat completions and Responses.",
    ),
    Client(
        name="anthropic",
        title="Anthropic for Python",
        package="anthropic",
        how='client = anthropic.Anthropic(base_url="http://127.0.0.1:8080", api_key="fh-...")',
        notes="No `/v1` in its address. Tried with strict validation.",
    ),
    Client(
        name="langchain",
        title="LangChain",
        package="langchain-openai",
        how=(
            'model = ChatOpenAI(base_url="http://127.0.0.1:8080/v1", api_key="fh-...", model="...")'
        ),
        notes=(
            "Also with `use_responses_api=True`. `with_structured_output` works with "
            '`method="json_schema"` and `"function_calling"`. Leave `LANGSMITH_TRACING` unset: it '
            "sends prompts elsewhere."
        ),
    ),
    Client(
        name="llamaindex",
        title="LlamaIndex",
        package="llama-index-llms-openai-like",
        how="""\
model = OpenAILike(
    api_base="http://127.0.0.1:8080/v1",
    api_key="fh-...",
    model="...",
    is_chat_model=True,
    is_function_calling_model=True,
    should_use_structured_outputs=True,
)""",
        notes="Without these three settings it does not use what the server can.",
    ),
    Client(
        name="llm",
        title="llm",
        package="llm",
        language="yaml",
        how="""\
# extra-openai-models.yaml, in the folder that `llm logs path` names
- model_id: freehold
  model_name: qwen2.5-coder-0.5b-instruct
  api_base: http://127.0.0.1:8080/v1
  api_key_name: freehold
  supports_schema: true
  supports_tools: true""",
        notes=(
            "The key: `llm keys set freehold`. It cannot ask for a call (`tool_choice`), so the "
            "model decides, and a small one with a tool at hand may call it again and again: the "
            "test sends the result back without the tool."
        ),
    ),
    Client(
        name="litellm",
        title="LiteLLM",
        package="litellm",
        how="""\
litellm.completion(model="openai/...", api_base="http://127.0.0.1:8080/v1", api_key="fh-...")
litellm.completion(model="anthropic/...", api_base="http://127.0.0.1:8080", api_key="fh-...")""",
        notes=(
            "Both ways were tried. Set `LITELLM_LOCAL_MODEL_COST_MAP=True`, or it fetches a list "
            "of prices when it is imported. For tools it needs the package `mcp`, which it does "
            "not name."
        ),
    ),
    Client(
        name="qwen-agent",
        title="Qwen-Agent",
        package="qwen-agent",
        how="""\
model = get_chat_model(
    {
        "model": "...",
        "model_server": "http://127.0.0.1:8080/v1",
        "api_key": "fh-...",
        "generate_cfg": {"use_raw_api": True},
    }
)""",
        notes=(
            "`use_raw_api` leaves tools to the server; without it Qwen-Agent writes them into the "
            "prompt itself. It needs `numpy`, `soundfile` and `tqdm`, which it does not name."
        ),
    ),
)

INTRO = """# Clients

Programs written for the closed clouds move over by changing an address and a key. These clients
were tried, unmodified, against a real `freehold serve` of
`{model}`. Each had to hold a conversation, say piece by piece what it says
whole, have a tool called, send its result back and use it, and get JSON of a given form. Those in
Python would have been ended had they asked anybody but this server.

Generated from the recorded results by `make clients`, which gets the clients at these versions,
each into an environment of its own, and tries them again.

"""

TABLE = """| client | version | chat | streaming | tools | structured output | what it calls |
|---|---|---|---|---|---|---|
"""

VLLM = """
## The same with vLLM behind the counter

`freehold serve {model} --engine vllm`, by `pytest -m slow tests/house/test_vllm.py` after
`make clients cluster`. Vectors of texts are left out there: vLLM serves either text or vectors.

"""

MIDDLE = """
## How to point them here

The address is the one that `freehold serve` prints, the key one from `freehold keys add` (or the
temporary one of `--temporary-key`), the model's name one of `/v1/models`.
"""


def page(results: Mapping[str, Any]) -> str:
    """The page, whole."""
    native, vllm = results["native"], results["vllm"]
    parts = [INTRO.format(model=native["model"]), _table(native["clients"])]
    parts += [VLLM.format(model=vllm["model"]), _table(vllm["clients"]), MIDDLE]
    for client in CLIENTS:
        parts.append(f"\n### {client.title}\n```{client.language}\n{client.how}\n```\n")
        parts.append(f"{client.notes}\n" if client.notes else "")
    return "".join(parts)


def _table(found: Mapping[str, Any]) -> str:
    lines = [TABLE]
    for client in CLIENTS:
        one = found[client.name]
        marks = " | ".join("yes" if one[feature] else "**no**" for feature in FEATURES)
        calls = ", ".join(f"`{path}`" for path in one["calls"])
        name = f"{client.title} (`{client.package}`)"
        lines.append(f"| {name} | {one['version']} | {marks} | {calls} |\n")
    return "".join(lines)


def load() -> Any:
    """The recorded results."""
    return json.loads(RESULTS.read_text())


def record(engine: str, model: str, name: str, result: Mapping[str, Any]) -> None:
    """Keep what came of one client with that engine, and write the page if there is something of
    each."""
    results = load() if RESULTS.exists() else {}
    found = {**results.get(engine, {}).get("clients", {}), name: dict(result)}
    results[engine] = {"model": model, "clients": dict(sorted(found.items()))}
    RESULTS.write_text(json.dumps(results, indent=1, sort_keys=False) + "\n")
    names = {client.name for client in CLIENTS}
    if all(names <= results.get(each, {}).get("clients", {}).keys() for each in ENGINES):
        PAGE.write_text(page(results))
