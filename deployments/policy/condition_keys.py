"""The condition keys that a request to ECR can have, with the type of their values.

Sources: *IAM User Guide*, “AWS global condition context keys”; *Service Authorization Reference*, “Actions, resources,
and condition keys for Amazon Elastic Container Registry”; read in 2026-11. A key of another service (`ec2:…`) is not
here, because some of them come with every request of a role's session.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from enum import StrEnum

from deployments.policy.wildcard import ascii_lower

AS_OF = "November 2026"


class KeyType(StrEnum):
    """The type of a key's values. The words stand in sentences."""

    TEXT = "text"
    ARN = "an ARN"
    BOOL = "true or false"
    DATE = "a date"
    NUMBER = "a number"
    ADDRESS = "an address"


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One key as AWS writes it.

    `multivalued`: a request may have several values; `tagged`: the key of a tag follows behind a slash.
    """

    name: str
    type: KeyType
    multivalued: bool = False
    tagged: bool = False


_TABLE = {
    KeyType.TEXT: """
        aws:CalledViaAWSMCP aws:CalledViaFirst aws:CalledViaLast aws:Ec2InstanceSourceVpc aws:FederatedProvider
        aws:PrincipalAccount aws:PrincipalOrgID aws:PrincipalServiceName aws:PrincipalType aws:Referer
        aws:RequestedRegion aws:ResourceAccount aws:ResourceOrgID aws:SourceAccount aws:SourceIdentity aws:SourceOrgID
        aws:SourceVpc aws:SourceVpce aws:UserAgent aws:VpceAccount aws:VpceOrgID aws:userid aws:username
        ecr:AccountSetting
    """,
    KeyType.ARN: "aws:ChatbotSourceArn aws:PrincipalArn aws:SignInSessionArn aws:SourceArn aws:SourceVpcArn",
    KeyType.BOOL: """
        aws:AssumedRoot aws:IsMcpServiceAction aws:MultiFactorAuthPresent aws:PrincipalIsAWSService aws:SecureTransport
        aws:ViaAWSMCPService aws:ViaAWSService
    """,
    KeyType.DATE: "aws:CurrentTime aws:EpochTime aws:TokenIssueTime",
    KeyType.NUMBER: "aws:MultiFactorAuthAge",
    KeyType.ADDRESS: "aws:Ec2InstanceSourcePrivateIPv4 aws:SourceIp aws:VpcSourceIp",
}
_MULTIVALUED = """
    aws:CalledVia aws:PrincipalOrgPaths aws:PrincipalServiceNamesList aws:ResourceOrgPaths aws:SourceOrgPaths
    aws:TagKeys aws:VpceOrgPaths
"""
_TAGGED = "aws:PrincipalTag aws:RequestTag aws:ResourceTag ecr:ResourceTag"
_ALL = [
    *(Key(name=name, type=kind) for kind, names in _TABLE.items() for name in names.split()),
    *(Key(name=name, type=KeyType.TEXT, multivalued=True) for name in _MULTIVALUED.split()),
    *(Key(name=name, type=KeyType.TEXT, tagged=True) for name in _TAGGED.split()),
]
#: Lower-cased name, without the tag key → key.
KEYS = {ascii_lower(key.name): key for key in _ALL}
_NEAR = 0.7  # as difflib measures: below this ratio two names are not a misspelling of each other


def known_key(key: str) -> Key | None:
    """The key of this name in any case; a key with tags needs the tag key behind a slash, the others have no slash."""
    name, slash, tag = ascii_lower(key).partition("/")
    found = KEYS.get(name)
    return found if found is not None and bool(slash and tag) is found.tagged and bool(slash) is found.tagged else None


def nearest_key(key: str) -> str | None:
    """The name of the known key that was probably meant; None if no known name is similar."""
    name = ascii_lower(key).partition("/")[0]
    if name == "aws:arn":
        return "aws:PrincipalArn"  # Access Analyzer: the key is no longer supported
    near = difflib.get_close_matches(name, KEYS, n=1, cutoff=_NEAR)
    if not near and ":" not in name:
        near = difflib.get_close_matches(f"aws:{name}", KEYS, n=1, cutoff=_NEAR)
    return KEYS[near[0]].name + ("/tag-key" if KEYS[near[0]].tagged else "") if near else None
