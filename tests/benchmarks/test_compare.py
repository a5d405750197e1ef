"""The comparison's own arithmetic, and one whole run with the real model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import engines
import pytest
from compare import Task, compare, edit_prompts, official_bytes_per_token, report, shares, together
from engines import Answer, parse, peak_bytes

BENCHMARKS = Path(engines.__file__).parent


class Pretend:
    """Answers at one token a tenth of a second, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int, bool]] = []

    def answer(
        self,
        prompts: list[list[int]],
        max_tokens: int,
        *,
        stop: object = (),
        keep: bool = False,
    ) -> list[Answer]:
        self.asked.append((len(prompts), len(prompts[0]), keep))
        times = [0.5 + 0.1 * i for i in range(max_tokens)]
        return [Answer(ids=[7] * max_tokens, times=times) for _ in prompts]


def test_tokens_count_while_all_answers_run() -> None:
    early = Answer(ids=[1] * 4, times=[0.0, 1.0, 2.0, 3.0])
    late = Answer(ids=[1] * 4, times=[1.0, 2.0, 3.0, 4.0])
    assert together([early, late]) == pytest.approx(4 / 2)
    assert together([early]) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("name", "asked", "rate"),
    [
        ("decode_1", (1, 32, False), 10.0),
        ("decode_8", (8, 32, False), 80.0),
        ("decode_1@300", (1, 300, True), 10.0),
        ("prefill_100", (1, 100, False), 200.0),
    ],
)
def test_a_task_asks_what_its_name_says(
    name: str, asked: tuple[int, int, bool], rate: float
) -> None:
    engine = Pretend()
    assert Task(name).measure(engine, 1) == pytest.approx(rate)
    assert engine.asked == [asked]
    assert Task(name).context >= asked[0] * asked[1]


@pytest.mark.parametrize("name", ["decode", "decode_0", "prefill_5@3", "decode_2@9", "edit", ""])
def test_an_unknown_task_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"take decode_N|one sequence"):
        Task(name)


def test_only_decoding_counts_in_edits_and_turn_0_warms_up_with_one() -> None:
    engine = Pretend()
    task = Task("edits", ([[1, 2], [3, 4], [5, 6]], [0]))
    assert task.measure(engine, 0) == pytest.approx(10.0)
    assert len(engine.asked) == 1
    assert task.measure(engine, 1) == pytest.approx(10.0)
    assert len(engine.asked) == 4


def test_rounds_give_ratios_and_the_share_of_the_limit() -> None:
    running = {"freehold": Pretend(), "llamacpp": Pretend()}
    rates, limits = compare(running, [Task("decode_1")], 3, lambda: 1000.0)
    assert [len(seen["decode_1"]) for seen in rates.values()] == [3, 3]
    assert shares(rates, limits, 50) == {
        "freehold": pytest.approx(0.5),
        "llamacpp": pytest.approx(0.5),
    }
    table = report(rates, limits, 50)
    assert "| freehold / llamacpp | 1.00 |" in table
    assert "freehold decodes at 50% of it." in table


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("vllm", "unknown engine"),
        ("freehold:hurry=yes", "no setting 'hurry'"),
        ("freehold:threads=many", "many"),
        ("freehold:backend", "KEY=VALUE"),
        ("llamacpp:x=1", "no settings"),
    ],
)
def test_an_engine_that_cannot_be_is_refused(name: str, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        parse(name)


def test_settings_of_ours_are_read_as_their_kind() -> None:
    _, options = parse("freehold:backend=torch:threads=1")
    keys = engines.keys_of(options)
    assert keys["backend"] == "torch"
    assert keys["threads"] == 1


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_the_peak_of_a_process_is_in_bytes() -> None:
    assert 1 << 20 < peak_bytes() < 1 << 40


def test_the_official_file_reads_392_mb_a_token(real_gguf: Path) -> None:
    assert official_bytes_per_token(str(real_gguf)) == 391_859_712


def test_edits_are_ten_whole_files(real_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREEHOLD_HOME", str(real_root))
    prompts, stop = edit_prompts("qwen2.5-coder-0.5b-instruct")
    assert len(prompts) == 10
    assert all(200 < len(ids) < 1000 for ids in prompts)
    assert stop


def test_a_run_ends_in_json(real_root: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "compare.py"), "--engines", "freehold"]
    command += ["--tasks", "decode_1,prefill_32", "--rounds", "1", "--json"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={**os.environ, "FREEHOLD_HOME": str(real_root), "PYTHONPATH": str(BENCHMARKS.parent)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found["tokens_per_s"]["freehold"]) == {"decode_1", "prefill_32"}
    assert "round 1 of 1" in done.stderr


def test_what_is_wrong_is_said_before_anything_starts() -> None:
    command = [sys.executable, str(BENCHMARKS / "compare.py"), "--engines", "freehold,nobody"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "unknown engine 'nobody'" in done.stderr
