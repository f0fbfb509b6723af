"""docs/policy-lint.md says the truth about the linter's findings, and beside each check of IAM Access Analyzer."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from deployments.ecr_rules import RULES
from deployments.policy import IDS, lint
from tests.policy.cases import PULL, TWO, policy, stmt

DOCUMENT = (Path(__file__).parents[2] / "docs" / "policy-lint.md").read_text()
ROWS = [
    tuple(cell.strip() for cell in line[1:-1].split(" | ")) for line in DOCUMENT.splitlines() if line.startswith("| ")
]
CHECKS = [row for row in ROWS if re.fullmatch("[A-Z0-9]+(_[A-Z0-9]+)+", row[0])]
OURS = [row for row in CHECKS if len(row) == 3]
TEXTS = {"JSON_SYNTAX_ERROR": "{", "POLICY_SIZE_EXCEEDS_RESOURCE_POLICY_QUOTA": policy(stmt(TWO)).ljust(10_241)}


def text_of(check: str, example: str) -> str:
    if check in TEXTS:
        return TEXTS[check]
    changes: dict[str, Any] = json.loads(example.strip("`"))
    if changes.keys() & {"Version", "Statement"}:
        return json.dumps(changes)
    statement = {"Effect": "Allow", "Principal": {"AWS": TWO}, "Action": PULL} | changes
    return policy({name: value for name, value in statement.items() if value is not None})


def test_every_finding_is_in_the_table_with_its_subject() -> None:
    listed = {row[0]: row[1].lower() for row in ROWS if re.fullmatch("[EW]1[0-9]{2}", row[0])}

    assert listed == {name.removeprefix("deployments."): subject.lower() for name, subject in IDS.items()}


def test_every_rule_of_lifecycle_policies_and_tags_is_in_the_table() -> None:
    listed = {row[0]: (row[1].lower(), row[2]) for row in ROWS if row[0].startswith(("lifecycle.", "tags."))}

    assert listed == {
        rule.name: (rule.says.lower(), rule.instead)
        for rule in RULES.values()
        if not rule.name.startswith("deployments.")
    }


@pytest.mark.parametrize(("check", "ours", "example"), OURS, ids=[row[0] for row in OURS])
def test_the_example_of_a_check_yields_our_finding(check: str, ours: str, example: str) -> None:
    assert f"deployments.{ours}" in IDS
    assert f"deployments.{ours}" in {finding.id for finding in lint(text_of(check, example), partition="aws")}


def test_the_statement_that_the_examples_change_has_no_findings() -> None:
    assert lint(policy(stmt(TWO, PULL)), partition="aws") == ()


def test_every_check_of_access_analyzer_stands_there_once() -> None:
    names = [row[0] for row in CHECKS]

    assert len(names) == len(set(names)) == 153  # in November 2026
    assert all(row[1] for row in CHECKS)
