"""What training computes on: the processor, or a GPU of NVIDIA's through PyTorch.

A device decides bits, as the kind of a processor does: a run is begun, gone on with and done again
on one device. torch is imported where it is asked, for the starter has none.
"""

from __future__ import annotations

import os
import re
import subprocess
from functools import cache

from freehold.errors import UsageError

CPU, CUDA = "cpu", "cuda"


def check(device: str, ranks: int = 1) -> str:
    """``device`` if it is one: ``cpu``, ``cuda``, or for one process alone ``cuda:N``. Raises
    ``UsageError``."""
    if not re.fullmatch(r"cpu|cuda(:\d{1,3})?", device):
        raise UsageError(f"device is {device!r}: take cpu, cuda or cuda:N", param="device")
    if ranks > 1 and ":" in device:
        raise UsageError(
            f"device is {device!r}: each of {ranks} ranks takes a GPU of its own, so say cuda",
            param="device",
        )
    return device


def kind_of(device: str) -> str:
    """``cpu`` or ``cuda``."""
    return device.partition(":")[0]


def prepare(device: str) -> None:
    """Have PyTorch compute the same bits each time, or refuse to compute. To be called before the
    first computation: cuBLAS asks once how much memory it may sum in (PyTorch's notes on
    reproducibility). Raises ``UsageError`` where the device is not there."""
    import torch

    if kind_of(device) == CUDA:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
        try:
            torch.empty(1, device=device)
        except (AssertionError, RuntimeError) as error:
            raise UsageError(
                f"device {device!r} cannot be used here: {error}. Take a PyTorch with CUDA and a "
                "GPU that nvidia-smi lists, or --device cpu",
                param="device",
            ) from None
    torch.use_deterministic_algorithms(True)


def environment(device: str) -> dict[str, str]:
    """What bits depend on where they are not the processor's: the device's name, CUDA and cuDNN."""
    if kind_of(device) == CPU:
        return {}
    import torch

    return {
        "device": kind_of(device),
        "gpu": torch.cuda.get_device_name(device),
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),  # type: ignore[no-untyped-call]
    }


@cache
def compiler() -> str:
    """The C++ compiler's first line about itself: bits depend on it. Raises ``UsageError`` where
    there is none."""
    name = os.environ.get("CXX", "g++")
    try:
        said = subprocess.run([name, "--version"], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise UsageError(
            f"--compile needs a C++ compiler, and {name} does not run: {error}. Install g++, or "
            "leave --compile out",
            param="compiled",
        ) from None
    return said.stdout.partition("\n")[0]
