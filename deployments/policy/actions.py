"""ECR's actions: the table that the wildcards of a policy are expanded against (rule 5).

Source: AWS's service authorization reference for the prefix `ecr`, as of 2026-10-27, and the operations of botocore
1.44.5's model (a test compares the two). `ListImageReferrers` is an operation for which the reference has no action;
policies name it, so the table has it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from enum import StrEnum

from deployments.policy.wildcard import ascii_lower, has_wildcard, matches

AS_OF = "2026-10-27"
PREFIX = "ecr:"


class Purpose(StrEnum):
    """What an action is for. The words stand in sentences: `ecr:PutImage (push)`."""

    PULL = "pull"
    PUSH = "push"
    DELETE = "delete"
    POLICY = "policy"  # changes the repository policy
    OTHER = "other"
    ACCOUNT = "account"  # acts on the whole account: a repository policy can neither allow nor deny it


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

# Lower-cased action → its name as AWS writes it; lower-cased action → its purpose.
NAMES = {ascii_lower(PREFIX + name): PREFIX + name for names in _TABLE.values() for name in names.split()}
PURPOSES = {ascii_lower(PREFIX + name): purpose for purpose, names in _TABLE.items() for name in names.split()}
KNOWN = frozenset(NAMES)


def _of(purpose: Purpose) -> frozenset[str]:
    return frozenset(action for action, its in PURPOSES.items() if its is purpose)


# A pull needs both actions of PULL. `ecr:BatchCheckLayerAvailability` (CUSTOMARY) often stands beside them; a push
# needs it.
PULL = _of(Purpose.PULL)
PUSH = _of(Purpose.PUSH)
_RUN = re.compile(r"[*?]+")
GRANTABLE = KNOWN - _of(Purpose.ACCOUNT)  # a repository policy can grant these
CUSTOMARY = "ecr:batchchecklayeravailability"


def spelling(action: str) -> str:
    """The canonical spelling of an action or pattern: lower case (rule 4), `**` as `*`, `*?` as `?*`."""
    return _RUN.sub(lambda run: "?" * run[0].count("?") + "*" * ("*" in run[0]), ascii_lower(action))


@functools.lru_cache(maxsize=4096)
def expand(action: str) -> frozenset[str]:
    """The known actions that `action` (an action or pattern in its canonical spelling) stands for (rule 5).

    An unknown name (new, misspelt or another service's) and a pattern that matches no known action stand for
    themselves: AWS may add such an action, so they must stay visible in the comparison.
    """
    if action in KNOWN:
        return frozenset({action})
    if has_wildcard(action):
        return frozenset(name for name in KNOWN if matches(action, name)) or frozenset({action})
    return frozenset({action})


def expand_all(actions: Iterable[str]) -> frozenset[str]:
    """`expand` for several actions, each in any spelling."""
    return frozenset(name for action in actions for name in expand(spelling(action)))


def written(action: str) -> str:
    """A canonical action as AWS writes it (`ecr:PutImage`); an unknown action unchanged."""
    return NAMES.get(action, action)
