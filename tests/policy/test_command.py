"""`manage.py policy` as a shell sees it: standard output, standard error, exit status."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from deployments.management.commands.policy import Command
from deployments.models import RegistryPolicyReading
from tests.policy.cases import ONE, ORG, PULL, ROLE, TWO, policy, stmt

REGION = ("--region", "us-east-1")


class Ran(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Ran]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs `policy …`; a keyword argument becomes a file of that name, `stdin` what is piped in."""

    def running(*arguments: str, stdin: str | bytes = "", **files: str | bytes) -> Ran:
        def data(text: str | bytes) -> bytes:
            return text.encode() if isinstance(text, str) else text

        for name, text in files.items():
            (tmp_path / name).write_bytes(data(text))
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data(stdin))))
        status = 0
        try:
            Command().run_from_argv(["manage.py", "policy", *arguments])
        except SystemExit as end:
            status = int(end.code or 0)
        captured = capsys.readouterr()
        return Ran(status, captured.out, captured.err)

    return running


# ----------------------------------------------------------------------------------------------------------- compare


@pytest.mark.parametrize(
    ("a", "b", "level", "status"),
    [
        (policy(stmt(ONE)), policy(stmt(ONE)), "identical", 0),
        (policy(stmt(ONE)), policy(stmt(ONE), Id="x") + "\n", "cosmetic", 0),
        (policy(stmt(ONE)), policy(stmt(TWO)), "access", 1),
        (policy(stmt(ONE)), policy(stmt(ONE, Foo=1)), "incomparable", 1),
        (policy(stmt(ONE)), "[]", "incomparable", 1),
    ],
)
def test_compare_answers_by_level_and_status(run: Run, a: str, b: str, level: str, status: int) -> None:
    ran = run("compare", "a", "b", *REGION, "--json", a=a, b=b)

    assert (ran.json["level"], ran.status) == (level, status)
    assert set(ran.json) == {"level", "gained", "lost"}
    assert bool(ran.err) == (level == "incomparable")
    assert run("compare", "a", "b", *REGION).out.splitlines()[0] == level


def test_compare_says_what_b_grants_beyond_a_and_the_reverse(run: Run) -> None:
    ran = run("compare", "a", "b", *REGION, a=policy(stmt(ONE)), b=policy(stmt(TWO, PULL, Condition=ORG)))

    assert ran.out.splitlines() == [
        "access",
        f"+ account {TWO} gains pull only when aws:PrincipalOrgID is o-1",
        f"- account {ONE} loses pull",
    ]
    rows = run("compare", "a", "b", *REGION, "--json").json
    assert [set(row) for row in rows["gained"]] == [{"principal", "action", "condition", "words"}] * 2
    assert rows["gained"][0]["condition"] == {"StringEquals": {"aws:PrincipalOrgID": ["o-1"]}}


def test_compare_reads_one_side_from_standard_input(run: Run) -> None:
    text = policy(stmt(ONE))

    assert run("compare", "a", "-", *REGION, "--json", a=text, stdin=text).json["level"] == "identical"
    assert run("compare", "-", "a", *REGION, "--json", stdin=text).json["level"] == "identical"
    both = run("compare", "-", "-", *REGION, stdin=text)
    assert (both.status, both.out) == (2, "")


def test_the_region_decides_what_a_bare_account_id_means(run: Run) -> None:
    bare, chinese = policy(stmt(ONE)), policy(stmt(f"arn:aws-cn:iam::{ONE}:root"))

    assert run("compare", "a", "b", "--region", "cn-north-1", a=bare, b=chinese).status == 0
    assert run("compare", "a", "b", "--region", "us-gov-west-1").status == 1
    assert run("compare", "a", "b", "--region", "eu-central-1").status == 1


# -------------------------------------------------------------------------------------------------------------- lint


@pytest.mark.costly
def test_lint_is_silent_about_a_fine_policy(run: Run) -> None:
    assert run("lint", "a", "--json", a=policy(stmt(ONE)))[:2] == (0, "[]\n")
    assert run("lint", "a")[:2] == (0, "No findings.\n")
    assert run("lint", "-", stdin=policy(stmt(f"arn:aws-us-gov:iam::{ONE}:root"))).status == 0


def test_lint_lists_findings_with_exactly_the_promised_keys(run: Run) -> None:
    ran = run("lint", "a", "--json", a=policy(stmt("*", "ecr:*", Resource="*")))

    assert ran.status == 1
    assert [set(row) for row in ran.json] == [{"id", "level", "message"}] * len(ran.json)
    assert [row["id"] for row in ran.json] == [
        "deployments.E104",
        "deployments.E110",
        "deployments.W101",
        "deployments.W102",
    ]
    assert "error deployments.E110: Statement[0] is open to the whole world" in run("lint", "a").out


def test_lint_takes_what_is_not_json_for_a_finding(run: Run) -> None:
    ran = run("lint", "a", "--json", a="{")

    assert (ran.status, [row["id"] for row in ran.json]) == (1, ["deployments.E101"])


def test_lint_takes_a_region_consumer_accounts_and_the_leave_to_be_public(run: Run) -> None:
    assert run("lint", "a", "--region", "cn-north-1", a=policy(stmt(f"arn:aws:iam::{ONE}:root"))).status == 1
    assert run("lint", "a", "--account", ONE, "--account", TWO).status == 1
    assert run("lint", "a", "--account", ONE).status == 0
    public = run("lint", "a", "--json", "--allow-public", a=policy(stmt("*"))).json
    assert [row["level"] for row in public] == ["warning"]


def test_lint_takes_the_identity_that_writes_the_policy(run: Run) -> None:
    frozen = policy(stmt(TWO), stmt(ONE, "ecr:SetRepositoryPolicy", effect="Deny"))

    assert run("lint", "a", a=frozen).status == 0
    assert "error deployments.E115" in run("lint", "a", "--writer", ONE).out
    assert "error deployments.E115" in run("lint", "a", "--writer", f"arn:aws:iam::{ONE}:role/r").out
    assert run("lint", "a", "--writer", TWO).status == 0
    assert run("lint", "a", "--writer", "me").status == 2


# --------------------------------------------------------------------------------------------------------------- who


@pytest.mark.parametrize(
    ("text", "verdict", "status"),
    [
        (policy(stmt(ONE, Sid="Pull")), "yes", 0),
        (policy(stmt(TWO)), "no", 1),
        (policy(stmt(ONE, PULL[0])), "no", 1),
        (policy(stmt("*", Condition=ORG)), "depends", 1),
        (policy(stmt(ROLE)), "depends", 1),
        (policy(stmt(ONE), stmt("*", effect="Deny")), "no", 1),
        (policy(stmt(ONE, Foo=1)), "depends", 1),
        ("[]", "depends", 1),
        ("{}", "no", 1),
    ],
)
def test_who_answers_whether_an_account_may_pull(run: Run, text: str, verdict: str, status: int) -> None:
    ran = run("who", "a", *REGION, "--account", ONE, "--json", a=text)

    assert (ran.json["pull"], ran.status) == (verdict, status)
    assert set(ran.json) == {"pull", "account", "statement", "words"}
    assert run("who", "a", *REGION, "--account", ONE).out.startswith(f"{verdict}: ")


def test_who_answers_for_an_action_and_its_status_follows_that(run: Run) -> None:
    ran = run("who", "a", *REGION, "--account", ONE, "--action", "PutImage", "--json", a=policy(stmt(ONE, "ecr:Put*")))

    assert ran.status == 0
    assert ran.json == {
        "pull": "no",
        "account": ONE,
        "action": "ecr:PutImage",
        "verdict": "yes",
        "statement": "Statement[0]",
        "words": f"account {ONE} may use ecr:PutImage (push): Statement[0] allows it.",
    }
    assert run("who", "a", *REGION, "--account", ONE, "--action", "ecr:BatchGetImage").status == 1


def test_who_without_an_account_lists_the_principals_that_may_pull(run: Run) -> None:
    ran = run("who", "a", *REGION, "--json", a=policy(stmt(ONE, Sid="Pull"), stmt("*", Condition=ORG)))

    assert (ran.status, ran.json["pull"]) == (0, "yes")
    assert [(row["principal"], row["pull"]) for row in ran.json["principals"]] == [
        (f"arn:aws:iam::{ONE}:root", "yes"),
        ("*", "depends"),
    ]
    assert run("who", "a", *REGION).out.splitlines()[:2] == ["yes", f"yes: account {ONE} may pull: Pull allows it."]
    assert run("who", "a", *REGION, a=policy(stmt("*", Condition=ORG))).status == 1
    assert run("who", "a", *REGION, "--json", a=policy()).json == {"pull": "no", "principals": []}
    assert run("who", "a", *REGION, "--json", a="[]").json == {"pull": "depends", "principals": []}


def test_who_without_an_account_answers_for_an_action(run: Run) -> None:
    ran = run("who", "a", *REGION, "--action", "ecr:PutImage", "--json", a=policy(stmt(ONE), stmt(TWO, "ecr:PutImage")))

    assert ran.status == 0
    assert (ran.json["pull"], ran.json["action"], ran.json["verdict"]) == ("yes", "ecr:PutImage", "yes")
    assert [row["principal"] for row in ran.json["principals"]] == [f"arn:aws:iam::{TWO}:root"]


# ------------------------------------------------------------------------------------------------------------ status 2

BROKEN = ["", "{", "{}{}", '{"a": NaN}', "\ufeff{}", "[" * 100_000, "'x'", b"\xff\xfe{\x00}\x00", b'{"Id": "\xe9"}']


REPOSITORY = "arn:aws:ecr:us-east-1:999999999999:repository/trigger/shop"
BOTH = (*REGION, "--repository", REPOSITORY, "--registry-policy", "b")
DENIES = policy(stmt(ONE, "ecr:*", effect="Deny", Sid="Closed", Resource="*"))


def test_who_answers_by_the_registry_policy_too_and_says_on_what_that_rests(run: Run) -> None:
    ran = run("who", "a", *BOTH, "--account", ONE, "--registry-scope", "V2", a=policy(stmt([ONE, TWO])), b=DENIES)
    denies, rests = ran.out.splitlines()
    assert (ran.status, denies) == (
        1,
        f"no: account {ONE} may not pull: Closed of the registry policy denies it.",
    )
    assert rests.startswith("This rests on the repository policy. The registry policy was evaluated too (scope V2).")

    assert run("who", "a", *BOTH, "--account", TWO).status == 0
    unsaid = run("who", "a", *BOTH, "--account", ONE, "--json").json
    assert (unsaid["pull"], unsaid["registry_policy"]["scope"]) == ("depends", "")
    v1 = run("who", "a", *BOTH, "--account", ONE, "--registry-scope", "V1")
    assert (v1.status, v1.out[:4]) == (0, "yes:")


def test_who_without_an_account_lists_the_principals_of_both_policies(run: Run) -> None:
    opens = policy(stmt(TWO, "ecr:*", Sid="Opens", Resource="*"))
    ran = run("who", "a", *BOTH, "--registry-scope", "V2", "--json", a=policy(stmt(ONE)), b=opens)

    assert (ran.status, ran.json["pull"]) == (0, "yes")
    assert [(each["name"], each["pull"], each["layer"]) for each in ran.json["principals"]] == [
        (f"account {ONE}", "yes", "repository policy"),
        (f"account {TWO}", "yes", "registry policy"),
    ]
    text = run("who", "a", *BOTH, "--registry-scope", "V2").out.splitlines()
    assert (text[0], len(text)) == ("yes", 4)
    assert run("who", "a", *BOTH, "--json", a=policy(), b=policy()).json["pull"] == "no"
    assert run("who", "a", *BOTH, "--json", a="[]").json["pull"] == "depends"


@pytest.mark.django_db(transaction=True)
def test_who_answers_by_the_registry_policy_as_a_sweep_has_read_it_and_says_how_old_that_is(run: Run) -> None:
    stored = ("who", "a", *REGION, "--repository", REPOSITORY, "--stored-registry-policy")
    never = run(*stored, "--account", ONE, a=policy(stmt(ONE)))
    assert (never.status, never.out.splitlines()[0][:8]) == (1, "unknown:")
    assert "No sweep has read the registry policy yet." in never.out
    assert run(*stored, "--json", a=policy()).json["pull"] == "unknown"

    at = datetime(2026, 11, 26, 12, tzinfo=UTC)
    row = RegistryPolicyReading.objects.create(
        account="999999999999", region="us-east-1", text=DENIES, scope="V2", read_at=at
    )
    read = run(*stored, "--account", ONE, a=policy(stmt(ONE)))
    assert (read.status, read.out[:3]) == (1, "no:")
    assert "last read at 2026-11-26T12:00:00+00:00." in read.out

    row.error = "AWS refused GetRegistryPolicy."
    row.save()
    refused = run(*stored, "--account", ONE, "--json").json
    assert (refused["pull"], refused["registry_policy"]["error"]) == ("unknown", "AWS refused GetRegistryPolicy.")


@pytest.mark.parametrize("text", BROKEN, ids=lambda text: repr(text)[:20])
def test_what_is_not_json_is_status_2_with_one_sentence(run: Run, text: str | bytes) -> None:
    for arguments in (("compare", "a", "b"), ("compare", "b", "a"), ("compare", "a", "a"), ("who", "a")):
        ran = run(*arguments, *REGION, "--json", a=text, b=policy(stmt(ONE)))
        assert (ran.status, ran.out) == (2, "")
        assert ran.err.startswith("CommandError: a")
        assert len(ran.err.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("compare",),
        ("compare", "a"),
        ("compare", "a", "b"),
        ("compare", "a", "b", "--region"),
        ("compare", "a", "b", "--region", "mars-1"),
        ("compare", "a", "b", "--region", ""),
        ("compare", "a", "missing", *REGION),
        ("compare", ".", "b", *REGION),
        ("compare", "a\0", "b", *REGION),
        ("lint",),
        ("lint", "missing"),
        ("lint", "."),
        ("lint", "latin"),
        ("lint", "huge"),
        ("lint", "a", "--region", "mars-1"),
        ("lint", "a", "--account", "12"),
        ("who", "a"),
        ("who", "missing", *REGION),
        ("who", "a", *REGION, "--account", "12"),
        ("who", "a", *REGION, "--account", ""),
        ("who", "a", *REGION, "--account", "١" * 12),
        ("who", "a", *REGION, "--action", ""),
        ("who", "a", *REGION, "--action", "ecr:Put Image"),
        ("who", "a", "--region", "us-east-1\n"),
        ("who", "a", *REGION, "--registry-policy", "b"),
        ("who", "a", *BOTH, "--stored-registry-policy"),
        ("who", "a", *BOTH, "--action", "ecr:PutImage"),
        ("who", "a", *BOTH[:-1], "missing"),
        ("who", "-", *BOTH[:-1], "-"),
        ("who", "a", "--region", "eu-west-1", *BOTH[2:]),
        ("who", "a", *BOTH, "--repository", REPOSITORY.replace("arn:aws:", "arn:aws-cn:")),  # no Resource would match
        ("who", "a", *BOTH, "--registry-scope", "V3"),
        ("whom", "a"),
    ],
    ids=lambda arguments: " ".join(arguments).replace("\0", "NUL"),
)
def test_unreadable_files_and_wrong_usage_are_status_2(run: Run, arguments: tuple[str, ...]) -> None:
    ran = run(*arguments, a=policy(stmt(ONE)), b=policy(stmt(ONE)), latin=b"\xe9", huge=b" " * (5 << 20))

    assert (ran.status, ran.out) == (2, "")
    assert ran.err
    assert "Traceback" not in ran.err


def test_a_terminal_without_the_characters_gets_codes_and_no_traceback(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", screen)
    run("lint", "a", a=policy(stmt(ONE, "ecr:Ümlaut", Sid="Sünde\x1b[31m")))
    screen.flush()
    shown = screen.buffer.getvalue()

    assert b"S\\xfcnde\\x1b[31m" in shown
    assert b"\x1b" not in shown


@pytest.mark.slow
def test_a_reader_that_stops_early_gets_no_traceback() -> None:
    ran = subprocess.run(
        ["sh", "-c", f"{sys.executable} manage.py policy who - --region us-east-1 | head -1"],
        input=policy(stmt([f"{number:012d}" for number in range(4_000)])),
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )

    assert (ran.stdout, ran.stderr) == ("yes\n", "")


@pytest.mark.slow
def test_it_works_with_broken_settings_of_ours_and_without_a_database() -> None:
    environment = {
        **os.environ,
        "DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY": "{broken",
        "DEPLOY_REGISTRY_ECR_POLICY_MODE": "sometimes",
        "DATABASE_URL": "postgres://nobody@127.0.0.1:1/none",
        "SECRET_KEY": "a-key-for-this-test-alone-and-for-nothing-else-in-the-world",
    }
    ran = subprocess.run(
        [sys.executable, "manage.py", "policy", "who", "-", "--region", "us-east-1", "--account", ONE],
        input=policy(stmt(ONE, Sid="Pull")),
        capture_output=True,
        text=True,
        env=environment,
        cwd=Path(__file__).parents[2],
    )

    assert (ran.returncode, ran.stdout, ran.stderr) == (0, f"yes: account {ONE} may pull: Pull allows it.\n", "")
