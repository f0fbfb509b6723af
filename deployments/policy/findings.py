"""The findings of `lint`: their ids, their value, and the words that all of them share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from deployments.policy.document import Statement, quoted

# Check id → its subject.
IDS = {
    "deployments.E101": "the text is not JSON",
    "deployments.E102": "longer than ECR's 10,240 characters",
    "deployments.E103": "an unknown element, or an element of the wrong shape",
    "deployments.E104": "a Resource element, which ECR refuses",
    "deployments.E105": "no Principal",
    "deployments.E106": "no Action",
    "deployments.E107": "an action of another service",
    "deployments.E108": "an action that ECR does not have",
    "deployments.E109": "not an AWS principal: a bad account id, a wildcard in an ARN, another partition",
    "deployments.E110": "open to the whole world",
    "deployments.E111": "a consumer account cannot pull",
    "deployments.E112": "a condition operator that IAM does not have",
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
    "deployments.W112": "a service or identity provider without a condition on the account that it acts for",
    "deployments.W113": "a policy variable under a Version without variables",
    "deployments.W114": "Allow with NotAction",
    "deployments.W115": "two statements with the same Sid",
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
