"""The documentation as tests see it: documents, headings, links, tables, and the commands that a reader would type."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

TOP = Path(__file__).parents[2]
DOCS = TOP / "docs"
DOCUMENTS = (TOP / "README.md", *sorted(DOCS.glob("*.md")))

_FENCE = re.compile(r" *```(.*)")


class Command(NamedTuple):
    """A command of a document. `mark` is what stands after `sh` at its fence: who else runs it."""

    document: str
    mark: str
    text: str


class _Block(NamedTuple):
    line: int
    info: str
    lines: list[str]


def _blocks(text: str) -> list[_Block]:
    """Return fenced blocks, and those that are indented by four after an empty line: these count as `sh`."""
    blocks: list[_Block] = []
    fence: _Block | None = None
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        if found := _FENCE.fullmatch(line):
            if fence is None:
                fence = _Block(number, found[1].strip(), [])
                blocks.append(fence)
            else:
                fence = None
        elif fence is not None:
            fence.lines.append(line.strip())
        elif line.startswith("    "):
            continues = bool(blocks) and number == blocks[-1].line + len(blocks[-1].lines)
            if continues and blocks[-1].info == "sh":
                blocks[-1].lines.append(line.strip())
            elif not lines[number - 2].strip():
                blocks.append(_Block(number, "sh", [line.strip()]))
    return blocks


def shell_commands(path: Path) -> list[Command]:
    """Return what a reader types: lines of shell blocks without their comments, and `dcalqr ...` in running text."""
    text = path.read_text()
    name = str(path.relative_to(TOP))
    found = []
    for block in _blocks(text):
        language, _, mark = block.info.partition(" ")
        if language == "sh":
            joined = re.sub(r"\\\n", "", "\n".join(block.lines))
            texts = (re.sub(r"(^| +)#.*", "", line).strip() for line in joined.split("\n"))
            found += [Command(name, mark, text) for text in texts if text]
    for span in re.finditer(r"`(dcalqr [^`\n]* --config [^`\n]+)`", without_blocks(text)):
        found.append(Command(name, "", span[1]))
    return found


def without_blocks(text: str) -> str:
    """Return the text without fenced blocks."""
    return re.sub(r"(?ms)^ *```.*?^ *```", "", text)


def anchors(path: Path) -> set[str]:
    """Return the anchors that GitHub and others make of a document's headings."""
    titles = re.findall(r"(?m)^#+ (.+)$", without_blocks(path.read_text()))
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def links(path: Path) -> list[tuple[str, str]]:
    """Return the links into the project: path, as written, and anchor; each may be empty."""
    targets = re.findall(r"\]\(([^)]+)\)", without_blocks(path.read_text()))
    return [
        (target.partition("#")[0], target.partition("#")[2])
        for target in targets
        if not target.startswith(("http:", "https:"))
    ]


def rows(text: str, heading: str) -> list[list[str]]:
    """Return the cells of all tables below a heading, up to the next of its level; without their heads."""
    level = heading.partition(" ")[0]
    _, found, section = f"\n{text}".partition(f"\n{heading}\n")
    assert found, heading
    section = re.split(rf"\n#{{1,{len(level)}}} ", section)[0]
    lines = section.split("\n")
    tables = [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for number, line in enumerate(lines)
        if line.startswith("|") and not line.startswith("|---") and not lines[number + 1].startswith("|---")
    ]
    return [cells for cells in tables if cells]
