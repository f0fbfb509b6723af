"""What is written is true: every setting documented, the operator's IAM policy is what the code calls."""

from __future__ import annotations

import json
import re
from io import StringIO
from pathlib import Path

from django.core.management import call_command, get_commands

from deployments.notify.news import EVENTS
from deployments.settings_table import SETTINGS

ROOT = Path(__file__).resolve().parent.parent
AWS = ROOT / "deployments" / "aws"
README = (ROOT / "README.md").read_text()
DECISIONS = (ROOT / "DECISIONS.md").read_text()
#: Calls that a push makes with the log-in that we issue; an ECR token acts with the rights of the identity that fetched
#: it.
PUSH = {
    "ecr:BatchCheckLayerAvailability",
    "ecr:CompleteLayerUpload",
    "ecr:InitiateLayerUpload",
    "ecr:PutImage",
    "ecr:UploadLayerPart",
}


def test_the_env_example_and_the_table_of_settings_are_printed_from_the_settings() -> None:
    example, table = StringIO(), StringIO()
    call_command("env_example", stdout=example)
    call_command("env_example", readme=True, stdout=table)

    assert (ROOT / ".env.example").read_text() == example.getvalue()
    assert f"\n\n{table.getvalue()}\n" in (ROOT / "docs/settings.md").read_text()
    assert [setting.name for setting in SETTINGS if f"`{setting.name}`" not in table.getvalue()] == []


def test_every_command_of_ours_is_in_the_readme() -> None:
    ours = [name for name, app in get_commands().items() if app == "deployments"]

    assert [name for name in ours if name != "env_example" and f"manage.py {name}" not in README] == []


def test_every_notification_is_in_its_document() -> None:
    document = (ROOT / "docs/notifications.md").read_text()

    assert [event for event in EVENTS if f"`{event}`" not in document] == []


def test_the_operators_iam_policy_is_the_sum_of_what_the_calls_to_aws_say_they_need() -> None:
    source = "".join(path.read_text() for path in AWS.glob("*.py"))
    named = set()
    for sentence in re.findall(r"Permissions?:([^\"]*?)\.(?:\s|\")", source):
        named |= set(re.findall(r"\b(?:ecr|sqs|sts):\w+", sentence))
    policy = json.loads((ROOT / "docs/iam-policy.json").read_text())
    allowed = [action for statement in policy["Statement"] for action in statement["Action"]]

    assert len(allowed) == len(set(allowed))
    assert set(allowed) - PUSH == named


def test_every_call_to_aws_names_its_permission() -> None:
    source = "".join(path.read_text() for path in AWS.glob("*.py"))
    called = set(re.findall(r"_call\(\s*\"(\w+)\"", source))
    named = set(re.findall(r"\b(?:ecr|sqs|sts):(\w+)", source))

    assert {name.removesuffix("Batch") for name in called} <= named


def test_every_decision_that_the_code_cites_stands_in_decisions_once() -> None:
    stands = re.findall(r"^### (D-[a-z0-9-]+): ", DECISIONS, re.MULTILINE)
    cited = {
        name: str(path.relative_to(ROOT))
        for folder in ("deployments", "registry_admin", "sandbox", "tests")
        for path in (ROOT / folder).rglob("*.py")
        for name in re.findall(r"\bD-[a-z][a-z0-9-]*[a-z0-9]", path.read_text())
    }
    inside = re.findall(r"`(D-[a-z0-9-]+)`", DECISIONS.partition("\n## ")[2])

    assert cited
    assert [name for name in stands if stands.count(name) > 1] == []
    assert {name: path for name, path in cited.items() if name not in stands} == {}
    assert set(inside) - set(stands) == set()


def test_every_dependency_has_its_reason_in_decisions() -> None:
    edited = "".join(path.read_text() for path in sorted(ROOT.glob("requirements*.in")))
    direct = set(re.findall(r"^([\w.-]+)(?:\[\S+\])?==", edited, re.MULTILINE))
    table = DECISIONS.partition("### D-dependencies: ")[2]

    assert {"Django", "oras", "schemathesis"} <= direct
    assert {name for name in direct if not re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", table)} == set()


def test_the_changelog_has_versions_with_dates_and_the_six_kinds_of_change_only() -> None:
    headings = re.findall(r"^##+ .*", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    version = r"## \[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d"
    change = r"### (Added|Changed|Deprecated|Removed|Fixed|Security)"

    assert headings[0] == "## [Unreleased]"
    assert [heading for heading in headings[1:] if not re.fullmatch(f"{version}|{change}", heading)] == []
