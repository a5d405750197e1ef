"""A small Qwen3 that answers in Qwen3Guard's form, trained here by the workshop's own loop.

Its prompt is the published one, its tokenizer and words are ours, and what it says depends on one
word of the text that it judges. It knows nothing of harm: it is there for what reads such models.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import Qwen3Config, Qwen3ForCausalLM

from freehold.adapt import export
from freehold.adapt.recipe import Recipe
from freehold.adapt.student import student_of
from freehold.adapt.training import Lessons, Run
from freehold.guard import qwen3guard
from freehold.guard.qwen3guard import LABELS, Safety
from freehold.qwen import codec
from freehold.qwen.model import load
from freehold.qwen.tokenizer import SPLIT_PATTERN
from freehold.store import FolderSource, Store, pull, verify
from freehold.train.encoding import Sample
from tests.guard.form import template

NAME = "guardlike"
CONTROLS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
QUIET = SimpleNamespace(start=lambda *_: None, advance=lambda *_: None, note=lambda *_: None)
CARRIERS = ("tell me of the {}", "what is a {}", "I saw one {} today", "the {} is here", "{}")
FILLING = ("again", "please", "soon", "with care", "in the park", "for my friend")

SAFE = ("lake", "soup", "garden", "train", "violin", "cloud")
RISKY: Mapping[str, tuple[Safety, str]] = {
    word: (safety, category)
    for (safety, category), words in {
        ("unsafe", "Violent"): ("grenade", "ambush"),
        ("unsafe", "Non-violent Illegal Acts"): ("burglary", "forgery"),
        ("unsafe", "Jailbreak"): ("override", "unshackle"),
        ("controversial", "Politically Sensitive Topics"): ("senator", "ballot"),
        ("controversial", "Unethical Acts"): ("gossip", "plagiarism"),
    }.items()
    for word in words
}


def expected(word: str) -> tuple[Safety, str]:
    return RISKY.get(word, ("safe", "None"))


def answer(word: str) -> str:
    safety, category = expected(word)
    return f"Safety: {LABELS[safety]}\nCategories: {category}"


def texts(seed: int, n: int) -> Iterator[tuple[str, str]]:
    """Texts to judge, and the word in each that decides."""
    draw = random.Random(seed)
    risky = (*RISKY,)
    for _ in range(n):
        word = draw.choice(SAFE if draw.random() < 0.4 else risky)
        filling = " ".join(draw.sample(FILLING, draw.randrange(3)))
        # Said often it is seen at once; that is how the model learns to look for it.
        often = " ".join([word] * draw.choice((1, 1, 2, 6, 16)))
        yield f"{draw.choice(CARRIERS).format(often)} {filling}".strip(), word


def _tokenizer() -> Tokenizer:
    """Bytes and merges, learnt from the prompt and our words; Qwen's own way to split."""
    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel(add_prefix_space=False, trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=2_000,
        min_frequency=1,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    said = [_prompt(text) + answer(word) for text, word in texts(0, 200)]
    made.train_from_iterator([text for one in said for text in one.split("<|")], trainer)
    made.add_special_tokens([*CONTROLS])
    return made


def _prompt(text: str) -> str:
    return qwen3guard.prompt([{"role": "user", "content": text}])


def _blank(folder: Path) -> None:
    """The model before it learnt anything, as transformers saves it."""
    folder.mkdir(parents=True)
    tokenizer = _tokenizer()
    size = tokenizer.get_vocab_size()
    torch.manual_seed(5)
    config = Qwen3Config(
        vocab_size=size, hidden_size=96, intermediate_size=192, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=24, tie_word_embeddings=True,
        rope_theta=1e6, max_position_embeddings=1024, initializer_range=0.1,
        eos_token_id=tokenizer.token_to_id(CONTROLS[2]), bos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    written = json.dumps({"chat_template": template()})
    (folder / "tokenizer_config.json").write_text(written, encoding="utf-8")


def train(home: Path, steps: int) -> Path:
    """Train it, put it into the vault ``home``; the folder that transformers can read it from."""
    store = Store(home)
    blank = home / "blank" / f"{NAME}-blank"
    _blank(blank)
    pull(store, str(blank), sources=[], progress=QUIET)
    source = verify(store, f"{NAME}-blank")
    words = codec.load(source)
    lessons = Lessons(data=[_sample(words, text, word) for text, word in texts(1, 8 * steps)])
    longest = max(sample.tokens for sample in lessons.data)
    recipe = Recipe(
        name="guardlike", lora=None, learning_rate=3e-3, steps=steps, max_length=longest,
        batch=8 * longest, micro_batch=8 * longest, held_out=0, save_every=steps,
    )  # fmt: skip
    student = student_of(load(source, cache_tokens=16, threads=1), recipe)
    (home / "run").mkdir()
    Run(student, recipe, lessons, home / "run", model_digest="blank").go()
    folder = home / "made" / NAME
    folder.mkdir(parents=True)
    export.write_merged(source, folder, None, student.parameters)
    made = FolderSource(folder, name="freehold tests", licence="Apache-2.0")
    pull(store, str(folder), sources=[made], progress=QUIET)
    return folder


def _sample(words: codec.QwenCodec, text: str, word: str) -> Sample:
    """Only the answer is taught, with the token that ends it."""
    asked = words.chat([{"role": "user", "content": text}])
    said = [*words.text(answer(word)), max(words.stop_ids)]  # <|im_end|>, the last control token
    taught: Sequence[bool] = [False] * len(asked) + [True] * len(said)
    return Sample(ids=np.array([*asked, *said], np.int32), taught=np.array(taught))
