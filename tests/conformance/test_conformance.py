"""The list of what is assumed of AWS: it is whole, it runs, and a run leaves nothing and touches nothing of others.

Nothing here can reach AWS, so the sandbox stands for it.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conformance import account
from conformance.__main__ import CALLS, main
from conformance.assumptions import ASSUMPTIONS
from conformance.journal import MARK
from sandbox.control import Sandbox
from tests.support.constants import CLUSTER, OWNER
from tests.support.waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]
POLICY_RUN = ("--only", "registry-policy-denies", "--registry-wide")


@pytest.fixture
def conformance(sandbox: Sandbox, tmp_path: Path) -> Iterator[Any]:
    """Run the command line against the sandbox: exit status and results."""
    account._session.cache_clear()

    def run(*given: str) -> tuple[int, dict[str, dict[str, str]]]:
        file = tmp_path / "results.json"
        always = ["--endpoint", sandbox.url, "--journals", str(tmp_path / "journals"), "--yes", "--json", str(file)]
        status = main([*always, *(given if "--clean" in given else ("--live", OWNER, *given))], wait=sandbox.advance)
        rows = json.loads(file.read_text())["results"] if file.exists() else []
        return status, {row["id"]: row for row in rows}

    yield run
    account._session.cache_clear()


def left(sandbox: Sandbox) -> list[object]:
    """All that the owner's account has in the sandbox."""
    ecr = sandbox.client("ecr")
    names = [each["repositoryName"] for each in ecr.describe_repositories()["repositories"]]
    names += [each["RoleName"] for each in sandbox.client("iam").list_roles()["Roles"]]
    names += sandbox.client("sqs").list_queues().get("QueueUrls", [])
    names += [each["Name"] for each in sandbox.client("events").list_rules()["Rules"]]
    return names + registry(sandbox)


def registry(sandbox: Sandbox) -> list[object]:
    """What is set of the registry itself."""
    ecr = sandbox.client("ecr")
    found = list(ecr.list_pull_time_update_exclusions()["pullTimeUpdateExclusions"])
    try:
        found.append(ecr.get_registry_policy()["policyText"])
    except ecr.exceptions.RegistryPolicyNotFoundException:
        pass
    if ecr.get_account_setting(name="BLOB_MOUNTING")["value"] == "ENABLED":
        found.append("BLOB_MOUNTING")
    return found


# ----------------------------------------------------------------------------------------------------------- the list


def test_the_document_is_made_from_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--document"]) == 0
    assert (ROOT / "docs/aws-assumptions.md").read_text() == capsys.readouterr().out


def test_each_assumption_has_an_id_a_sentence_a_source_and_places_that_rely_on_it() -> None:
    ids = [each.id for each in ASSUMPTIONS]
    wrong = [
        each.id
        for each in ASSUMPTIONS
        if not re.match(r"https://|observed by https://|not documented", each.source)
        or not each.sentence.endswith(".")
        or not each.used
        or (each.probe is None) != bool(each.cannot)
    ]
    gone = {
        place
        for each in ASSUMPTIONS
        for place in each.used
        if place.partition(" ")[2] not in " ".join((ROOT / place.partition(" ")[0]).read_text().split())
    }

    assert len(ids) == len(set(ids)) > 60
    assert wrong == []
    assert gone == set()


# -------------------------------------------------------------------------------------------------------------- a run


@pytest.mark.costly
def test_the_sandbox_does_all_that_is_assumed_and_a_run_leaves_nothing(
    conformance: Any, sandbox: Sandbox, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    status, found = conformance("--slow", "--registry-wide")
    out = capsys.readouterr().out
    calls = json.loads((tmp_path / "results.json").read_text())["calls"]
    announced = int(re.findall(r"about (\d+) calls", out)[0])

    assert {row["id"]: row["saw"] for row in found.values() if row["outcome"] in ("DIFFERS", "not seen")} == {}
    assert status == 0
    assert {each.id for each in ASSUMPTIONS if each.probe} == {
        name for name, row in found.items() if row["outcome"] == "as assumed"
    }
    assert left(sandbox) == []
    assert list((tmp_path / "journals").iterdir()) == []
    assert 0.8 < announced / calls < 1.2, f"set CALLS, which is {CALLS}"
    assert "less than 0.01 USD" in out


def test_what_is_not_asked_for_is_not_run_and_is_no_failure(conformance: Any, sandbox: Sandbox) -> None:
    status, found = conformance("--only", "no-policy", "--only", "restore-time", "--only", "registry-policy-denies")

    assert status == 0
    assert [row["outcome"] for row in found.values()].count("not run") == 2
    assert "ecr:PutRegistryPolicy" not in sandbox.calls()


def test_each_name_is_printed_before_and_without_a_yes_nothing_is_created(
    sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    account._session.cache_clear()
    monkeypatch.setattr(sys, "stdin", (ROOT / "pyproject.toml").open())
    status = main(["--live", OWNER, "--endpoint", sandbox.url, "--journals", str(tmp_path), "--only", "deleted-role"])
    sys.stdin.close()
    out = capsys.readouterr().out

    assert status == 2
    assert re.search(
        r"repository conformance-[0-9a-f]{12}/deleted-role\n +role conformance-[0-9a-f]{12}-deleted-role", out
    )
    assert set(sandbox.calls()) == {"sts:GetCallerIdentity"}


def test_an_answer_that_differs_is_shown_with_what_is_assumed(
    conformance: Any, sandbox: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    sandbox.fault("error", "ecr:GetRepositoryPolicy", code="NoPolicyException", message="nothing here")
    status, found = conformance("--only", "no-policy", "--only", "repository-exists")
    out = capsys.readouterr().out

    assert status == 1
    assert found["no-policy"]["outcome"] == "DIFFERS"
    assert "GetRepositoryPolicy: NoPolicyException: nothing here" in found["no-policy"]["saw"]
    assert found["repository-exists"]["outcome"] == "as assumed"
    assert re.search(
        r"no-policy\n  assumed: +GetRepositoryPolicy of a repository .*\n  seen: +GetRepositoryPolicy: No", out
    )


@pytest.mark.parametrize(
    ("code", "status"),
    [("AccessDeniedException", 400), ("ThrottlingException", 400), ("ExpiredTokenException", 400), ("X", 500)],
)
def test_what_aws_does_not_show_is_not_seen_and_never_as_assumed(
    conformance: Any, sandbox: Sandbox, code: str, status: int
) -> None:
    sandbox.fault("error", "ecr:GetLifecyclePolicy", code=code, status=status)
    exit_status, found = conformance("--only", "lifecycle-stored")

    assert (exit_status, found["lifecycle-stored"]["outcome"]) == (2, "not seen")
    assert left(sandbox) == []


@pytest.mark.parametrize("kind", ["lost", "reset"])
def test_a_repository_whose_answer_is_lost_is_deleted_too(conformance: Any, sandbox: Sandbox, kind: str) -> None:
    sandbox.fault(kind, "ecr:CreateRepository", times=1)
    status, _ = conformance("--only", "no-policy")

    assert status == 0
    assert left(sandbox) == []


# --------------------------------------------------------------------------------------------------- what is not done


def test_a_caller_of_another_account_is_refused_before_any_other_call(
    conformance: Any, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in sandbox.environment("cluster").items():
        monkeypatch.setenv(name, value)
    status, _ = conformance()

    assert status == 2
    assert f"The caller is of account {CLUSTER}, not of {OWNER}. Nothing was done." in capsys.readouterr().err
    assert set(sandbox.calls()) == {"sts:GetCallerIdentity"}


def test_without_a_rehearsal_every_call_goes_to_aws(monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox) -> None:
    assert os.environ["AWS_ENDPOINT_URL"] == sandbox.url
    clients = account.Clients("eu-central-1")

    assert clients("ecr").meta.endpoint_url == "https://api.ecr.eu-central-1.amazonaws.com"
    assert clients("sts").meta.endpoint_url == "https://sts.eu-central-1.amazonaws.com"


def test_a_rehearsal_is_on_this_machine_and_says_so(conformance: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--live", OWNER, "--region", "us-east-1", "--endpoint", "http://198.51.100.1"]) == 2
    assert "--endpoint is for a rehearsal on this machine." in capsys.readouterr().err
    conformance("--only", "no-policy")
    assert "*** A REHEARSAL, NOT AWS" in capsys.readouterr().err


@pytest.mark.parametrize("has", ["policy", "exclusion", "setting"])
def test_a_registry_with_settings_of_its_own_is_not_changed(
    conformance: Any, sandbox: Sandbox, has: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ecr = sandbox.client("ecr")
    statement = {"Effect": "Deny", "Principal": "*", "Action": "ecr:PutImage", "Resource": "*"}
    match has:
        case "policy":
            ecr.put_registry_policy(policyText=account.document(statement))
        case "exclusion":
            ecr.register_pull_time_update_exclusion(principalArn=f"arn:aws:iam::{OWNER}:role/scanner")
        case "setting":
            ecr.put_account_setting(name="BLOB_MOUNTING", value="ENABLED")
    before = registry(sandbox)
    status, _ = conformance(*POLICY_RUN)

    assert status == 2
    assert "so no probe changes it: leave --registry-wide out." in capsys.readouterr().err
    assert registry(sandbox) == before != []


# ----------------------------------------------------------------------------------------------- runs that end early


def hanging(sandbox: Sandbox, journals: Path, *given: str, match: str, skip: int = 0) -> subprocess.Popen[str]:
    """A run in a process of its own that waits for the answer to a call."""
    sandbox.fault("hang", match, skip=skip, times=1)
    command = ["-m", "conformance", "--live", OWNER, "--endpoint", sandbox.url, "--journals", str(journals), "--yes"]
    process = subprocess.Popen(
        [sys.executable, *command, *given], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: sandbox.faults()[0]["struck"] == 1, seconds=20)
    return process


def killed(process: subprocess.Popen[str]) -> None:
    """End the process as the kernel does when the memory is full."""
    process.kill()
    process.communicate(timeout=10)


@pytest.mark.costly
def test_after_a_kill_the_next_run_deletes_what_is_left_and_nothing_of_others(
    conformance: Any, sandbox: Sandbox, tmp_path: Path
) -> None:
    journals, ecr = tmp_path / "journals", sandbox.client("ecr")
    killed(hanging(sandbox, journals, "--only", "deleted-role", match="ecr:SetRepositoryPolicy"))
    mine = str(ecr.describe_repositories()["repositories"][0]["repositoryName"])
    prefix = mine.partition("/")[0]
    marked = [{"Key": MARK, "Value": prefix}]
    ecr.create_repository(repositoryName=f"{mine}-of-somebody", tags=marked)  # marked, and in no journal
    assert len(left(sandbox)) == 3

    status, _ = conformance("--only", "no-policy")

    assert status == 0
    assert left(sandbox) == [f"{mine}-of-somebody"]
    assert list(journals.iterdir()) == []


@pytest.mark.costly
def test_a_name_of_the_journal_that_somebody_else_uses_by_now_is_not_deleted(
    conformance: Any, sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journals, ecr = tmp_path / "journals", sandbox.client("ecr")
    killed(hanging(sandbox, journals, "--only", "no-policy", match="ecr:GetRepositoryPolicy"))
    name = ecr.describe_repositories()["repositories"][0]["repositoryName"]
    ecr.delete_repository(repositoryName=name)
    ecr.create_repository(repositoryName=name)  # of somebody: without the tag of the run
    journal = next(journals.iterdir())
    status, _ = conformance("--clean", str(journal))

    assert status == 2
    assert "it does not have the tag of the run, so it is not deleted" in capsys.readouterr().err
    assert left(sandbox) == [name]
    assert journal.exists()


@pytest.mark.costly
@pytest.mark.parametrize(
    ("given", "match"),
    [
        (POLICY_RUN, "ecr:BatchGetImage"),
        (("--only", "mount-when-enabled", "--registry-wide"), "ecr:CreateRepository"),
        (("--only", "excluded-is-no-pull", "--registry-wide", "--slow"), "sts:AssumeRole"),
    ],
)
def test_after_a_kill_its_journal_puts_the_registry_back(
    conformance: Any, sandbox: Sandbox, tmp_path: Path, given: tuple[str, ...], match: str
) -> None:
    journals = tmp_path / "journals"
    killed(hanging(sandbox, journals, *given, match=match))
    assert registry(sandbox) != []

    assert conformance("--clean", str(next(journals.iterdir())))[0] == 0
    assert left(sandbox) == []
    assert list(journals.iterdir()) == []


@pytest.mark.costly
def test_a_registry_policy_that_somebody_has_put_since_stays(
    conformance: Any, sandbox: Sandbox, tmp_path: Path
) -> None:
    journals = tmp_path / "journals"
    killed(hanging(sandbox, journals, *POLICY_RUN, match="ecr:BatchGetImage"))
    statement = {"Sid": "Theirs", "Effect": "Deny", "Principal": "*", "Action": "ecr:PutImage", "Resource": "*"}
    sandbox.client("ecr").put_registry_policy(policyText=account.document(statement))

    assert conformance("--clean", str(next(journals.iterdir())))[0] == 2
    assert "Theirs" in str(registry(sandbox))


def test_an_error_of_a_probe_that_nobody_expected_leaves_nothing(
    conformance: Any, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(aws: account.Account, *_: object, **__: object) -> None:
        assert len(left(sandbox)) == 2
        raise RuntimeError("a fault of a probe")

    monkeypatch.setattr(account.Account, "refused", broken)
    monkeypatch.setattr(account.Account, "until", lambda aws, look, **_: look())
    with pytest.raises(RuntimeError, match="a fault of a probe"):
        conformance(*POLICY_RUN)

    assert "ecr:PutRegistryPolicy" in sandbox.calls()
    assert left(sandbox) == []


@pytest.mark.costly
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_and_puts_all_back(sandbox: Sandbox, tmp_path: Path, number: signal.Signals) -> None:
    process = hanging(sandbox, tmp_path, *POLICY_RUN, match="ecr:BatchGetImage")
    assert registry(sandbox) != []
    process.send_signal(number)
    _, said = process.communicate(timeout=20)

    assert process.returncode == 2
    assert f"Stopped by {number.name}." in said
    assert left(sandbox) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.costly
def test_a_run_that_is_going_on_is_not_cleaned_by_another_one(
    conformance: Any, sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    process = hanging(sandbox, tmp_path / "journals", "--only", "no-policy", match="ecr:GetRepositoryPolicy")
    status, _ = conformance("--only", "repository-exists")

    assert status == 0
    assert "Another run is going on: " in capsys.readouterr().out
    assert len(left(sandbox)) == 1
    killed(process)
