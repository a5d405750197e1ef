"""Behind an air gap: a bare root file system, one interface that leads nowhere, one folder."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from freehold.signing import keys
from tests.house.running import DEFAULT, FREEHOLD

TOOLS = ("sh", "dirname", "cat")
LEFT_OUT = shutil.ignore_patterns(
    "test",
    "tests",
    "idlelib",
    "tkinter",
    "site-packages",
    "__pycache__",
    "ensurepip",
    "*.a",
    "lib2to3",
)
INSIDE = """
import json, re, subprocess, sys, time, urllib.request, threading, os
FREEHOLD = "/opt/freehold/bin/freehold"
said = {}
said["compilers"] = [t for t in ("cc", "gcc", "clang") if os.path.exists("/usr/bin/" + t)]
said["verify"] = subprocess.run([FREEHOLD, "verify", MODEL]).returncode
said["chat"] = subprocess.run([FREEHOLD, "chat", "--temperature", "0"], text=True,
    input="What is the capital of France?", stdout=subprocess.PIPE).stdout
server = subprocess.Popen([FREEHOLD, "serve", "--port", "0", "--temporary-key"],
    stderr=subprocess.PIPE, text=True)
lines = []
for line in server.stderr:
    lines.append(line)
    if line.startswith("curl "):
        break
text = "".join(lines)
address = re.search(r"answers at (\\S+)", text).group(1)
key = re.search(r"stops: (\\S+)", text).group(1)
def get(path, body=None):
    request = urllib.request.Request(address + path, data=body and json.dumps(body).encode(),
        headers={"Authorization": "Bearer " + key, "Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request, timeout=120))
said["answer"] = get("/v1/completions", {"model": MODEL, "prompt": "1, 2, 3,", "max_tokens": 2,
    "temperature": 0})["choices"][0]["text"]
said["residency"] = get("/residency")["residency"]
server.terminate()
said["stopped"] = server.wait(60)
print(json.dumps(said))
"""


def bare_root(root: Path) -> None:
    """An interpreter, its standard library, the C and C++ libraries, and a shell. Nothing else."""
    base = Path(sys.base_prefix)
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    programs = [shutil.which(tool) for tool in TOOLS]
    python = (base / "bin" / version).resolve()
    lib = base / "lib" / version
    shutil.copytree(lib, root / "usr" / "lib" / version, ignore=LEFT_OUT, symlinks=True)
    for folder in ("usr/bin", "bin", "proc", "sys", "dev", "tmp", "bundle", "root", "opt", "etc"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    shutil.copy2(python, root / "usr" / "bin" / "python3")
    needed: set[str] = set()
    objects = [str(python), *(tool for tool in programs if tool)]
    objects += [str(path) for path in (lib / "lib-dynload").glob("*.so")]
    from freehold.qwen.ops import _kernels

    objects.append(str(_kernels.__file__))
    for one in objects:
        listed = subprocess.run(["ldd", one], check=False, capture_output=True, text=True).stdout
        needed |= set(re.findall(r"(/\S+)", listed)) - {one}
    libc = next(Path(path).parent for path in needed if "libc.so" in path)
    for part in ("rt", "dl", "pthread", "util", "m", "resolv", "nss_files"):  # the C library's own
        needed |= {str(path) for path in libc.glob(f"lib{part}.so.*")}
    for tool in programs:
        assert tool is not None
        shutil.copy2(tool, root / "bin" / Path(tool).name)
    for library in needed:
        target = root / library.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(library, target)


def run_inside(root: Path, bundle: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the bare root, in a network namespace where only loopback is up."""
    chroot = shutil.which("chroot")  # by its path: inside, another one holds
    setup = (
        f"mount --bind /proc {root}/proc && mount --rbind /dev {root}/dev && "
        f"mount --rbind /sys {root}/sys && mount --bind {bundle} {root}/bundle && "
        f"ip link set lo up && "
        f"exec env -i PATH=/bin:/usr/bin HOME=/root {chroot} {root} " + '"$@"'
    )
    return subprocess.run(
        ["unshare", "-n", "-m", "sh", "-c", setup, "sh", *command],
        check=False,
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.fixture(scope="module")
def bundle(real_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("carried") / "bundle"
    private = folder.parent / "keys"
    keys.create(private, "owner", "p256")
    subprocess.run(
        [*FREEHOLD, "bundle", str(folder), DEFAULT, "--key", "owner"],
        check=True,
        env={**os.environ, "FREEHOLD_HOME": str(real_root), "FREEHOLD_KEYS": str(private)},
    )
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_bare_machine_installs_verifies_serves_and_chats(bundle: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0 or any(
        shutil.which(t) is None for t in ("unshare", "chroot", "ip", "ldd")
    ):
        pytest.skip("needs root, unshare, chroot, ip and ldd")
    root = tmp_path / "root"
    bare_root(root)
    install = ("sh", "/bundle/install.sh", "/opt/freehold")
    done = run_inside(root, bundle, *install)
    assert done.returncode == 0, done.stderr
    assert f"in the vault: {DEFAULT}" in done.stdout
    program = f"MODEL = {DEFAULT!r}\n" + INSIDE
    used = run_inside(root, bundle, "/opt/freehold/bin/python", "-Ic", program)
    assert used.returncode == 0, used.stderr
    said = json.loads(used.stdout.splitlines()[-1])
    assert said["compilers"] == []
    assert said["verify"] == said["stopped"] == 0
    assert "Paris" in said["chat"]
    assert said["answer"].strip().startswith("4")
    assert said["residency"] == "enforced by the kernel"

    # An upgrade keeps what has grown here.
    home = root / "root" / ".local" / "share" / "freehold"
    manifest = json.loads(next((bundle / "models" / "manifests").iterdir()).read_bytes())
    assert manifest["manifest"]["name"] == DEFAULT
    kept = {
        home / "ledger.sqlite": b"a ledger",
        home / "passports" / ("0" * 64 + ".jsonl"): b'{"a": "statement"}\n',
        home / "freehold.toml": b"port = 9090\n",
    }
    for path, data in kept.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    again = run_inside(root, bundle, *install)
    assert again.returncode == 0, again.stderr
    for path, data in kept.items():
        assert path.read_bytes() == data

    # And a bundle that was damaged on the way installs nothing.
    damaged = tmp_path / "damaged"
    shutil.copytree(bundle, damaged, copy_function=os.link)
    wheel = next((damaged / "wheels").glob("rich-*.whl"))
    data = bytearray(wheel.read_bytes())
    wheel.unlink()
    data[len(data) // 2] ^= 1
    wheel.write_bytes(data)
    refused = run_inside(root, damaged, *install[:2], "/opt/other")
    assert refused.returncode == 3
    assert f"wheels/{wheel.name} was changed" in refused.stderr
    assert not (root / "opt" / "other").exists()


@pytest.mark.slow
def test_the_signature_names_who_packed_it(bundle: Path, tmp_path: Path) -> None:
    def check(key: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*FREEHOLD, "bundle", "--check", str(bundle), "--public-key", str(key)],
            check=False,
            capture_output=True,
            text=True,
        )

    assert check(bundle.parent / "keys" / "owner.pub").returncode == 0
    keys.create(tmp_path, "stranger", "p256")
    assert check(tmp_path / "stranger.pub").returncode == 3
