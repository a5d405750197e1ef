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
import shutil
import sys
import tempfile
from pathlib import Path


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
    """Write ``source`` as OpenVINO IR with int4 weights to ``folder``."""
    from optimum.exporters.openvino import main_export
    from optimum.intel import OVConfig, OVWeightQuantizationConfig

    main_export(
        str(source),
        folder,
        task="text-generation-with-past",
        ov_config=OVConfig(
            quantization_config=OVWeightQuantizationConfig(
                bits=4, sym=symmetric, group_size=group_size, ratio=1.0
            )
        ),
    )


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
    options.folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.folder.parent) as work:
        plain, made = Path(work, "plain"), Path(work, "made")
        plain.mkdir()
        try:
            say("dequantising")
            dequantise(options.weights, plain)
            say(f"exporting: int4, groups of {options.group_size}")
            export(plain, made, group_size=options.group_size, symmetric=not options.asymmetric)
        except ImportError as error:
            parser.error(f"{error}: install 'optimum-intel[openvino]' nncf gguf accelerate")
        for name in ("openvino_model.xml", "openvino_model.bin", "openvino_tokenizer.xml"):
            if not (made / name).is_file():
                raise SystemExit(f"the export made no {name}: install openvino-tokenizers too")
        made.replace(options.folder)
        shutil.rmtree(plain)
    say(f"ready: python benchmarks/compare.py --openvino {options.folder}")


if __name__ == "__main__":
    main()
