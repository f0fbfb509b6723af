"""What a repository should be, and in which ways what we saw differs from it.

Pure: values in, values out. `deployments.reconcile.repositories` decides when to observe, and writes. What counts as a
difference, and which differences may be corrected, is decided here and nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from deployments import policy
from deployments.aws.values import Details
from deployments.config import RegistryConfig
from deployments.row_values import ConsumerPull, Difference, Management, Part

MUTABILITY = "IMMUTABLE_WITH_EXCLUSION"  # a deployed tag never changes under a running node …
EXCLUSIONS = ("cache",)  # … and buildx may still overwrite its cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a repository is drifted, or else in sync."""

    drifted: bool
    words: str  # of the differences that make it drifted


def open_ones(differences: Iterable[Difference]) -> list[Difference]:
    """The differences that make a repository drifted: the fixable ones, and every one of its policy.

    The others are only shown: what somebody else chose for a repository that was adopted, and the encryption.
    """
    return [each for each in differences if each.fixable or each.part is Part.POLICY]


def verdict(differences: Iterable[Difference]) -> Verdict:
    """In sync or drifted, by these differences: all that are left after the writes, or all that a dry run saw."""
    found = open_ones(differences)
    return Verdict(drifted=bool(found), words=" ".join(each.words for each in found))


def policy_differences(desired: str | None, actual: str | None, *, partition: str) -> list[Difference]:
    """How the repository policy differs, in words. No setting means no opinion: nobody's policy is ever deleted."""
    if desired is None:
        return []
    if actual is None:
        return [Difference(part=Part.POLICY, words="The repository has no policy.", fixable=True)]
    # From desired to actual: what somebody lost or gained by the repository being as it is.
    comparison = policy.compare(desired, actual, partition=partition)
    if comparison.level == "incomparable":
        words = (
            f"The policies cannot be compared, because one holds what is not understood ({comparison.why}), so "
            "nothing was written. If it is the repository's, delete it in AWS to have the default policy written."
        )
        return [Difference(part=Part.POLICY, words=words, fixable=False)]
    if comparison.level != "access":
        return []
    words = "; ".join(grant.words for grant in (*comparison.lost, *comparison.gained))
    return [Difference(part=Part.POLICY, words=f"Against the default policy, {words}.", fixable=True)]


def pullers(text: str, accounts: Iterable[str], *, partition: str) -> dict[str, ConsumerPull]:
    """Whether each of these accounts may pull by this policy, by account."""
    try:
        parsed = policy.parse(text or "{}")
    except policy.PolicyError:
        return {account: ConsumerPull(verdict="depends", words="The policy cannot be read.") for account in accounts}
    answers = {account: policy.can_pull(parsed, account, partition=partition) for account in accounts}
    return {account: ConsumerPull(verdict=answer.verdict, words=answer.words) for account, answer in answers.items()}


def detail_differences(
    config: RegistryConfig, details: Details, *, management: str, lifecycle_is_ours: bool
) -> list[Difference]:
    """How lifecycle policy, tags, mutability and encryption differ.

    `management` is a `Management`, or empty. Unless it is `full`, what somebody else chose stays: a lifecycle policy
    (`lifecycle_is_ours`: we wrote one), and tags that may be overwritten. A missing lifecycle policy, missing AWS tags
    and a mutability that keeps buildx's cache from being written are fixable in any case.
    """
    full = management == Management.FULL
    found = []
    if details.lifecycle is None:
        found.append(Difference(part=Part.LIFECYCLE, words="The repository has no lifecycle policy.", fixable=True))
    elif not same_lifecycle(details.lifecycle, config.lifecycle_policy):
        fixable = full or lifecycle_is_ours
        words = "The lifecycle policy is another one" + ("." if fixable else ", made by somebody else.")
        found.append(Difference(part=Part.LIFECYCLE, words=words, fixable=fixable))
    missing = {key: value for key, value in config.tags if details.tags.get(key) != value}
    if missing:
        names = ", ".join(sorted(missing))
        found.append(Difference(part=Part.TAGS, words=f"AWS tags missing or different: {names}.", fixable=True))
    if (details.mutability, details.exclusions) != (MUTABILITY, EXCLUSIONS):
        fixable = full or details.mutability == "IMMUTABLE"
        words = f"Tag mutability is {details.mutability}"
        if details.exclusions:
            words += f" (except {', '.join(details.exclusions)})"
        words += f" instead of {MUTABILITY} (except {', '.join(EXCLUSIONS)})."
        found.append(Difference(part=Part.MUTABILITY, words=words, fixable=fixable))
    wanted = "KMS" if config.kms_key else "AES256"
    if details.encryption != wanted or (config.kms_key and not same_key(config.kms_key, details.kms_key)):
        words = f"Encrypted with {_encryption(details.encryption, details.kms_key)} instead of "
        words += f"{_encryption(wanted, config.kms_key)}; AWS fixes this at creation."
        found.append(Difference(part=Part.ENCRYPTION, words=words, fixable=False))
    return found


def _encryption(kind: str, key: str | None) -> str:
    return f"{kind} {key}" if key else kind


def same_key(wanted: str, actual: str | None) -> bool:
    """AWS shows a key by its ARN, whatever it was named by. An alias cannot be resolved here and is taken as right."""
    if actual is None:
        return False
    return wanted == actual or actual.endswith(f":key/{wanted}") or "alias/" in wanted


def same_lifecycle(a: str, b: str) -> bool:
    """Whether two lifecycle policies expire the same images. The order of rules and a description change nothing."""
    try:
        return bool(_lifecycle(json.loads(a)) == _lifecycle(json.loads(b)))
    except (ValueError, RecursionError, TypeError, AttributeError):
        return a == b


def _lifecycle(document: Mapping[str, Any]) -> Any:
    rules = []
    for rule in document.get("rules", ()):
        selection = {
            key: sorted(value) if isinstance(value, list) else value for key, value in rule.get("selection", {}).items()
        }
        rest = {key: value for key, value in rule.items() if key not in ("selection", "description")}
        rules.append(json.dumps({**rest, "selection": selection}, sort_keys=True))
    return sorted(rules), {key: value for key, value in document.items() if key != "rules"}
