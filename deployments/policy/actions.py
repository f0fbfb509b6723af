"""ECR's actions: the table that wildcards are expanded against.

Source: AWS's service authorization reference for the prefix `ecr`, as of 2026-10-27, and the operations of botocore
1.44.5's model (a test compares the two). `ListImageReferrers` is an operation without an action of its own in the
reference; policies name it all the same, so it is here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum

from deployments.policy.wildcard import ascii_lower, covers, has_wildcard

AS_OF = "2026-10-27"
PREFIX = "ecr:"


class Purpose(StrEnum):
    PULL = "pull"
    PUSH = "push"
    DELETE = "delete"
    POLICY = "policy"  # changes who may do what
    OTHER = "other"
    ACCOUNT = "account"  # names no repository, so a repository policy can neither allow nor deny it


_TABLE = {
    Purpose.PULL: "BatchGetImage GetDownloadUrlForLayer",
    Purpose.PUSH: "CompleteLayerUpload InitiateLayerUpload PutImage UploadLayerPart",
    Purpose.DELETE: "BatchDeleteImage DeleteLifecyclePolicy DeleteRepository",
    Purpose.POLICY: "DeleteRepositoryPolicy SetRepositoryPolicy",
    Purpose.OTHER: """
        BatchCheckLayerAvailability BatchGetRepositoryScanningConfiguration BatchImportUpstreamImage CreateRepository
        DescribeImageReplicationStatus DescribeImageScanFindings DescribeImageSigningStatus DescribeImages
        DescribeRepositories GetImageCopyStatus GetLifecyclePolicy GetLifecyclePolicyPreview GetRepositoryPolicy
        ListImageReferrers ListImages ListTagsForResource PutImageScanningConfiguration PutImageTagMutability
        PutLifecyclePolicy ReplicateImage StartImageScan StartLifecyclePolicyPreview TagResource UntagResource
        UpdateImageStorageClass
    """,
    Purpose.ACCOUNT: """
        CreatePullThroughCacheRule CreateRepositoryCreationTemplate DeletePullThroughCacheRule DeleteRegistryPolicy
        DeleteRepositoryCreationTemplate DeleteSigningConfiguration DeregisterPullTimeUpdateExclusion
        DescribePullThroughCacheRules DescribeRegistry DescribeReplicationBackfillResults
        DescribeRepositoryCreationTemplates GetAccountSetting GetAuthorizationToken GetRegistryPolicy
        GetRegistryScanningConfiguration GetSigningConfiguration ListPullTimeUpdateExclusions
        ListReplicationBackfills PutAccountSetting PutRegistryPolicy PutRegistryScanningConfiguration
        PutReplicationConfiguration PutSigningConfiguration RegisterPullTimeUpdateExclusion
        StartReplicationBackfill StopReplicationBackfill UpdatePullThroughCacheRule
        UpdateRepositoryCreationTemplate ValidatePullThroughCacheRule
    """,
}

# lower-cased action → its name as AWS writes it, and what it is for
NAMES = {ascii_lower(PREFIX + name): PREFIX + name for names in _TABLE.values() for name in names.split()}
PURPOSES = {ascii_lower(PREFIX + name): purpose for purpose, names in _TABLE.items() for name in names.split()}
KNOWN = frozenset(NAMES)


def _of(purpose: Purpose) -> frozenset[str]:
    return frozenset(action for action, its in PURPOSES.items() if its is purpose)


# A pull needs both; `ecr:BatchCheckLayerAvailability` is customary beside them and needed by a push.
PULL = _of(Purpose.PULL)
PUSH = _of(Purpose.PUSH)
_RUN = re.compile(r"[*?]+")
CUSTOMARY = "ecr:batchchecklayeravailability"


def spelling(action: str) -> str:
    """One spelling of an action or pattern: lower case (rule 4), `**` as `*`, `*?` as `?*`."""
    return _RUN.sub(lambda run: "?" * run[0].count("?") + "*" * ("*" in run[0]), ascii_lower(action))


def expand(action: str) -> frozenset[str]:
    """The known actions that an action or pattern in its one spelling stands for; itself if there is none (rule 5).

    Kept as itself are a name that we do not know (new, misspelt, or another service's) and a pattern that no known
    action fits: both may come to mean something, so they must not vanish.
    """
    if action in KNOWN:
        return frozenset({action})
    if has_wildcard(action):
        return frozenset(name for name in KNOWN if covers(action, name)) or frozenset({action})
    return frozenset({action})


def expand_all(actions: Iterable[str]) -> frozenset[str]:
    return frozenset(name for action in actions for name in expand(spelling(action)))


def written(action: str) -> str:
    """An action in its one spelling as AWS writes it."""
    return NAMES.get(action, action)
