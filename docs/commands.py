"""Print docs/commands.md: every command of the program with its options, from the commands themselves.

ENV_FILE=/dev/null python docs/commands.py > docs/commands.md
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "registry_admin.settings")

import django
from django.core.management import get_commands, load_command_class

HEAD = """# Commands

In a checkout `python manage.py NAME`, in an installed package `registry-admin NAME`: the same commands. `NAME --help`
prints what stands here, and Django's own options (`--verbosity`, `--traceback`, …). README has
[the ones that a day needs](../README.md#commands).

Django's commands work too: `migrate`, `check --deploy`, `collectstatic --noinput`, `dumpdata`, `loaddata`, `shell`; and
`axes_reset_username NAME` ends the pause after wrong passwords. This page is printed by `docs/commands.py`.
"""
#: Options that every command has; Django documents them.
OF_DJANGO = {
    "-h", "--version", "-v", "--settings", "--pythonpath", "--traceback", "--no-color", "--force-color",
    "--skip-checks",
}  # fmt: skip


def page() -> str:
    names = sorted(name for name, app in get_commands().items() if app == "deployments")
    return "\n".join([HEAD, *(line for name in names for line in section(name))])


def section(name: str) -> Iterator[str]:
    command = load_command_class("deployments", name)
    parser = command.create_parser("manage.py", name)
    yield f"## `{name}`\n"
    yield f"{sentence(command.help)}\n"
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    yield from options(name, parser)
    for action in below:
        helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
        for word, parser_below in action.choices.items():
            if word in helps:
                yield f"`{name} {word}`: {sentence(helps[word])}\n"
                yield from options(f"{name} {word}", parser_below)
    status = re.search(r"^Exit status[^\n]*(?:\n[^\n]+)*", sys.modules[command.__module__].__doc__ or "", re.MULTILINE)
    if status:
        yield f"{sentence(status[0])}\n"


def options(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    """A line for each option and argument of a command."""
    lines = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction) or OF_DJANGO & set(action.option_strings):
            continue
        if action.help == argparse.SUPPRESS:
            continue
        value = "" if action.nargs == 0 else f" {action.metavar or '|'.join(action.choices or [action.dest.upper()])}"
        names = ", ".join(f"`{option}{value}`" for option in action.option_strings)
        given = names or f"`{action.metavar or action.dest.upper()}`"
        needed = ", required" if action.required and action.option_strings else ""
        lines.append(f"- {given}{needed}" + (f": {sentence(action.help)}" if action.help else ""))
    if lines:
        yield from lines
        yield ""


def sentence(text: str) -> str:
    """The text on one line, with a full stop."""
    line = " ".join(text.split()).replace("%%", "%")
    line = line.replace("%(default)s", "the default")
    return line if line.endswith((".", ":")) or not line else f"{line}."


if __name__ == "__main__":
    django.setup()
    sys.stdout.write(page())
