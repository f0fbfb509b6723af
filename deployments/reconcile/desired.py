"""The desired state of a repository, and how an observation differs from it.

Pure: values in, values out. `deployments.reconcile.repositories` observes and writes. Only this module decides what is
a difference, which differences we may correct, and whether a repository that exists has drifted. (A missing repository
counts as drifted in the numbers of a sweep.)
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from deployments import policy
from deployments.aws.values import Details
from deployments.config import RegistryConfig
from deployments.row_values import ConsumerPull, Difference, Management, Part

MUTABILITY = "IMMUTABLE_WITH_EXCLUSION"  # the image of a deployed tag can never change …
EXCLUSIONS = ("cache",)  # … and buildx can still overwrite its cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a repository has drifted or is in sync."""

    drifted: bool
    words: str  # the sentences of the differences that are drift


def drift(differences: Iterable[Difference]) -> list[Difference]:
    """The differences that count as drift: those that we may correct, and all of the repository policy.

    Other differences are only shown: choices of somebody else for an adopted repository, and the encryption.
    """
    return [each for each in differences if each.fixable or each.part is Part.POLICY]


def verdict(differences: Iterable[Difference]) -> Verdict:
    """The verdict for these differences: those that are left after the writes, or all that a refresh found."""
    found = drift(differences)
    return Verdict(drifted=bool(found), words=" ".join(each.words for each in found))


#: Cached: a sweep compares one desired text with the live texts of all repositories, and most of these are equal.
_compared = functools.lru_cache(maxsize=256)(policy.compare)

_OPEN: dict[policy.Openness, str] = {
    "open": "It is open to the whole world. ",
    "unknown": "It cannot be shown closed, so it may be open to the whole world. ",
    "closed": "",
}


def kept_statements(
    default: str, live: str | None, *, partition: str, trust: policy.Trust
) -> tuple[policy.ForeignStatement, ...]:
    """The statements of others in a live policy that stay beside the default policy (D-foreign-statements)."""
    only_services = trust.keeps != "keep" and not trust.adopted
    if not live or live == default or (only_services and '"Service"' not in live):  # so it is with nearly every policy
        return ()
    found = policy.foreign_statements(live, default=default, partition=partition, trust=trust)
    return tuple(each for each in found if each.kept)


def policy_beside(default: str, live: str | None, *, partition: str, trust: policy.Trust) -> str:
    """The text that a write replaces the live policy by: the default policy, and the statements that are kept.

    It may have more characters than ECR takes (`policy.MAX_CHARACTERS`).
    """
    kept = kept_statements(default, live, partition=partition, trust=trust)
    return policy.with_statements(default, kept) if kept else default


def policy_differences(
    desired: str | None, actual: str | None, *, partition: str, trust: policy.Trust
) -> list[Difference]:
    """How the repository policy differs. `desired` None: no policy is configured, so no policy is a difference.

    The statements of others that are kept are no difference.
    """
    if desired is None:
        return []
    if actual is None:
        return [Difference(part=Part.POLICY, words="The repository has no policy.", fixable=True)]
    beside = policy_beside(desired, actual, partition=partition, trust=trust)
    # From desired to actual: the access that is lost or gained by the actual policy.
    comparison = _compared(beside, actual, partition=partition, names=("default", "live"))
    if comparison.level == "incomparable":
        words = (
            f"{comparison.why} So the live policy cannot be compared with the default policy, and nothing is written "
            f"to it. {_OPEN[policy.openness(actual, partition=partition)]}"
            "Take the policy over on the page of the repository: then the default policy replaces it."
        )
        return [Difference(part=Part.POLICY, words=words, fixable=False)]
    if comparison.level != "access":
        return []
    words = "; ".join((*(grant.words for grant in (*comparison.lost, *comparison.gained)), *comparison.more))
    return [Difference(part=Part.POLICY, words=f"Compared with the default policy, {words}.", fixable=True)]


def written_words(before: str, after: str, *, partition: str) -> str:
    """Who gains and who loses access by a write of a repository policy, as a sentence; `before` empty: no policy."""
    if not before:
        return "The repository had no policy."
    comparison = _compared(before, after, partition=partition, names=("before", "now"))
    grants = [grant.words for grant in (*comparison.gained, *comparison.lost)]
    if not grants:
        return "The policy before it cannot be compared with it."
    words = "; ".join((*grants, *comparison.more))
    return f"{words[:1].upper()}{words[1:]}."


def lockout_words(text: str, *, writer: str, partition: str, live: bool) -> str:
    """Which statements of a policy keep the writer from writing another one, in sentences; empty if no statement does.

    `live`: the text is the repository's own policy, not the configured one.
    """
    try:
        found = [*policy.lockouts(policy.parse(text), writer=writer, partition=partition)]
    except policy.PolicyError:
        return ""
    whose = "the repository's present policy" if live else "that policy"
    return " ".join(
        f"{each.place} of {whose} {'denies' if each.certain else 'may deny'} ecr:SetRepositoryPolicy to this identity"
        f"{' ' + each.condition if each.condition else ''}."
        for each in found
        if each.of_the_policy
    )


def pullers(
    text: str | None, registry: policy.RegistryPolicy | None, accounts: Iterable[str], *, arn: str, partition: str
) -> dict[str, ConsumerPull]:
    """Account → whether it can pull from the repository with this ARN, by its policy and the registry policy.

    `text`, `registry`: as for `policy.effective`, where None means that the policy was not read.
    """
    found = {}
    for account in accounts:
        answer = policy.effective(text, registry, account, arn=arn, partition=partition)
        found[account] = ConsumerPull(
            verdict=answer.verdict, words=answer.words, layer=answer.layer, statement=answer.statement or ""
        )
    return found


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
        words = "The lifecycle policy differs from the settings" + ("." if fixable else "; somebody else wrote it.")
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
    """Whether the actual key (AWS always shows an ARN) is the wanted one.

    An alias cannot be resolved and counts as equal.
    """
    if actual is None:
        return False
    return wanted == actual or actual.endswith(f":key/{wanted}") or "alias/" in wanted


def same_lifecycle(a: str, b: str) -> bool:
    """Whether two lifecycle policies expire the same images. The order of rules and descriptions do not matter."""
    try:
        return bool(_lifecycle(json.loads(a)) == _lifecycle(json.loads(b)))
    except (ValueError, RecursionError, TypeError, AttributeError):
        return a == b


def may_touch_tagged(lifecycle: str) -> bool:
    """Whether a lifecycle policy has a rule that can select an image with a tag. True if the text cannot be read."""
    try:
        return any(rule["selection"]["tagStatus"] != "untagged" for rule in json.loads(lifecycle)["rules"])
    except (ValueError, RecursionError, TypeError, KeyError):
        return True


def _lifecycle(document: Mapping[str, Any]) -> Any:
    rules = []
    for rule in document.get("rules", ()):
        selection = {
            key: sorted(value) if isinstance(value, list) else value for key, value in rule.get("selection", {}).items()
        }
        rest = {key: value for key, value in rule.items() if key not in ("selection", "description")}
        rules.append(json.dumps({**rest, "selection": selection}, sort_keys=True))
    return sorted(rules), {key: value for key, value in document.items() if key != "rules"}
