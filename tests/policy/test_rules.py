"""The rules that code and tests cite by number stand in RULES.md, each with an example and a source."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SECTIONS = re.split(r"^## Rule ", (ROOT / "deployments/policy/RULES.md").read_text(), flags=re.MULTILINE)[1:]
CITATION = re.compile(r"\b[Rr]ules? (\d+(?:(?:, | and | to )\d+)*)")


def test_every_rule_that_is_cited_by_number_stands_in_the_rules() -> None:
    written = [section.partition(":")[0] for section in SECTIONS]
    cited = {
        number
        for folder in (ROOT / "deployments/policy", ROOT / "tests/policy")
        for path in folder.glob("*.py")
        for numbers in CITATION.findall(path.read_text())
        for number in re.findall(r"\d+", numbers)
    }

    assert written == [str(number) for number in range(1, 13)]
    assert cited >= {"1", "5", "12"}
    assert cited - set(written) == set()


def test_every_rule_has_an_example_that_is_json_and_a_source() -> None:
    for section in SECTIONS:
        for example in re.findall(r"```json\n(.*?)```", section, re.DOTALL) or [""]:
            json.loads(example)
        assert re.search(r"^Sources?: ", section, re.MULTILINE), section.partition("\n")[0]
