"""The same model for OpenVINO: an official GGUF file, dequantised, as OpenVINO IR in int4.

    python -m venv /tmp/ovexport
    /tmp/ovexport/bin/pip install 'optimum-intel[openvino]' nncf gguf accelerate
    /tmp/ovexport/bin/python benchmarks/export_openvino.py MODEL.gguf FOLDER [--group-size 128]

OpenVINO GenAI cannot load a GGUF file with Q5_0 tensors itself, and those hold most of the default
model. So transformers dequantises it, and optimum-intel exports and quantises again: int4 without
calibration data, output matrix and embedding in 8 bits, tokenizer and template alongside. It needs
about eight times the file's size on disk while it works. Freehold is not imported; where
it keeps a model's file says

    python -c 'from freehold.store import *; print(Store(default_root()).weights_path("NAME"))'
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGES = {
    "optimum": "'optimum-intel[openvino]'",
    "openvino_tokenizers": "openvino-tokenizers",
    "nncf": "nncf",
    "gguf": "gguf",
    "accelerate": "accelerate",
}


def say(line: str) -> None:
    print(line, file=sys.stderr)


def dequantise(weights: Path, folder: Path) -> None:
    """Write ``weights`` as a Hugging Face folder in float32, tokenizer and template included."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # A file in the vault is named by its digest; transformers wants an ending.
    link = folder / "model.gguf"
    link.symlink_to(weights.resolve())
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=link.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=link.name)
    link.unlink()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def export(source: Path, folder: Path, *, group_size: int, symmetric: bool) -> None:
    """Write ``source`` as OpenVINO IR with int4 weights to ``folder``. Raises ``SystemExit``."""
    command = [sys.executable, "-m", "optimum.commands.optimum_cli", "export", "openvino"]
    command += ["--model", str(source), "--task", "text-generation-with-past"]
    command += ["--weight-format", "int4", "--group-size", str(group_size), "--ratio", "1.0"]
    if symmetric:
        command.append("--sym")
    if subprocess.run([*command, str(folder)], stdout=sys.stderr, check=False).returncode:
        raise SystemExit("optimum-intel could not export the model: see its words above")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("weights", metavar="MODEL.gguf", type=Path)
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="made; must not exist yet")
    parser.add_argument("--group-size", type=int, default=128)
    parser.add_argument("--asymmetric", action="store_true", help="with zero points")
    options = parser.parse_args()
    if not options.weights.is_file():
        parser.error(f"{options.weights} is no file: name a GGUF file")
    if options.folder.exists():
        parser.error(f"{options.folder} exists already: name a new folder, or remove it")
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        parser.error(f"{missing[0]} is not installed: pip install {' '.join(PACKAGES.values())}")
    options.folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.folder.parent) as work:
        plain, made = Path(work, "plain"), Path(work, "made")
        plain.mkdir()
        say("dequantising")
        dequantise(options.weights, plain)
        say(f"exporting: int4, groups of {options.group_size}")
        export(plain, made, group_size=options.group_size, symmetric=not options.asymmetric)
        for name in ("openvino_model.xml", "openvino_model.bin", "openvino_tokenizer.xml"):
            if not (made / name).is_file():
                raise SystemExit(f"the export made no {name}: install openvino-tokenizers too")
        made.replace(options.folder)
    say(f"ready: python benchmarks/compare.py --openvino {options.folder}")


if __name__ == "__main__":
    main()
