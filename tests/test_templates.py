"""The templates are written as `make format` writes them, and short enough to read in a diff."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from django.conf import settings
from django.template.loader import get_template
from djhtml.modes import DjHTML

LONGEST = 120  # characters, as of a line of code
FOLDER = Path(settings.BASE_DIR) / "templates"
TEMPLATES = sorted(FOLDER.rglob("*.html"))


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: str(path.relative_to(FOLDER)))
def test_a_template_is_formatted_and_has_no_long_line(template: Path) -> None:
    text = template.read_text()

    assert DjHTML(text).indent(2) == text, "run `make format`"
    assert [line for line in text.splitlines() if len(line) > LONGEST] == []


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: str(path.relative_to(FOLDER)))
def test_a_template_knows_each_tag_and_filter_that_it_uses(template: Path) -> None:
    assert get_template(str(template.relative_to(FOLDER)))


def test_no_template_compares_what_a_row_is_in_to_decide_what_to_offer() -> None:
    compared = re.compile(r"\{% (?:el)?if [^%]*\.(?:status|mode|level|verdict|outcome|origin|kind) [=!]=|\bmay\.")

    assert [str(path.relative_to(FOLDER)) for path in TEMPLATES if compared.search(path.read_text())] == []
