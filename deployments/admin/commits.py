"""The commit of a deployment: its subject, and links to it where the git remote is known.

The CLI sent the values, so nothing in them is trusted. A link is made only of an https remote on a host whose web
addresses are known by the host's name, of a hexadecimal commit and of a number. No other remote gets a link: the name
of a host is not guessed, and an ssh remote says nothing about web pages.

The forms of the addresses: GitHub's documentation of “Comparing commits” and the commit page's tab “Checks”, GitLab's
addresses below `/-/`, Bitbucket's “branches/compare/NEW..OLD”, Gitea's issue 35912. A host may change them. The CLI
does not send the address of a CI run, so the link goes to the runs of the commit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

MAX_SUBJECT_CHARACTERS = 200

_COMMIT = re.compile(r"[0-9a-f]{7,64}")
_PATH = re.compile(r"(/[A-Za-z0-9_~][A-Za-z0-9._~-]*){2,}")
_HOST = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)+(:[0-9]{1,5})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Addresses:
    """The web addresses of a kind of host, below the address of a repository. Empty: it has no such page."""

    commit: str
    compare: str
    pull_request: str
    runs: str = ""
    run_by: str = ""  # `Deployment.triggered_via` of a deploy by a run of this host's own CI


_GITHUB = _Addresses(
    commit="/commit/{commit}", compare="/compare/{old}...{new}", pull_request="/pull/{number}",
    runs="/commit/{commit}/checks", run_by="cli:github_actions",
)  # fmt: skip
_GITLAB = _Addresses(
    commit="/-/commit/{commit}", compare="/-/compare/{old}...{new}", pull_request="/-/merge_requests/{number}",
    runs="/-/commit/{commit}/pipelines", run_by="cli:gitlab_ci",
)  # fmt: skip
_BITBUCKET = _Addresses(
    commit="/commits/{commit}", compare="/branches/compare/{new}..{old}", pull_request="/pull-requests/{number}"
)
_GITEA = _Addresses(commit="/commit/{commit}", compare="/compare/{old}...{new}", pull_request="/pulls/{number}")
_HOSTS = {"github.com": _GITHUB, "gitlab.com": _GITLAB, "bitbucket.org": _BITBUCKET, "codeberg.org": _GITEA}
#: The first part of the name of a host of one's own, such as gitlab.example.com.
_FIRST_PARTS = {"github": _GITHUB, "gitlab": _GITLAB, "gitea": _GITEA, "forgejo": _GITEA}


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitLinks:
    """https addresses of pages about a commit; each is empty if it is not known."""

    commit: str = ""
    pull_request: str = ""
    runs: str = ""


def subject(git: Any) -> str:
    """The first line of the commit message, at most MAX_SUBJECT_CHARACTERS; empty if the CLI sent none."""
    return first_line(git.get("commitMessage")) if isinstance(git, Mapping) else ""


def first_line(message: Any) -> str:
    """The first line of a commit message, at most MAX_SUBJECT_CHARACTERS; empty for what is no text."""
    line = message.strip().partition("\n")[0].strip() if isinstance(message, str) else ""
    return line if len(line) <= MAX_SUBJECT_CHARACTERS else f"{line[: MAX_SUBJECT_CHARACTERS - 1]}…"


def links(git: Mapping[str, Any], *, triggered_via: str = "") -> CommitLinks:
    """The links of a deployment's commit. `runs` only if a run of the host's own CI made the deployment."""
    remote = _remote(git)
    if remote is None:
        return CommitLinks()
    address, kind = remote
    commit, number = _commit(git), git.get("pullRequestNumber")
    is_number = isinstance(number, int) and not isinstance(number, bool) and number > 0
    return CommitLinks(
        commit=address + kind.commit.format(commit=commit) if commit else "",
        pull_request=address + kind.pull_request.format(number=number) if is_number else "",
        runs=address + kind.runs.format(commit=commit) if commit and kind.runs and triggered_via == kind.run_by else "",
    )


def compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """The https address of what changed between two commits of one remote; empty if it is not known or the same."""
    remote, before, after = _remote(new), _commit(old), _commit(new)
    if remote is None or remote != _remote(old) or not before or not after or before == after:
        return ""
    address, kind = remote
    return address + kind.compare.format(old=before, new=after)


def _commit(git: Mapping[str, Any]) -> str:
    text = git.get("commitSha")
    return text if isinstance(text, str) and _COMMIT.fullmatch(text) else ""


def _remote(git: Mapping[str, Any]) -> tuple[str, _Addresses] | None:
    """The web address of the repository, and the kind of its host; None if there is no address that is known."""
    text = git.get("remoteUrl")
    if not isinstance(text, str):
        return None
    try:
        parts = urlsplit(text)
    except ValueError:
        return None
    host, path = parts.netloc.lower(), parts.path.rstrip("/").removesuffix(".git")
    kind = _HOSTS.get(host) or _FIRST_PARTS.get(host.partition(".")[0])
    sound = _HOST.fullmatch(host) and _PATH.fullmatch(path) and not parts.query and not parts.fragment
    return (f"https://{host}{path}", kind) if parts.scheme == "https" and kind and sound else None
