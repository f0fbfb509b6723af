"""The cause of a repository's trouble, from the facts of its row."""

from __future__ import annotations

import pytest

from deployments import errors
from deployments.catalogue import ENTRIES, Entry, _parts, read_back
from deployments.reconcile import causes
from deployments.reconcile.causes import Cause, of_differences, of_error, of_row
from deployments.row_values import Difference, Part

OPERATION = "SetRepositoryPolicy"
USER = "User: arn:aws:sts::111111111111:assumed-role/registry-admin/web is not authorized to perform"


def denied(name: str, operation: str = OPERATION, because: str = "") -> str:
    message = f"{USER}: ecr:{operation} on resource: arn:aws:ecr:eu-central-1:111111111111:repository/{name}{because}"
    return str(errors.aws_error(operation, name, "AccessDeniedException", message, permission=f"ecr:{operation}"))


def cause(error: str, name: str, code: str = "AccessDeniedException") -> Cause:
    return of_row(status="failed", name=name, error=error, code=code, differences=())


def test_repositories_that_aws_denies_the_same_action_have_one_cause_with_the_action_to_allow() -> None:
    first, second = cause(denied("trigger/proj_a"), "trigger/proj_a"), cause(denied("trigger/proj_b"), "trigger/proj_b")

    assert first == second
    assert first.key == second.key
    assert (first.title, first.action) == (
        "ecr:SetRepositoryPolicy is denied",
        "Allow ecr:SetRepositoryPolicy to Registry Admin.",
    )
    assert first.permission == "ecr:SetRepositoryPolicy"
    assert first.said.startswith("AccessDeniedException: User: arn:aws:sts::111111111111")


def test_another_action_that_is_denied_is_another_cause() -> None:
    assert cause(denied("a"), "a") != cause(denied("a", "PutLifecyclePolicy"), "a")


def test_an_explicit_deny_is_not_told_to_be_corrected_by_an_allow() -> None:
    """AWS: an explicit deny in any policy overrules every allow."""
    found = cause(denied("a", because=" with an explicit deny in a service control policy"), "a")

    assert found.permission == ""
    assert "denied explicitly" in found.title
    assert "An Allow does not overrule it." in found.action


def test_a_throttled_call_says_so_and_is_not_the_cause_of_a_denied_one() -> None:
    text = str(errors.aws_error("GetRepositoryPolicy", "a", "ThrottlingException", "Rate exceeded"))

    found = cause(text, "a", "ThrottlingException")

    assert found.title == "GetRepositoryPolicy is throttled"
    assert found.action == "AWS is limiting the rate of calls; trying again in a moment is enough."


def test_missing_credentials_are_one_cause_whichever_call_needed_them() -> None:
    found = {
        cause(str(errors.registry_error("NoCredentials", operation=operation, name=name)), name, "NoCredentials")
        for operation, name in (("GetRepositoryPolicy", "a"), ("DescribeRepositories", "b"))
    }

    assert [each.title for each in found] == [
        "A call to AWS on the repository was not sent: this server has no AWS credentials that it can use"
    ]


def test_an_error_that_is_met_again_has_the_cause_of_the_first_time_and_needs_no_code() -> None:
    assert of_error(f"{causes.AGAIN}{denied('a')}", name="a") == cause(denied("a"), "a")


def test_a_sentence_of_another_version_is_grouped_by_its_operation_and_code() -> None:
    text = "AWS refused GetRepositoryPolicy on {}: OddException: it is odd. Do what an older version said."

    assert cause(text.format("a"), "a", "OddException") == cause(text.format("b"), "b", "OddException")
    assert cause(text.format("a"), "a", "OddException").title == "GetRepositoryPolicy fails: OddException"


def test_drift_is_grouped_by_what_differs_and_a_missing_repository_by_that() -> None:
    words = "Compared with the default policy, account 333333333333 cannot pull."
    drift = [Difference(part=Part.POLICY, words=words, fixable=True)]
    reported = Difference(part=Part.ENCRYPTION, words="Other encryption.", fixable=False)

    assert of_differences(drift) == of_differences([*drift, reported])
    assert of_differences(drift).title == "The repository policy differs: account 333333333333 cannot pull"
    gone = of_row(status="missing", name="a", error="", code="", differences=())
    assert gone.title == "Deleted from ECR"


def test_a_long_error_that_no_entry_has_is_grouped_too() -> None:
    """With a regular expression for each entry, this text took hours."""
    text = "AWS refused Get on a: OddException: " + "on b: c. Allow d, a on e: " * 400 + "Odd."

    assert of_error(text, name="a").title == "Get fails: OddException"


def test_two_placeholders_of_one_name_have_one_value() -> None:
    twice = next(entry for entry in ENTRIES if len(_parts(entry.template)[1]) > len(entry.placeholders))
    values = {name: f"the {name}" for name in twice.placeholders}
    name = next(each for each in _parts(twice.template)[1] if _parts(twice.template)[1].count(each) > 1)
    text = twice.template.format(**values).replace(values[name], "another", 1)

    assert read_back(text, twice.codes[0]) is None


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry.codes[0]} {' '.join(entry.on)}{entry.detail}")
def test_the_values_of_every_sentence_can_be_read_back(entry: Entry) -> None:
    values = {name: f"the {name}" for name in entry.placeholders}

    found = read_back(entry.template.format(**values), entry.codes[0])

    assert found is not None
    assert found[0].template.format(**found[1]) == entry.template.format(**values)
