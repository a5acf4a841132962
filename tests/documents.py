"""What the tests of the README and of the docs share: their blocks of code, and what is checked of a command."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").glob("*.md"))
DOCUMENTS = [README, ROOT / ".github" / "CONTRIBUTING.md", *PAGES]

_BLOCK = re.compile(r"^ *```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^ *```", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block: its language, the file that it is (or an empty string), and its text."""

    language: str
    title: str
    text: str


class Command(NamedTuple):
    """A command of a document, in words, without the environment variables before it."""

    document: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.document}: {' '.join(self.words)}"

    def option(self, name: str) -> str:
        return self.words[self.words.index(name) + 1]


def blocks(document: Path) -> list[Block]:
    """The fenced blocks of a document, in order."""
    return [Block(*found) for found in _BLOCK.findall(document.read_text())]


def _words(line: str) -> Iterator[str]:
    started = False
    for word in shlex.split(line, comments=True):
        started = started or not re.match(r"[A-Z_]+=", word)
        if started:
            yield word


def commands(*documents: Path) -> list[Command]:
    """The commands of documents, one per line of their blocks of bash."""
    return [
        Command(document.name, tuple(_words(line)))
        for document in documents
        for block in blocks(document)
        if block.language == "bash"
        for line in block.text.replace("\\\n", " ").splitlines()
        if line.strip() and not line.startswith("#")
    ]
