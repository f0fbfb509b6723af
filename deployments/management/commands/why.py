"""`manage.py why -`: why a node could not pull an image, by the text that the node printed.

The text comes from standard input or a file, never from the command line, where other users of the host would see it.
It is not stored and not logged. Exit status: 0 the layer is named (certain or probable), 1 it cannot be known from
here, 2 wrong usage.
"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from deployments.checks import WITHOUT_PAGES
from deployments.errors import RegistryError
from deployments.pull_failures import MAX_BYTES
from deployments.reconcile import generation, why
from deployments.reconcile.why import Layer, Why


class Command(BaseCommand):
    requires_system_checks = WITHOUT_PAGES
    help = (
        "Say why an image could not be pulled: the text that kubelet, containerd, docker, ECS or buildx printed, on "
        "standard input (-) or in a file."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", metavar="FILE", help="a file with the text, or -")
        parser.add_argument(
            "--look", action="store_true", help="also ask AWS for the repository policy and the image; reads only"
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        text = _read(options["file"])
        try:
            configuration = generation.in_force(settings.CONFIGURATION.require())
        except RegistryError as error:
            raise CommandError(str(error)) from None
        answer = why.explain(text=text, configuration=configuration, look=options["look"])
        if options["json"]:
            self._line(json.dumps(answer.as_document(), indent=2))
        else:
            for line in _lines(answer):
                self._line(line)
        if answer.layer is Layer.UNKNOWN:
            sys.exit(1)

    def _line(self, line: str) -> None:
        """Print a line. A character that the terminal's encoding lacks is printed as its code."""
        encoding = getattr(self.stdout, "encoding", None) or "utf-8"
        self.stdout.write(line.encode(encoding, "backslashreplace").decode(encoding))


def _lines(answer: Why) -> list[str]:
    lines = [f"{answer.title}.", answer.says]
    if answer.possible:
        lines.append(answer.others)
    if answer.since:
        lines.append(f"Since {answer.since:%Y-%m-%d %H:%M} UTC. {answer.since_words}")
    elif answer.since_words:
        lines.append(f"Since when is not known: {answer.since_words}")
    lines += [f"- {fact}" for fact in answer.facts]
    lines += [f"? {words}" for words in answer.not_known]
    for step in answer.steps:
        lines += [f"→ {step.words}"] + ([f"      {step.command}"] if step.command else [])
    if answer.look:
        lines.append(f"AWS was called: {answer.look.words}.")
    return lines


def _read(path: str) -> str:
    """The text of a file or of standard input. Raises CommandError; a text that is too long is not read on."""
    try:
        if path == "-":
            data = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with Path(path).open("rb") as file:
                data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a file name"
        raise CommandError(f"The text cannot be read: {reason}.", returncode=2) from None
    if len(data) > MAX_BYTES:
        raise CommandError(
            f"The text is longer than {MAX_BYTES:,} bytes. Give only the lines about the pull.", returncode=2
        )
    if not data.strip():
        raise CommandError("The text is empty. Give the lines that the node printed.", returncode=2)
    return data.decode("utf-8", "replace")
