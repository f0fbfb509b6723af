"""The documents name what is there: commands, options, targets, files. Every command in a block is run or marked."""

from __future__ import annotations

import argparse
import importlib.util
import re
from collections import Counter
from pathlib import Path

import pytest
from django.core.management import get_commands, load_command_class

from deployments.api import api
from tests.docs.pages import NOT_RUN, ROOT, TERMINALS, Block, blocks, pages, statements

BLOCKS = [block for page in pages() for block in blocks(page)]
#: How many blocks are marked, by reason. A new one has to be counted here, or to run.
MARKED = {"another test": 3, "ci": 5, "clone": 2, "cluster": 1, "host": 1, "itself": 1, "other": 2}
#: A call of a command of ours, also after another command; `registry-admin` is also the name of a namespace.
_CALL = re.compile(r"(?:manage\.py|(?:^|[;&|(/] *)registry-admin) ([a-z_]\w*)([^|;&)\n]*)")
_INLINE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def named(page: Path) -> list[str]:
    """The commands in the page's text: its code spans, and the lines of its blocks."""
    text = page.read_text()
    lines = [
        line.strip()
        for block in BLOCKS
        if block.page == str(page.relative_to(ROOT))
        for line in block.text.splitlines()
    ]
    return _INLINE.findall(text) + lines


def test_every_command_in_a_block_is_run_or_says_why_not() -> None:
    left_out = [block.where for block in BLOCKS if block.has_a_command and block.language != "sh" and not block.reason]

    assert left_out == [], "make it a ```sh block, which is run, or mark it: tests/docs/pages.py says how"


def test_the_blocks_that_are_not_run_are_counted_by_their_reasons() -> None:
    assert Counter(block.reason for block in BLOCKS if block.reason) == MARKED
    assert set(MARKED) <= set(NOT_RUN)


def test_every_mark_is_one_that_the_reader_of_pages_knows() -> None:
    def known(block: Block) -> bool:
        return bool(block.reason or block.mark == TERMINALS or block.database in ("sqlite", "postgresql"))

    assert [block.where for block in BLOCKS if block.mark and not known(block)] == []


def test_every_page_with_a_block_that_can_run_is_run() -> None:
    run = {block.page for block in BLOCKS if block.language == "sh" and not block.reason}
    tests = (ROOT / "tests/docs/test_pages_run.py").read_text()

    assert run == set(re.findall(r'of\(\s*"([^"]+\.md)"', tests))


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "sh"], ids=lambda block: block.where)
def test_a_shell_block_is_made_of_complete_commands(block: Block) -> None:
    assert list(statements(block))


def parser_of(name: str) -> argparse.ArgumentParser:
    return load_command_class(get_commands()[name], name).create_parser("manage.py", name)


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    found: set[str] = set()
    for action in parser._actions:
        found |= set(action.option_strings)
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                found |= options_of(below)
    return found


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_and_option_that_a_page_names_exists(page: Path) -> None:
    wrong = []
    for text in named(page):
        for name, rest in _CALL.findall(text):
            if name in ("help", "version"):
                continue
            if name not in get_commands():
                wrong.append(text)
                continue
            options = set(re.findall(r"(?<=\s)--[a-z][\w-]*", re.split(r" (?:#|--) ", rest)[0]))
            if unknown := options - options_of(parser_of(name)):
                wrong.append(f"{text}: {sorted(unknown)}")

    assert wrong == []


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_make_target_that_a_page_names_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named_targets = {target for text in named(page) for target in re.findall(r"^make ([a-z][\w-]*)", text)}

    assert named_targets - targets == set()


def test_the_page_of_commands_is_printed_from_the_commands() -> None:
    spec = importlib.util.spec_from_file_location("commands_page", ROOT / "docs/commands.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    page: str = module.page()

    assert (ROOT / "docs/commands.md").read_text() == page, (
        "ENV_FILE=/dev/null python docs/commands.py > docs/commands.md"
    )


def test_the_page_of_the_api_has_every_request_and_its_sentence() -> None:
    routes = [
        f"| `{method.upper()} {path}` | {operation['summary']} |"
        for path, operations in api.get_openapi_schema()["paths"].items()
        if "/manage/" not in path
        for method, operation in operations.items()
    ]
    lines = (ROOT / "docs/api.md").read_text().splitlines()

    assert sorted(line for line in lines if line.startswith("| `")) == sorted(routes)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    broken = []
    for link in _LINK.findall(page.read_text()):
        path, _, anchor = link.partition("#")
        if "://" in link or link.startswith("mailto:"):
            continue
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            broken.append(link)

    assert broken == []
