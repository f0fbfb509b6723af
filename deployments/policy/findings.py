"""The findings of `lint`: their ids, their value, and the words that all of them share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from deployments.ecr_rules import RULES
from deployments.policy.document import Statement, quoted

# Check id → its subject. ECR refuses what the table of rules names; the other findings are our own.
IDS = {rule.name: rule.says for rule in RULES.values() if rule.about == "policy"} | {
    "deployments.E110": "open to the whole world",
    "deployments.E111": "a consumer account cannot pull",
    "deployments.W101": "ecr:*",
    "deployments.W102": "grants push, delete or changing the policy",
    "deployments.W103": "lets nobody pull",
    "deployments.W104": "one of the two pull actions is missing",
    "deployments.W105": "an action on the whole account, such as ecr:GetAuthorizationToken",
    "deployments.W106": "a role or user as principal: access ends when it is deleted and created again",
    "deployments.W107": "an account id as a JSON number",
    "deployments.W108": "a principal that was deleted",
    "deployments.W109": "open to the whole world, as the setting allows",
    "deployments.W110": "a consumer account can pull only under a condition",
    "deployments.W111": "a condition that restricts nobody",
    "deployments.W112": "a service without a condition on the account that it acts for, or an identity provider",
    "deployments.W113": "a policy variable under a Version without variables",
    "deployments.W114": "Allow with NotAction",
    "deployments.W115": "two statements with the same Sid",
    "deployments.W116": "an ECR action that this release does not know",
    "deployments.W117": "a Deny that takes back what an Allow gives",
    "deployments.W118": "a Deny that keeps Registry Admin itself out, always or under a condition",
    "deployments.W119": "a condition key that AWS does not have, or an incomplete one",
    "deployments.W120": "a condition value that its operator or key never matches",
    "deployments.W121": "a set operator and a condition key that do not fit together",
    "deployments.W122": "a wildcard in a condition value that is not a pattern",
    "deployments.W123": "private address ranges, which aws:SourceIp never has",
    "deployments.W124": "a policy variable that is malformed, unknown or in the wrong place",
    "deployments.W125": "one session of a role as principal",
    "deployments.W126": "a condition operator of another type than its key",
    "deployments.W127": "an empty part of a condition",
    "deployments.W128": "one condition key in two spellings",
    "deployments.W129": "the name of a service that is probably misspelt",
    "deployments.W130": "address ranges that are wider than AWS calls private to somebody",
    "deployments.W131": "aws:VpcSourceIp without a condition on the VPC",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One error or warning about a policy: `message` says what is wrong, `hint` says what to do."""

    id: str
    level: Literal["error", "warning"]
    message: str
    hint: str

    def as_document(self) -> dict[str, str]:
        """The object that `policy lint --json` prints."""
        return {"id": self.id, "level": self.level, "message": self.message}


def report(code: str, message: str, hint: str) -> Finding:
    """A finding of the table; the first letter of its code is its level."""
    level: Literal["error", "warning"] = "error" if code.startswith("E") else "warning"
    return Finding(id=f"deployments.{code}", level=level, message=message, hint=hint)


def capital(text: str) -> str:
    """The text as the beginning of a sentence."""
    return text[:1].upper() + text[1:]


def place_of(statement: Statement) -> str:
    """The statement as the subject of a sentence: by its Sid, or by its index."""
    return f"Statement {quoted(statement.sid)}" if statement.sid else f"Statement[{statement.index}]"
