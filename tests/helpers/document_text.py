"""What the project's documents hold: links, names of files, blocks of code and command lines."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
READ_BY_USERS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
PAGES = (*READ_BY_USERS, ROOT / "benchmarks" / "README.md", ROOT / "CHANGELOG.md")

FENCE = re.compile(r"^ *```(.*?)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
INLINE = re.compile(r"`([^`]+)`")
FOLDERS = ("docs", "benchmarks", "tests", "optimizer", "formulations")


class Fence(NamedTuple):
    """A block of code: what stands behind the opening quotes, and the lines inside."""

    language: str
    text: str


def fences(text: str) -> list[Fence]:
    """The blocks of code of a page, in their order."""
    return [Fence(*found) for found in FENCE.findall(text)]


def shell_lines(text: str) -> Iterator[list[str]]:
    """The words of every command in the page's blocks of shell code, without comments; one command after `&&` or a
    line break, and a backslash joins lines."""
    for block in fences(text):
        if block.language == "sh":
            for line in re.split(r"\n|&&", block.text.replace("\\\n", " ")):
                if words := shlex.split(line, comments=True):
                    yield words


def inline_commands(text: str) -> Iterator[list[str]]:
    """The words of every `moeplan ...` inside a sentence; a line break there is a space."""
    for quoted in INLINE.findall(FENCE.sub("", text)):
        if quoted.startswith("moeplan") and quoted.split()[0] == "moeplan" and len(quoted.split()) > 1:
            yield shlex.split(" ".join(quoted.split()))


def headings(text: str) -> set[str]:
    """The anchors of a page, as they are made of its headings: lower case, words joined by hyphens."""
    found = re.findall(r"^#+ (.*)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in found}


def broken_links(page: Path, text: str) -> list[str]:
    """The links of a page to files that are not there, or to headings that these files do not have."""
    found = []
    for link in LINK.findall(FENCE.sub("", text)):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name) if name else page
        inside = headings(text if target == page else target.read_text()) if anchor and target.is_file() else {anchor}
        if not target.exists() or anchor not in inside:
            found.append(link)
    return found


def named_files(text: str) -> set[str]:
    """The files and folders of the project that a page names: paths that begin in one of its folders, and in backticks
    what ends like a file of Python, Markdown or SVG."""
    folders = "|".join(FOLDERS)
    found = {path.rstrip(".") for path in re.findall(rf"(?<![\w/.-])((?:{folders})/[\w./-]*\w)", text)}
    for quoted in INLINE.findall(FENCE.sub("", text)):
        if re.fullmatch(r"[\w./-]+\.(py|md|svg)", quoted):
            found.add(quoted)
    return found


def is_there(name: str, files: set[str]) -> bool:
    """Whether a name stands for a file or a folder of the project: by its whole path or by the end of one."""
    return any(f"/{file}".endswith(f"/{name}") for file in files) or (ROOT / name).exists()
