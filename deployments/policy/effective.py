"""Effective access: whether an account may pull by the repository policy and the registry policy together.

AWS evaluates every resource policy of a request together: a Deny in either one wins, and an Allow in either one is
enough (*Policy evaluation logic*; *Cross-account policy evaluation logic*, of the IAM User Guide). What the registry
policy is about depends on its scope (*Private registry permissions in Amazon ECR*, of the ECR User Guide): V2, the
default, enforces it in all requests to ECR; V1 enforces only ecr:ReplicateImage, ecr:BatchImportUpstreamImage and
ecr:CreateRepository, so no pull.

What is not seen here: policies of an AWS organisation, and the identity policies of the account that pulls (UNSEEN).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

from deployments.policy.document import Kind, Policy, PolicyError, Puzzle, Statement, parse
from deployments.policy.evaluate import Answer, pull_by, pull_holders
from deployments.policy.wildcard import matches

REPOSITORY, REGISTRY, OWN_ACCOUNT = "repository policy", "registry policy", "registry's own account"
UNSEEN = "Policies of an AWS organisation and the identity policies of the account that pulls were not seen."


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryPolicy:
    """What was read of a registry's own policy. `text` empty: the registry has no policy."""

    text: str
    scope: str = ""  # V1 or V2; empty: it was not read


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Whether an account may pull, and on what that rests.

    `unknown`: a policy that was not read could turn the answer around. `no` is certain: no unread policy allows what is
    denied. `layer` and `statement` decide; `statement` None: no statement does (nothing allows it).
    """

    verdict: Literal["yes", "no", "depends", "unknown"]
    layer: str
    statement: str | None
    words: str
    basis: str  # a sentence: which policies the answer rests on


def effective(
    repository: str | None, registry: RegistryPolicy | None, account: str, *, arn: str, partition: str
) -> Access:
    """Whether an account (or another principal: a role's ARN) may pull from the repository with this ARN.

    `repository`: the text of its policy; empty: it has none; None: it was not read. `registry` None: it was not read.
    Pure, and raises nothing: a text that cannot be understood makes the answer `depends`.
    """
    policy, scope = _of_registry(registry)
    about = _about(policy, arn) if policy else ()
    return _effective(repository, registry is not None, policy, scope, about, account, arn.split(":")[4], partition)


@functools.lru_cache(maxsize=1024)
def _effective(
    repository: str | None,
    registry_read: bool,
    registry: str,
    scope: str,
    about: tuple[bool | None, ...],
    account: str,
    owner: str,
    partition: str,
) -> Access:
    """Cached: the repositories of a registry mostly have one text, and `about` is the same for all of a namespace."""
    mine = _layers(repository, account, owner, partition)
    theirs = _theirs(registry, about)
    basis = _basis(repository, registry_read, registry, scope, bool(theirs))
    answer = _asked([*mine, *theirs], account, partition)
    if answer.layer == OWN_ACCOUNT:
        text = f"account {account} may pull as far as its identity policies allow it: the registry belongs to it."
        answer = replace(answer, statement=None, words=text)
    without = _asked(mine, account, partition) if theirs and not scope else answer
    return _access(answer, without, repository, registry_read, basis)


def named(
    repository: str | None, registry: RegistryPolicy | None, *, arn: str, partition: str
) -> tuple[tuple[str, Access], ...]:
    """The principals that an Allow of either policy names for a pull, in words, with the answer of both policies."""
    policy, scope = _of_registry(registry)
    theirs = _theirs(policy, _about(policy, arn) if policy else ())
    mine = [(REPOSITORY, _parsed(repository or "{}"))]
    basis = _basis(repository, registry is not None, policy, scope, bool(theirs))
    holders = pull_holders([*mine, *theirs], partition=partition)
    return tuple(
        (
            holder.name,
            _access(
                holder.answer,
                pull_by(mine, holder.principal, partition=partition) if theirs and not scope else holder.answer,
                repository,
                registry is not None,
                basis,
            ),
        )
        for holder in holders
    )


def _theirs(registry: str, about: tuple[bool | None, ...]) -> list[tuple[str, Policy]]:
    """The registry policy as a layer; empty where none of its statements is about the repository."""
    return [(REGISTRY, _for_repository(registry, about))] if any(each is not False for each in about) else []


def _access(answer: Answer, without: Answer, repository: str | None, registry_read: bool, basis: str) -> Access:
    """`without`: the answer if the registry policy were not about pulls, which is so where its scope is V1."""
    verdict: Literal["yes", "no", "depends", "unknown"] = answer.verdict
    words = answer.words
    if (without.verdict, without.denied) != (answer.verdict, answer.denied):
        verdict = "depends"
        words = f"{words} That counts if the scope of the registry policy is V2, and the scope was not read."
    elif not answer.denied and (repository is None or not registry_read):
        verdict = "unknown"
        words = _by_what_was_read(words, repository, registry_read)
    return Access(verdict=verdict, layer=answer.layer, statement=answer.statement, words=words, basis=basis)


def _by_what_was_read(words: str, repository: str | None, registry_read: bool) -> str:
    if repository is None and not registry_read:
        return "Neither the repository policy nor the registry policy was read."
    read, unread = (REPOSITORY, REGISTRY) if repository is not None else (REGISTRY, REPOSITORY)
    return f"By the {read}, {words} The {unread} was not read."


def _asked(layers: Iterable[tuple[str, Policy]], account: str, partition: str) -> Answer:
    """The answer of all layers together. A certain Deny in a layer decides, also beside one that is not understood."""
    found = list(layers)
    answer = pull_by(found, account, partition=partition)
    if any(policy.all_puzzles for _, policy in found):
        alone = (pull_by([one], account, partition=partition) for one in found)
        return next((each for each in alone if each.denied), answer)
    return answer


def _layers(repository: str | None, account: str, owner: str, partition: str) -> list[tuple[str, Policy]]:
    found = [(REPOSITORY, _parsed(repository or "{}"))]
    if account == owner:
        # In its own account an Allow of the identity policies is enough, so that only a Deny of ours decides
        # (*Policy evaluation for requests within a single account*).
        allow = {"Sid": "Identity policies", "Effect": "Allow", "Principal": {"AWS": owner}, "Action": "ecr:*"}
        found.append((OWN_ACCOUNT, _parsed(json.dumps({"Statement": [allow]}))))
    return found


def _parsed(text: str) -> Policy:
    try:
        return parse(text)
    except PolicyError:
        return replace(parse("{}"), puzzles=(Puzzle(kind=Kind.SHAPE, words="the policy cannot be read"),))


# ------------------------------------------------------------------------------------------------- the registry policy


def _of_registry(registry: RegistryPolicy | None) -> tuple[str, str]:
    """The text of the registry policy as far as it is about pulls (scope V1 is not), and its scope."""
    if registry is None or registry.scope == "V1":
        return "", registry.scope if registry else ""
    return registry.text, registry.scope


@functools.lru_cache(maxsize=16)
def _statements(text: str) -> tuple[Policy, tuple[dict[str, Any], ...]]:
    """The registry policy, and the statements as written: only their Resource is read from these."""
    policy = _parsed(text)
    try:
        document = json.loads(text)
        written = document.get("Statement") if isinstance(document, dict) else None
    except (ValueError, RecursionError):
        written = None
    items: list[Any] = written if isinstance(written, list) else [written]
    return policy, tuple(items[one.index] for one in policy.statements)


def _about(text: str, arn: str) -> tuple[bool | None, ...]:
    """For each statement of a registry policy, whether it is about the repository with this ARN; None: unclear."""
    policy, items = _statements(text)
    if policy.puzzles:  # a part outside the statements is not understood, so that nothing is known of them
        return (None,) * max(1, len(items))
    return tuple(_names(item, arn) for item in items)


def _names(item: dict[str, Any], arn: str) -> bool | None:
    """Whether Resource or NotResource of a statement names the ARN; None: unclear.

    Source: *IAM JSON policy elements: Resource*. Wildcards stand within a segment of an ARN, and a `*` at the end of a
    segment also matches beyond the colon. Anything else, and a policy variable, is unclear.
    """
    plain, opposite = item.get("Resource"), item.get("NotResource")
    if (plain is None) == (opposite is None):
        return None
    patterns = plain if plain is not None else opposite
    answers = {_is(pattern, arn) for pattern in (patterns if isinstance(patterns, list) else [patterns])}
    named = True if True in answers else None if None in answers else False
    return named if plain is not None or named is None else not named


def _is(pattern: Any, arn: str) -> bool | None:
    if not isinstance(pattern, str) or "${" in pattern:
        return None
    segments, parts = pattern.split(":", 5), arn.split(":", 5)
    if len(segments) == len(parts) and all(map(matches, segments, parts)):
        return True
    if not matches(pattern, arn):
        return False
    return True if all("*" not in segment[:-1] for segment in segments) else None


def _for_repository(text: str, about: tuple[bool | None, ...]) -> Policy:
    """The registry policy as a policy of one repository: its statements about it, without their Resource."""
    policy, _ = _statements(text)
    statements = tuple(
        _without_resource(statement, clear=names is True)
        for statement, names in zip(policy.statements, about, strict=False)
        if names is not False
    )
    return replace(policy, statements=statements)


def _without_resource(statement: Statement, *, clear: bool) -> Statement:
    puzzles = tuple(puzzle for puzzle in statement.puzzles if puzzle.kind is not Kind.RESOURCE)
    if not clear:
        words = f"it is unclear whether the Resource of {statement.label} means this repository"
        puzzles = (*puzzles, Puzzle(kind=Kind.RESOURCE, words=words, statement=statement.index))
    return replace(statement, puzzles=puzzles)


def _basis(repository: str | None, registry_read: bool, registry: str, scope: str, about: bool) -> str:
    """Which policies an answer rests on."""
    mine = "the repository policy" if repository is not None else "not the repository policy, which was not read"
    if not registry_read:
        theirs = "The registry policy was not read."
    elif scope == "V1":
        theirs = "The scope of the registry policy is V1, in which it is not about pulls."
    elif not registry:
        theirs = "The registry has no policy."
    elif not about:
        theirs = "No statement of the registry policy is about this repository."
    else:
        theirs = f"The registry policy was evaluated too (scope {scope or 'not read'})."
    return f"This rests on {mine}. {theirs} {UNSEEN}"
