"""The table of ECR's actions against the model that botocore ships."""

from __future__ import annotations

import re
from pathlib import Path

import botocore.session

from deployments.policy.actions import KNOWN, NAMES, PULL, Purpose, expand, spelling, written
from deployments.policy.wildcard import covers, matches

# In AWS's service authorization reference, but no operations of the API.
PERMISSIONS_ONLY = {"ecr:BatchImportUpstreamImage", "ecr:GetImageCopyStatus", "ecr:ReplicateImage"}


def test_the_table_holds_every_operation_that_botocore_knows_and_nothing_else() -> None:
    model = botocore.session.get_session().get_service_model("ecr")
    operations = {f"ecr:{name}" for name in model.operation_names}

    assert set(NAMES.values()) == operations | PERMISSIONS_ONLY


def test_a_pull_needs_both_pull_actions() -> None:
    assert {written(action) for action in PULL} == {"ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"}
    assert Purpose.PULL.value == "pull"


def test_wildcards_are_ours_and_not_those_of_a_shell_or_a_regular_expression() -> None:
    for pattern, text in [("ecr:*", "ecr:"), ("a?c", "abc"), ("**a**", "xax"), ("", "")]:
        assert matches(pattern, text)
    for pattern, text in [("a?c", "ac"), ("[a]", "a"), ("a.c", "abc"), ("*a" * 12 + "*b", "a" * 5_000), ("", "a")]:
        assert not matches(pattern, text)


def test_a_pattern_covers_another_only_if_all_that_it_matches_is_matched() -> None:
    for pattern, other in [("ecr:*", "ecr:Put*"), ("*", "a?"), ("a?", "ab")]:
        assert covers(pattern, other)
        assert not covers(other, pattern)
    assert not covers("a?", "a*")


def test_patterns_of_one_meaning_have_one_spelling() -> None:
    assert spelling("ECR:Foo**?*") == spelling("ecr:foo?*") == "ecr:foo?*"
    assert expand("ecr:*") == KNOWN


def test_the_package_is_pure() -> None:
    package = Path(__file__).parents[2] / "deployments" / "policy"
    for path in package.glob("*.py"):
        imports = re.findall(r"^\s*(?:from|import) (\S+)", path.read_text(), re.MULTILINE)
        ours = [name for name in imports if name.startswith(("deployments", "registry_admin"))]
        assert all(name.startswith(("deployments.policy", "deployments.ecr_rules")) for name in ours), path
        assert not {"django", "boto3", "botocore", "os", "pathlib", "socket"} & {name.split(".")[0] for name in imports}
