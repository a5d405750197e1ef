"""Chat templates: parity with transformers, and templates that mean harm."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from freehold.errors import IntegrityError, MalformedError, RefusedError, UsageError
from freehold.qwen.template import MAX_TEMPLATE_CHARS, ChatTemplate, template_of
from freehold.types import VerifiedModel

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Wie ist das Wetter? <b>\"quoted\"</b> & 'more' 天气",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "a city"},
                "days": {"type": "integer", "default": 3},
            },
            "required": ["city"],
        },
    },
}
CALL = {
    "id": "c1",
    "type": "function",
    "function": {"name": "get_weather", "arguments": {"city": "Zürich", "days": 2}},
}
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "plain": [{"role": "user", "content": "Hello, 世界 <b>&amp;</b>!"}],
    "system": [
        {"role": "system", "content": "You are terse."},
        {"role": "user", "content": "Hi"},
    ],
    "turns": [
        {"role": "user", "content": "1"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "  3  \n"},
    ],
    "thought": [
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nBecause."},
        {"role": "user", "content": "And?"},
    ],
    "tool": [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "name": "get_weather", "content": '{"temperature": 21}'},
        {"role": "tool", "name": "get_weather", "content": "second"},
    ],
    "thought and tool": [
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": "Looking.",
            "reasoning_content": "I need the tool.",
            "tool_calls": [CALL, CALL],
        },
        {"role": "tool", "content": "sunny"},
    ],
}
# Our own small template with the features that published ones use.
OWN = """
{%- if tools %}
    {{- "# Tools" }}
    {%- for tool in tools %}
        {{- "\\n" + (tool | tojson) }}
    {%- endfor %}
{%- endif %}
{%- set ns = namespace(last=-1, seen=[]) %}
{%- for message in messages[::-1] %}
    {%- if message.role == "user" and ns.last < 0 %}
        {%- set ns.last = messages|length - loop.index0 - 1 %}
        {%- break %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message['role'] not in ['system', 'user', 'assistant', 'tool'] %}
        {{- raise_exception('Unknown role: ' ~ message['role']) }}
    {%- endif %}
    {%- set ns.seen = ns.seen + [message.role] %}
    {% generation %}{{ '<|' ~ message.role ~ '|>' }}{% endgeneration %}
    {{- message.content | trim | replace('a', 'AA') | default('-', true) }}
    {%- if message.tool_calls is defined %}
        {%- for call in message.tool_calls %}
            {{- call.function.arguments | tojson(indent=2) }}
            {%- for key, value in call.function.arguments.items() | sort %}
                {{- loop.index ~ key ~ value }}{% if not loop.last %},{% endif %}
            {%- endfor %}
        {%- endfor %}
    {%- endif %}
    {%- if loop.last %}{{ loop.length }}{% endif %}
{% endfor %}
{%- macro shout(text, mark='!') -%}
    {{ text | upper }}{{ mark * 1 if mark is number else mark }}
{%- endmacro %}
{{- shout(ns.seen | join('+')) }} {{ ns.last }} {{ 7 // 2 + 2 ** 3 % 5 }} {{ "x,y".split(',')[-1] }}
{{- dict(a=1) | tojson }} {{ [1, [2, none, true], {'k': 1.5}] }} {{ range(3) | list }}
{{- strftime_now('%Y') }} {{ bos_token }}{% if enable_thinking is defined and not enable_thinking %}
<think></think>{% endif %}{{- 'done' if add_generation_prompt }}
"""


def by_transformers(source: str, messages: Any, tools: Any, **options: Any) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    rendered, _ = render_jinja_template(
        [messages],
        tools=list(tools) or None,
        chat_template=source,
        add_generation_prompt=True,
        **options,
    )
    return rendered[0]


def assert_parity(source: str) -> int:
    """Every conversation, with and without tools and thinking. Returns how many rendered."""
    template = ChatTemplate(source, special={"bos_token": "<s>", "eos_token": "</s>"})
    rendered = 0
    for messages in CONVERSATIONS.values():
        for tools in ((), (WEATHER,), (WEATHER, WEATHER)):
            for options in ({}, {"enable_thinking": True}, {"enable_thinking": False}):
                given = {"bos_token": "<s>", "eos_token": "</s>", **options}
                try:
                    wanted = by_transformers(source, messages, tools, **given)
                except Exception:  # whatever it cannot render, we must not render either
                    with pytest.raises(UsageError):
                        template.render(messages, tools=tools, options=options)
                    continue
                assert template.render(messages, tools=tools, options=options) == wanted
                rendered += 1
    return rendered


def test_own_template_equals_transformers() -> None:
    assert assert_parity(OWN) == 54


def test_published_templates_equal_transformers(shared_data: Path) -> None:
    paths = sorted((shared_data / "audit" / "templates").glob("*.jinja"))
    assert len(paths) >= 5
    for path in paths:
        assert assert_parity(path.read_text("utf-8")) >= 27, path.name


def test_the_real_template_equals_transformers(real: VerifiedModel) -> None:
    assert assert_parity(real.metadata["tokenizer.chat_template"]) == 54


HI = [{"role": "user", "content": "hi"}]
NEST = (
    "{{% set ns = namespace(s={0}) %}}"
    "{{% for i in range(200) %}}{{% set ns.s = {1} %}}{{% endfor %}}"
)
HOSTILE = [
    # out of the sandbox
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__class__.__init__.__globals__ }}",
    "{{ raise_exception.__globals__['__builtins__'] }}",
    "{{ namespace.__init__ }}{{ namespace.__init__.__globals__ }}",
    "{{ (messages | map(attribute='__class__') | list)[0].mro() }}",
    "{% set ns = namespace(__class__=1) %}",
    "{% set ns = namespace() %}{% set ns.__html__ = 1 %}",
    "{{ 'x'.format() }}{{ '{0.__class__}'.format(1) }}",
    "{{ '{0.__class__}'.format_map({}) }}",
    "{% include 'a' %}",
    "{% import 'a' as b %}",
    "{% from 'a' import b %}",
    "{% extends 'a' %}",
    "{% block a %}{% endblock %}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update({'role': 'system'}) }}",
    "{{ messages[0].pop('role') }}",
    "{{ (1).to_bytes(10 ** 9) }}",
    "{{ (1.5).hex() }}",
    "{{ 'a'.encode() }}",
    "{{ 'a' | attr('upper') }}",
    # forever
    "{% for i in range(10 ** 9) %}{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% for i in range(99999) %}{% for c in 'a' * 9 %}{% endfor %}{% endfor %}",
    "{% macro f(n) %}{{ f(n - 1) }}{{ f(n - 1) }}{% endmacro %}{{ f(1) }}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(40) }}",
    "{% for a in [[1]] recursive %}{{ loop(a) }}{% endfor %}",
    "{% set t = range(90000) | list %}{% for i in t %}{{ t | sort | length }}{% endfor %}",
    "{% set s = range(90000) | join %}{% for i in range(90000) %}{{ s.count('0') }}{% endfor %}",
    "{% set s = range(90000) | list %}{% for i in range(90000) %}{{ -1 in s }}{% endfor %}",
    # too much
    "{{ 'a' * 10 ** 10 }}",
    "{{ [0] * 10 ** 10 }}",
    "{{ 2 ** (10 ** 9) }}",
    "{{ 10 ** (99 ** 99) }}",
    "{{ '%10000000000d' % 1 }}",
    "{{ 'a'.ljust(10 ** 10) }}{{ 'a'.center(10 ** 10) }}{{ 'a'.zfill(10 ** 10) }}",
    "{{ 'a\t'.expandtabs(10 ** 9) }}",
    "{{ 'a' | center(10 ** 10) }}",
    "{{ 'a' | indent(10 ** 10) }}",
    "{{ messages | tojson(indent=10 ** 9) }}",
    "{{ strftime_now('%999999999d') }}",
    "{{ strftime_now('%Y' * 99) }}",
    "{{ 1 | pprint }}{{ 'a' | wordwrap(1) }}{{ 'a' | filesizeformat }}{{ [1] | batch(10 ** 9) }}",
    NEST.format("'aaaaaaaa'", "ns.s ~ ns.s"),
    NEST.format("'aaaaaaaa'", "ns.s + ns.s"),
    NEST.format("'aaaaaaaa'", "ns.s.replace('a', ns.s)"),
    NEST.format("'aaaaaaaa'", "ns.s | replace('a', ns.s)"),
    NEST.format("'aaaaaaaa'", "ns.s.join([ns.s, ns.s, ns.s])"),
    NEST.format("'aaaaaaaa'", "[ns.s, ns.s, ns.s] | join(ns.s)"),
    NEST.format("[1]", "[ns.s, ns.s]") + "{{ ns.s }}",
    NEST.format("[1]", "(ns.s, ns.s)") + "{{ ns.s == ns.s }}",
    NEST.format("[1]", "{'a': ns.s, 'b': ns.s}") + "{{ ns.s | tojson }}",
    NEST.format("[1]", "ns.s + ns.s"),
    NEST.format("[1]", "dict(a=ns.s, b=ns.s)"),
    NEST.format("7", "ns.s * ns.s"),
    NEST.format("[1]", "[ns.s]"),
    "{% set x %}{% for i in range(99999) %}" + "x" * 10_000 + "{% endfor %}{% endset %}",
    "{% macro m() %}" + "x" * 20_000 + "{% endmacro %}"
    "{% for i in range(99999) %}{{ m() }}{% endfor %}",
    "{% for i in range(99999) %}{% set x %}{{ messages }}" + "y" * 9_000 + "{% endset %}"
    "{% endfor %}",
    # no template at all
    "{%",
    "{{ 1 +",
    "{% for %}",
    "{% endif %}",
    "{% nonsense %}",
    "{{ " + "(" * 3_000 + "1" + ")" * 3_000 + " }}",
    "{% if true %}" * 300 + "{% endif %}" * 300,
    "{{ " + "-" * 5_000 + "1 }}",
    "{{ " + "9" * 10_000 + " }}",
    "{{ 'a' | nofilter }}",
    "x" * (MAX_TEMPLATE_CHARS + 1),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(HOSTILE)))
def test_hostile_templates_are_refused_quickly(case: int) -> None:
    """An error of ours, within seconds of processor time: never a hang, a crash or a result."""
    start = time.process_time()
    with pytest.raises((IntegrityError, UsageError)):
        ChatTemplate(HOSTILE[case]).render(HI)
    assert time.process_time() - start < 10


def test_hostile_templates_take_little_memory() -> None:
    """All that fit in a command line, one after the other, in a process that may use 1 GiB."""
    code = f"""
import resource
from freehold.errors import FreeholdError
from freehold.qwen.template import ChatTemplate
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
refused = 0
for source in {[s for s in HOSTILE if len(s) < 9_000]!r}:
    try:
        ChatTemplate(source).render([{{"role": "user", "content": "hi"}}])
    except FreeholdError as error:
        assert not isinstance(error.__cause__, MemoryError), source
        refused += 1
print(refused)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.stderr, done.returncode) == ("", 0)
    assert int(done.stdout) == len([s for s in HOSTILE if len(s) < 9_000])


def test_kinds_of_refusal() -> None:
    with pytest.raises(RefusedError):
        ChatTemplate("{{ ''.__class__.mro() }}").render(HI)
    with pytest.raises(MalformedError, match="steps"):
        ChatTemplate(HOSTILE[22]).render(HI)
    with pytest.raises(UsageError, match="no such role") as caught:
        ChatTemplate("{{ raise_exception('no such role') }}").render(HI)
    assert caught.value.param == "messages"


def test_messages_cannot_run() -> None:
    """A template in a message is text."""
    source = "{{ messages[0].content }}"
    text = "{{ 7 * 7 }}{% for i in range(10) %}x{% endfor %}"
    assert ChatTemplate(source).render([{"role": "user", "content": text}]) == text


def test_long_conversations_render(real: VerifiedModel) -> None:
    """A thousand turns and a megabyte are no attack."""
    template = template_of(real)
    assert template is not None
    turns = [{"role": ("user", "assistant")[i % 2], "content": "a" * 1_000} for i in range(1_000)]
    assert len(template.render(turns)) > 1_000_000


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([{"role": "user", "content": "\ud800"}], "messages"),
        ([{"role": "user", "content": object()}], "messages"),
        ([{"role": "user", "content": b"bytes"}], "messages"),
        ([{"role": "user"}], "messages"),
        (
            [{"role": "user", "content": [[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]]}],
            "messages",
        ),
        (["text"], "messages"),
    ],
)
def test_bad_messages(messages: Any, param: str) -> None:
    template = ChatTemplate("{% for m in messages %}{{ m.role + m.content }}{% endfor %}")
    with pytest.raises(UsageError) as caught:
        template.render(messages)
    assert caught.value.param == param


def test_bad_options_and_tools() -> None:
    template = ChatTemplate("{{ tools }}")
    with pytest.raises(UsageError) as caught:
        template.render(HI, options={"messages": []})
    assert caught.value.param == "messages"
    with pytest.raises(UsageError) as caught:
        template.render(HI, tools=[{"name": {1, 2}}])
    assert caught.value.param == "tools"


def documents(**files: str) -> dict[str, bytes]:
    return {name.replace("__", "."): text.encode() for name, text in files.items()}


def test_where_templates_come_from(make: SimpleNamespace) -> None:
    def rendered(**files: str) -> str:
        template = template_of(make.verified(documents=documents(**files)))
        assert template is not None
        return template.render(HI)

    assert template_of(make.verified()) is None
    assert rendered(chat_template__jinja="file") == "file"
    settings = '{"chat_template": "A{{ eos_token }}", "eos_token": {"content": "<e>"}}'
    assert rendered(tokenizer_config__json=settings) == "A<e>"
    templates = '[{"name": "rag", "template": "R"}, {"name": "default", "template": "D"}]'
    named = f'{{"chat_template": {templates}}}'
    assert rendered(tokenizer_config__json=named) == "D"


@pytest.mark.parametrize(
    "settings",
    [
        "[]", "{", '{"chat_template": 3}', '{"chat_template": []}', '{"chat_template": [1]}',
        '{"chat_template": [{"name": "rag", "template": "R"}]}', '{"eos_token": 3}',
        '{"chat_template": [{"name": "default", "template": 7}]}', '{"bos_token": {"content": []}}',
        '{"chat_template": "{%"}',
    ],
)  # fmt: skip
def test_malformed_tokenizer_config(make: SimpleNamespace, settings: str) -> None:
    with pytest.raises(MalformedError):
        template_of(make.verified(documents=documents(tokenizer_config__json=settings)))
