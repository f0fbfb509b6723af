"""Links to a commit: only https, only of hosts that are known, only of values that can be nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from deployments.admin import commits

SHA, OLD = "0123456789abcdef0123456789abcdef01234567", "fedcba9876543210fedcba9876543210fedcba98"


def _git(remote: Any, **more: Any) -> dict[str, Any]:
    return {"remoteUrl": remote, "commitSha": SHA, "pullRequestNumber": 7, **more}


@pytest.mark.parametrize(
    ("remote", "commit", "pull_request", "compare"),
    [
        ("https://github.com/acme/jobs.git", f"commit/{SHA}", "pull/7", f"compare/{OLD}...{SHA}"),
        ("https://github.acme.example/acme/jobs", f"commit/{SHA}", "pull/7", f"compare/{OLD}...{SHA}"),
        ("https://gitlab.com/acme/eu/jobs.git", f"-/commit/{SHA}", "-/merge_requests/7", f"-/compare/{OLD}...{SHA}"),
        ("https://gitlab.acme.example:8443/a/b", f"-/commit/{SHA}", "-/merge_requests/7", f"-/compare/{OLD}...{SHA}"),
        ("https://bitbucket.org/acme/jobs", f"commits/{SHA}", "pull-requests/7", f"branches/compare/{SHA}..{OLD}"),
        ("https://codeberg.org/acme/jobs/", f"commit/{SHA}", "pulls/7", f"compare/{OLD}...{SHA}"),
        ("https://gitea.acme.example/acme/jobs", f"commit/{SHA}", "pulls/7", f"compare/{OLD}...{SHA}"),
    ],
)
def test_a_known_host_gets_links_to_commit_pull_request_and_comparison(
    remote: str, commit: str, pull_request: str, compare: str
) -> None:
    base = remote.rstrip("/").removesuffix(".git")

    found = commits.links(_git(remote))

    assert (found.commit, found.pull_request) == (f"{base}/{commit}", f"{base}/{pull_request}")
    assert commits.compare(_git(remote, commitSha=OLD), _git(remote)) == f"{base}/{compare}"


@pytest.mark.parametrize(
    "remote",
    [
        "http://github.com/acme/jobs", "git@github.com:acme/jobs.git", "ssh://git@github.com/acme/jobs",
        "javascript://github.com/acme/jobs", "https://git.acme.example/acme/jobs", "https://mygithub.com/acme/jobs",
        "https://user@github.com/acme/jobs", "https://github.com@evil.example/acme/jobs",
        "https://github.com/acme/jobs?x=1", "https://github.com/acme/jobs#x", "https://github.com/acme",
        "https://github.com/acme/../jobs", "https://github.com//acme/jobs", "https://github.com/acme/\"><script>",
        "https://[github.com/acme/jobs", "https://github/acme/jobs", "", None, 5,
        ["https://github.com/acme/jobs"],
    ],
)  # fmt: skip
def test_no_other_remote_gets_a_link(remote: Any) -> None:
    assert commits.links(_git(remote), triggered_via="cli:github_actions") == commits.CommitLinks()
    assert commits.compare(_git(remote, commitSha=OLD), _git(remote)) == ""


@pytest.mark.parametrize("sha", ["", "main", "abc", "0123456/../../x", SHA.upper() + "Z", "-rf", None, 5, ["a"]])
def test_what_is_no_commit_gets_no_link(sha: Any) -> None:
    remote = "https://github.com/acme/jobs"

    found = commits.links(_git(remote, commitSha=sha), triggered_via="cli:github_actions")

    assert (found.commit, found.runs) == ("", "")
    assert commits.compare(_git(remote, commitSha=sha), _git(remote)) == ""
    assert commits.compare(_git(remote), _git(remote, commitSha=sha)) == ""


@pytest.mark.parametrize("number", [0, -1, True, "7", 7.0, None])
def test_what_is_no_number_of_a_pull_request_gets_no_link(number: Any) -> None:
    assert commits.links(_git("https://github.com/acme/jobs", pullRequestNumber=number)).pull_request == ""


def test_commits_of_two_remotes_or_one_commit_are_not_compared() -> None:
    here = _git("https://github.com/acme/jobs")

    assert commits.compare(_git("https://github.com/acme/other", commitSha=OLD), here) == ""
    assert commits.compare(here, here) == ""


def test_the_runs_are_linked_only_if_the_hosts_own_ci_made_the_deployment() -> None:
    github, gitlab = _git("https://github.com/acme/jobs"), _git("https://gitlab.com/acme/jobs")

    assert commits.links(github, triggered_via="cli:github_actions").runs.endswith(f"/acme/jobs/commit/{SHA}/checks")
    assert commits.links(gitlab, triggered_via="cli:gitlab_ci").runs.endswith(f"/acme/jobs/-/commit/{SHA}/pipelines")
    assert [commits.links(github, triggered_via=via).runs for via in ("cli:manual", "cli:gitlab_ci", "")] == [
        "",
        "",
        "",
    ]
    assert commits.links(_git("https://bitbucket.org/acme/jobs"), triggered_via="").runs == ""


def test_the_subject_is_the_first_line_and_bounded() -> None:
    assert commits.subject({"commitMessage": "\n Fix it \r\n\nBecause."}) == "Fix it"
    assert len(commits.subject({"commitMessage": "x" * 10_000})) == commits.MAX_SUBJECT_CHARACTERS
    odd: tuple[Any, ...] = ({}, {"commitMessage": None}, {"commitMessage": 5}, None, [])
    assert [commits.subject(git) for git in odd] == [""] * 5
