"""The README and the pages of docs/, and what stands in them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parent.parent
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
BROUGHT_BY_THE_READER = ("pip", "pipx", "brew", "winget", "python3", "uv")
PROGRAMS = (*BROUGHT_BY_THE_READER, "dg", "dagster-imagegen")


@dataclass(frozen=True, kw_only=True)
class Block:
    """A code block. `output` is the block of text right after it."""

    language: str
    code: str
    output: str | None = None


@dataclass(frozen=True)
class Page:
    """A page, named by its path in the repository."""

    name: str

    @property
    def path(self) -> Path:
        """Where it is."""
        return ROOT / self.name

    @cached_property
    def text(self) -> str:
        """What stands in it."""
        return self.path.read_text()

    @cached_property
    def prose(self) -> str:
        """The text without its code blocks."""
        return FENCE.sub("", self.text)

    @cached_property
    def blocks(self) -> list[Block]:
        """The code blocks, in order."""
        found = list(FENCE.finditer(self.text))
        blocks: list[Block] = []
        for index, block in enumerate(found):
            following = found[index + 1] if index + 1 < len(found) else None
            output = None
            if following is not None and following[1] == "text":
                between = self.text[block.end() : following.start()]
                output = following[2] if not between.strip() else None
            blocks.append(Block(language=block[1], code=block[2], output=output))
        return blocks

    def code(self, language: str) -> list[str]:
        """The blocks of one language."""
        return [block.code for block in self.blocks if block.language == language]

    def section(self, heading: str) -> str:
        """The text between a second-level heading and the next one."""
        return self.text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]

    def commands(self) -> Iterator[list[str]]:
        """Every command, in blocks and in the text, as its words."""
        inline = re.findall(r"`([^`\n]+ [^`\n]+)`", self.prose)
        for line in "".join(self.code("sh")).splitlines() + inline:
            for part in line.split("&&"):
                words = part.split()
                if words and words[0].split("/")[-1] in PROGRAMS:
                    yield shlex.split(part, comments=True)


README = Page("README.md")
PAGES = (
    README,
    Page("example_project/README.md"),
    *(Page(f"docs/{path.name}") for path in sorted((ROOT / "docs").glob("*.md"))),
)
