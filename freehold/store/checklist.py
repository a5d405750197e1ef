"""Whether a bundle's files are those that were packed. Needs Python alone: a bundle carries a copy
of this file as ``check.py``, to be run before anything of it is installed.

    python3 -I check.py [FOLDER]

``SHA256SUMS`` has a line ``HEX  PATH`` for each file, as ``sha256sum --check`` reads it.
"""

import hashlib
import os
import sys

LIST = "SHA256SUMS"
SEAL = "SHA256SUMS.dsse.json"


def digest(path):  # type: (str) -> str
    """SHA-256 of a file, in hex."""
    hasher = hashlib.sha256()
    with open(path, "rb") as file:  # noqa: PTH123
        for block in iter(lambda: file.read(1 << 20), b""):
            hasher.update(block)
    return hasher.hexdigest()


def found_in(folder):  # type: (str) -> list[str]
    """Every file but the list and its signature, relative, sorted, with forward slashes. A link to
    a folder counts as a file: nobody walks into it."""
    names = []
    for where, folders, files in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(where, name))]  # noqa: PTH114, PTH118
        for name in files + links:
            path = os.path.relpath(os.path.join(where, name), folder)  # noqa: PTH118
            names.append(path.replace(os.sep, "/"))
    return sorted(set(names) - {LIST, SEAL})


def trouble(folder):  # type: (str) -> list[str]
    """What is wrong, one line a file; empty when all is as it was packed."""
    try:
        with open(os.path.join(folder, LIST), encoding="utf-8") as file:  # noqa: PTH118, PTH123
            lines = file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        return [f"{LIST} cannot be read: {error}"]
    wanted = {}
    for number, line in enumerate(lines, 1):
        value, gap, path = line.partition("  ")
        inside = path and not path.startswith("/") and ".." not in path.split("/")
        if len(value) != 64 or not gap or not inside or path in wanted:
            return [f"{LIST}, line {number}: not a digest and a path"]
        wanted[path] = value
    there = found_in(folder)
    wrong = [f"{path} is missing" for path in sorted(set(wanted) - set(there))]
    wrong += [f"{path} was added" for path in there if path not in wanted]
    for path in there:
        whole = os.path.join(folder, *path.split("/"))  # noqa: PTH118
        if os.path.islink(whole) or not os.path.isfile(whole):  # noqa: PTH113, PTH114
            wrong.append(f"{path} is a link or no plain file")
        elif path in wanted and digest(whole) != wanted[path]:
            wrong.append(f"{path} was changed")
    return wrong


if __name__ == "__main__":
    problems = trouble(sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(__file__))  # noqa: PTH120
    sys.stderr.write("".join(problem + "\n" for problem in problems))
    sys.exit(3 if problems else 0)
