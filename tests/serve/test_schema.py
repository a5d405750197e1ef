"""Bad input: every refusal is a 4xx in OpenAI's shape that names the field."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

NAME = "scripted-1"
USER = [{"role": "user", "content": "x"}]
CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
LONG = "x" * 1025
TOOL = {"type": "function", "function": {"name": "f"}}
MADE = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def _shape(answer: httpx.Response) -> dict[str, Any]:
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["message"]
    return dict(error)


CHAT_FIELDS: list[tuple[str, Any, str]] = [
    ("model", 5, "model"),
    ("model", None, "model"),
    ("model", "", "model"),
    ("model", ["a"], "model"),
    ("messages", None, "messages"),
    ("messages", [], "messages"),
    ("messages", "hello", "messages"),
    ("messages", {"role": "user"}, "messages"),
    ("messages", ["hello"], "messages[0]"),
    ("messages", [USER[0]] * 4097, "messages"),
    ("messages", [{"content": "x"}], "messages[0].role"),
    ("messages", [{"role": "wizard", "content": "x"}], "messages[0].role"),
    ("messages", [*USER, {"role": 7, "content": "x"}], "messages[1].role"),
    ("messages", [{"role": ["user"], "content": "x"}], "messages[0].role"),
    ("messages", [{"role": "function", "content": "x", "name": "f"}], "messages[0].role"),
    ("messages", [{"role": "user"}], "messages[0].content"),
    ("messages", [{"role": "user", "content": None}], "messages[0].content"),
    ("messages", [{"role": "user", "content": 5}], "messages[0].content"),
    ("messages", [{"role": "user", "content": []}], "messages[0].content"),
    ("messages", [{"role": "user", "content": ["x"]}], "messages[0].content[0]"),
    ("messages", [{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
    (
        "messages",
        [{"role": "user", "content": [{"type": "text", "text": 1}]}],
        "messages[0].content[0].text",
    ),
    (
        "messages",
        [{"role": "user", "content": [{"type": "text", "text": "a", "x": 1}]}],
        "messages[0].content[0].x",
    ),
    (
        "messages",
        [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}]}],
        "messages[0].content[1].type",
    ),
    (
        "messages",
        [{"role": "user", "content": [{"type": "input_audio"}]}],
        "messages[0].content[0].type",
    ),
    ("messages", [{"role": "user", "content": [{"text": "a"}]}], "messages[0].content[0].type"),
    ("messages", [{"role": "user", "content": "a", "foo": 1}], "messages[0].foo"),
    ("messages", [{"role": "user", "content": "a", "name": 5}], "messages[0].name"),
    (
        "messages",
        [{"role": "assistant", "content": "a", "tool_calls": [{"id": "1"}]}],
        "messages[0].tool_calls[0].function",
    ),
    (
        "messages",
        [{"role": "assistant", "content": "a", "function_call": {"name": "f"}}],
        "messages[0].function_call",
    ),
    ("max_tokens", -1, "max_tokens"),
    ("max_tokens", 0, "max_tokens"),
    ("max_tokens", "5", "max_tokens"),
    ("max_tokens", 5.0, "max_tokens"),
    ("max_tokens", True, "max_tokens"),
    ("max_tokens", 10**30, "max_tokens"),
    ("max_tokens", 513, "max_tokens"),
    ("max_completion_tokens", -5, "max_completion_tokens"),
    ("max_completion_tokens", 5000, "max_completion_tokens"),
    ("n", 0, "n"),
    ("n", -1, "n"),
    ("n", 17, "n"),
    ("n", "2", "n"),
    ("n", True, "n"),
    ("temperature", -0.1, "temperature"),
    ("temperature", 2.1, "temperature"),
    ("temperature", "1", "temperature"),
    ("temperature", True, "temperature"),
    ("temperature", [1], "temperature"),
    ("temperature", 10**400, "temperature"),
    ("top_p", 1.5, "top_p"),
    ("top_p", -1, "top_p"),
    ("top_k", -1, "top_k"),
    ("top_k", 1.5, "top_k"),
    ("min_p", 2, "min_p"),
    ("repetition_penalty", 0, "repetition_penalty"),
    ("presence_penalty", 2.5, "presence_penalty"),
    ("frequency_penalty", -2.5, "frequency_penalty"),
    ("logit_bias", [1], "logit_bias"),
    ("logit_bias", {"a": 1}, "logit_bias"),
    ("logit_bias", {"-1": 1}, "logit_bias"),
    ("logit_bias", {"999": 1}, "logit_bias"),
    ("logit_bias", {"65": 101}, "logit_bias"),
    ("logit_bias", {"65": "1"}, "logit_bias"),
    ("logit_bias", {"65": True}, "logit_bias"),
    ("logit_bias", {"٣": 1}, "logit_bias"),
    ("logit_bias", {str(i): 1 for i in range(1025)}, "logit_bias"),
    ("seed", 1.5, "seed"),
    ("seed", "1", "seed"),
    ("seed", 1 << 63, "seed"),
    ("seed", 10**4000, "seed"),
    ("stop", 5, "stop"),
    ("stop", "", "stop[0]"),
    ("stop", LONG, "stop[0]"),
    ("stop", ["a", ""], "stop[1]"),
    ("stop", ["a", None], "stop[1]"),
    ("stop", ["a"] * 5, "stop"),
    ("stream", "yes", "stream"),
    ("stream", 1, "stream"),
    ("stream_options", {"include_usage": True}, "stream_options"),
    ("stream_options", [], "stream_options"),
    ("logprobs", 5, "logprobs"),
    ("logprobs", "true", "logprobs"),
    ("top_logprobs", 5, "top_logprobs"),
    ("user", 5, "user"),
    ("metadata", "x", "metadata"),
    ("store", True, "store"),
    ("service_tier", "flex", "service_tier"),
    ("audio", {"voice": "a"}, "audio"),
    ("modalities", ["text", "audio"], "modalities"),
    ("response_format", {}, "response_format.type"),
    ("response_format", "text", "response_format"),
    ("tools", {}, "tools"),
    ("tool_choice", "required", "tool_choice"),
    ("tool_choice", {"type": "function"}, "tool_choice"),
    ("tool_choice", "always", "tool_choice"),
    ("tool_choice", {"type": "function", "function": {"name": "f"}}, "tool_choice"),
    ("tools", [{"type": "retrieval"}], "tools[0].type"),
    ("tools", [{"type": "function", "function": {"name": "a b"}}], "tools[0].function.name"),
    ("tools", [{"type": "function", "function": {"name": "f", "x": 1}}], "tools[0].function.x"),
    ("tools", [TOOL, TOOL], "tools[1].function.name"),
    ("tools", [TOOL] * 129, "tools"),
    ("tools", [TOOL], "tools"),
    ("parallel_tool_calls", "no", "parallel_tool_calls"),
    ("reasoning_effort", "huge", "reasoning_effort"),
    ("thinking_budget", 0, "thinking_budget"),
    ("messages", [{"role": "tool", "content": "x"}], "messages[0].tool_call_id"),
    (
        "messages",
        [{"role": "user", "content": "x", "tool_call_id": "1"}],
        "messages[0].tool_call_id",
    ),
    (
        "messages",
        [{"role": "user", "content": "x", "tool_calls": [MADE]}],
        "messages[0].tool_calls",
    ),
    (
        "messages",
        [
            {
                "role": "assistant",
                "tool_calls": [MADE | {"function": {"name": "f", "arguments": "["}}],
            }
        ],
        "messages[0].tool_calls[0].function.arguments",
    ),
    ("messages", [{"role": "assistant"}], "messages[0].content"),
    ("functions", [{"name": "f"}], "functions"),
    ("function_call", {"name": "f"}, "function_call"),
    ("verbosity", "low", "verbosity"),
    ("web_search_options", {}, "web_search_options"),
    ("enable_thinking", "yes", "enable_thinking"),
    ("chat_template_kwargs", [], "chat_template_kwargs"),
    ("chat_template_kwargs", {str(i): 1 for i in range(33)}, "chat_template_kwargs"),
    ("grammar", "x", "grammar"),
    ("best_of", 2, "best_of"),
    ("echo", True, "echo"),
    ("foo", 1, "foo"),
    ("f{o}o", 1, "f{o}o"),
    ("", 1, None),  # type: ignore[list-item]
]


@pytest.mark.parametrize(("field", "value", "param"), CHAT_FIELDS)
def test_chat_names_the_field(http: httpx.Client, field: str, value: Any, param: str) -> None:
    answer = http.post(CHAT, json={"model": NAME, "messages": USER, field: value})
    error = _shape(answer)
    assert answer.status_code == 400, error
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert "Traceback" not in error["message"]


TEXT_FIELDS: list[tuple[str, Any, str]] = [
    ("prompt", None, "prompt"),
    ("prompt", 5, "prompt"),
    ("prompt", "", "prompt"),
    ("prompt", [], "prompt"),
    ("prompt", {}, "prompt"),
    ("prompt", ["a", 5], "prompt[1]"),
    ("prompt", ["a", ""], "prompt[1]"),
    ("prompt", ["a", []], "prompt[1]"),
    ("prompt", [1, "a"], "prompt[1]"),
    ("prompt", [1, True], "prompt[1]"),
    ("prompt", [True], "prompt[0]"),
    ("prompt", [1, 2.0], "prompt[1]"),
    ("prompt", [1, -1], "prompt[1]"),
    ("prompt", [1, 100000], "prompt[1]"),
    ("prompt", [[1], [2, "x"]], "prompt[1][1]"),
    ("prompt", ["a"] * 513, "prompt"),
    ("prompt", [65] * 600, "prompt"),
    ("prompt", "a" * 600, "prompt"),
    ("prompt", ["a", "a" * 600], "prompt[1]"),
    ("suffix", "end", "suffix"),
    ("best_of", 3, "best_of"),
    ("echo", "yes", "echo"),
    ("logprobs", -1, "logprobs"),
    ("logprobs", 21, "logprobs"),
    ("logprobs", True, "logprobs"),
    ("max_tokens", 0, "max_tokens"),
    ("max_tokens", -3, "max_tokens"),
    ("max_tokens", 512, "max_tokens"),
    ("messages", [], "messages"),
    ("top_logprobs", 1, "top_logprobs"),
    ("tools", [], "tools"),
]


@pytest.mark.parametrize(("field", "value", "param"), TEXT_FIELDS)
def test_completions_names_the_field(
    http: httpx.Client, field: str, value: Any, param: str
) -> None:
    answer = http.post(TEXT, json={"model": NAME, "prompt": "a", field: value})
    error = _shape(answer)
    assert answer.status_code == 400, error
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param


def test_contradicting_limits(http: httpx.Client) -> None:
    body = {"model": NAME, "messages": USER, "max_tokens": 5, "max_completion_tokens": 6}
    error = _shape(http.post(CHAT, json=body))
    assert error["param"] == "max_tokens"


@pytest.mark.parametrize("top", [-1, 21])
def test_top_logprobs_out_of_range(http: httpx.Client, top: int) -> None:
    body = {"model": NAME, "messages": USER, "logprobs": True, "top_logprobs": top}
    answer = http.post(CHAT, json=body)
    assert answer.status_code == 400
    assert _shape(answer)["param"] == "top_logprobs"


def test_unknown_field_in_openais_words(http: httpx.Client) -> None:
    answer = http.post(CHAT, json={"model": NAME, "messages": USER, "top_q": 1})
    assert _shape(answer)["message"] == "Unrecognized request argument supplied: top_q"


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_unknown_model_is_404(http: httpx.Client, path: str) -> None:
    body = {"model": "gpt-9", ("messages" if path == CHAT else "prompt"): USER}
    answer = http.post(path, json=body)
    error = _shape(answer)
    assert answer.status_code == 404
    assert (error["param"], error["code"]) == ("model", "model_not_found")
    assert NAME in error["message"]


GOOD = b'{"model":"scripted-1","messages":[{"role":"user","content":"x"}]'
BODIES: list[tuple[str, bytes, str]] = [
    ("empty", b"", "empty"),
    ("cut short", GOOD, f"byte {len(GOOD)}"),
    ("trailing comma", GOOD + b",}", f"byte {len(GOOD) + 1}"),
    ("trailing text", GOOD + b"} x", "trailing characters"),
    ("not JSON", b"model=scripted-1", "byte 0"),
    ("single quotes", b"{'model': 1}", "byte 1"),
    ("NaN", GOOD + b',"temperature":NaN}', "invalid character"),
    ("Infinity", GOOD + b',"temperature":Infinity}', "invalid character"),
    ("-Infinity", GOOD + b',"temperature":-Infinity}', "not valid JSON"),
    ("huge float", GOOD + b',"temperature":1e999}', "too large"),
    ("huge integer", GOOD + b',"seed":' + b"9" * 10_000 + b"}", "too large"),
    ("invalid UTF-8", b'{"model":"\xff\xfe"}', "not valid UTF-8 (byte 10)"),
    ("overlong UTF-8", b'{"model":"\xc0\x80"}', "UTF-8"),
    ("UTF-16", GOOD.decode().encode("utf-16"), "UTF-8"),
    ("lone surrogate", b'{"model":"\\ud800x"}', "not valid JSON"),
    ("raw control character", b'{"model":"a\nb"}', "not valid JSON"),
    ("deep list", b"[" * 100_000, "nested too deeply"),
    ("deep object", b'{"a":' * 100_000, "nested too deeply"),
    ("a list", b"[]", "must be a JSON object"),
    ("a string", b'"hello"', "must be a JSON object"),
    ("null", b"null", "must be a JSON object"),
    ("a number", b"5", "must be a JSON object"),
]


@pytest.mark.parametrize(("body", "says"), [b[1:] for b in BODIES], ids=[b[0] for b in BODIES])
@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_malformed_bodies(http: httpx.Client, path: str, body: bytes, says: str) -> None:
    answer = http.post(path, content=body)
    error = _shape(answer)
    assert answer.status_code == 400
    assert error["type"] == "invalid_request_error"
    assert says in error["message"]


def test_an_integer_that_no_message_between_processes_holds_is_refused(http: httpx.Client) -> None:
    tail = b',"chat_template_kwargs":{"of":[{"template":%d}]}}'
    for number, status in ((1 << 64, 400), ((1 << 64) - 1, 200), (-(1 << 63) - 1, 400)):
        answer = http.post(CHAT, content=GOOD + tail % number)
        assert answer.status_code == status, answer.text
        if status == 400:
            at = "chat_template_kwargs.of[0].template is a whole number beyond 64 bits"
            assert _shape(answer)["message"] == at


def test_repeated_name_reads_as_json_does(http: httpx.Client) -> None:
    answer = http.post(CHAT, content=GOOD + b',"n":7,"n":2}')
    assert answer.status_code == 200
    assert len(answer.json()["choices"]) == 2


def test_a_million_unknown_names_cost_one_refusal(http: httpx.Client) -> None:
    names = ",".join(f'"k{i}":1' for i in range(70_000))
    answer = http.post(CHAT, content=GOOD + b"," + names.encode() + b"}")
    assert answer.status_code == 400
    assert _shape(answer)["param"] == "k0"


def test_template_refusal_names_messages(http: httpx.Client) -> None:
    body = {"model": NAME, "messages": USER, "chat_template_kwargs": {"explode": True}}
    answer = http.post(CHAT, json=body)
    assert answer.status_code == 400
    assert _shape(answer)["param"] == "messages"
