"""The blocks of code in a Markdown page, and the statements of a shell block.

A fence of the language `sh` is run by tests/docs/test_pages_run.py. An HTML comment before it says otherwise:

    <!-- not run: docker -->       not run, for a reason of NOT_RUN
    <!-- with: postgresql -->      run only in an installation with this database, or `sqlite`
    <!-- terminals -->             each line is a process that goes on running, as in a terminal of its own

A line that ends in `# exit status 3` has to end with that status, every other line with 0.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: Why a block is not run here, by the word in its comment.
NOT_RUN = {
    "another test": "a test of its own runs it",
    "aws": "calls AWS, or its command line",
    "ci": "runs in a CI system; tests/admin and tests/api run its requests",
    "clone": "downloads the code or its packages, which takes minutes",
    "cluster": "needs a Kubernetes cluster",
    "docker": "needs a container engine",
    "excerpt": "a part of a script or an example of output, not a command",
    "host": "changes a host: its users, packages or files outside of the installation",
    "itself": "runs the tests, or processes for minutes; tests/e2e runs it",
    "other": "needs the server or the account of somebody else",
}
TERMINALS = "terminals"
#: A line that starts with one of the commands that have to be run or marked.
COMMAND = re.compile(
    r"^\s*(?:\$ )?(?:[A-Z_]+=\S* )*(?:sudo )?(?:\S*python3? )?(?:\S*/)?"
    r"(?:manage\.py|registry-admin|make|curl|psql)(?= |$)"
)
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[\w-]*)\s*$")
_MARK = re.compile(r"^ *<!-- *(?P<mark>[^>]*?) *-->\s*$")
_HEREDOC = re.compile(r"<<-?\s*['\"]?(\w+)['\"]?")
_STATUS = re.compile(r"# exit status (\d+)\s*$")


@dataclass(frozen=True, slots=True)
class Block:
    """`line`: the number of its first line. `language`: of its fence, empty if it is indented. `mark`: its comment.

    `heading`: of its section.
    """

    page: str
    line: int
    language: str
    mark: str
    heading: str
    text: str

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def reason(self) -> str:
        """The word of NOT_RUN with which it is marked, or nothing."""
        return self.mark.removeprefix("not run:").strip() if self.mark.startswith("not run:") else ""

    @property
    def database(self) -> str:
        """The database that it is for, or nothing."""
        return self.mark.removeprefix("with:").strip() if self.mark.startswith("with:") else ""

    @property
    def has_a_command(self) -> bool:
        return any(COMMAND.match(line) for line in self.text.splitlines())


@dataclass(frozen=True, slots=True)
class Statement:
    """A complete command of a shell block, and the exit status that it has to end with."""

    line: int
    text: str
    status: int = 0


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "sandbox" / "README.md"]


def blocks(page: Path) -> Iterator[Block]:
    """Every fenced or indented block of code of the page, in order."""
    name, lines = str(page.relative_to(ROOT)), page.read_text().splitlines()
    mark, heading, at = "", "", 0
    while at < len(lines):
        line = lines[at]
        if fence := _FENCE.match(line):
            end = next(n for n in range(at + 1, len(lines)) if lines[n].strip() == "```")
            indent = len(fence["indent"])
            yield Block(
                name, at + 2, fence["language"], mark, heading, "\n".join(each[indent:] for each in lines[at + 1 : end])
            )
            mark, at = "", end + 1
        elif line.startswith("    ") and (at == 0 or not lines[at - 1].strip()):
            end = at
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            yield Block(name, at + 1, "", mark, heading, "\n".join(each[4:] for each in lines[at:end]).rstrip())
            mark, at = "", end
        else:
            if line.startswith("#"):
                heading = line.lstrip("# ")
            if found := _MARK.match(line):
                mark = found["mark"]
            elif line.strip():
                mark = ""
            at += 1


def statements(block: Block) -> Iterator[Statement]:
    """The lines of a shell block, joined to complete commands. Raises ValueError if its last command is incomplete."""
    held: list[str] = []
    for number, line in enumerate(block.text.splitlines(), block.line):
        if not held and (not line.strip() or line.lstrip().startswith("#")):
            continue
        held.append(line)
        text = "\n".join(held)
        if _is_complete(text):
            status = _STATUS.search(line)
            yield Statement(number - len(held) + 1, text, int(status[1]) if status else 0)
            held = []
    if held:
        raise ValueError(f"{block.where}: the last command of this block is not complete")


def _is_complete(text: str) -> bool:
    lines = text.splitlines()
    if lines[-1].endswith("\\"):
        return False
    if (here := _HEREDOC.search(text)) and here[1] not in (line.strip() for line in lines[1:]):
        return False
    return subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True).returncode == 0
