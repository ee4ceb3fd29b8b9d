"""The fenced blocks of the documentation, and the marks in it that readers do not see.

Two HTML comments help where a page alone is not enough::

    <!-- setup
    ds = ...            # Python that runs here, before the blocks that follow
    -->

    <!-- not run: it takes hours -->      (the next block is compiled and its names checked, no more)
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "recipes/README.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))


class Block(NamedTuple):
    """A fenced block, or the Python in a setup comment."""

    page: str
    line: int
    """Of its first line of content, from 1."""
    language: str
    text: str
    is_run: bool = True


BLOCK = re.compile(
    r"^<!-- setup\n(?P<setup>.*?)^-->"
    r"|(?P<mark><!-- not run: [^\n]+ -->\n+)?^```(?P<language>[^\n]*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


def blocks_of(text: str, page: str) -> Iterator[Block]:
    for found in BLOCK.finditer(text):
        name = "text" if found["setup"] is None else "setup"
        line = text.count("\n", 0, found.start(name)) + 1
        language = "python" if name == "setup" else found["language"]
        yield Block(page, line, language, found[name], found["mark"] is None)


BLOCKS = [block for page in PAGES for block in blocks_of(page.read_text(), str(page.relative_to(ROOT)))]
