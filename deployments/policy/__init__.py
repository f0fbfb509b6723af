"""A repository policy as a value: parse it, compare two by meaning, ask who may do what, lint it.

Pure: no I/O, no Django, no boto3. The partition of the registry's region is a plain argument everywhere. "Rule 5" in
code and tests means rule 5 of RULES.md in this folder, which has all twelve rules with examples and AWS's pages.
"""

from deployments.policy.compare import Comparison, Grant, Level, compare
from deployments.policy.document import Policy, PolicyError, Puzzle, Statement, parse
from deployments.policy.effective import REGISTRY, UNSEEN, Access, RegistryPolicy, effective, named
from deployments.policy.evaluate import Answer, Holder, Verdict, can_pull, holders, may
from deployments.policy.findings import IDS, Finding
from deployments.policy.foreign_statements import ForeignStatement, foreign_statements, grants_of
from deployments.policy.lint import MAX_CHARACTERS, Openness, lint, openness
from deployments.policy.lockout import Lockout, lockouts
from deployments.policy.service_statements import (
    Keeps,
    ServiceStatement,
    Trust,
    WrittenGrant,
    service_statements,
    with_statements,
)

__all__ = [
    "IDS",
    "MAX_CHARACTERS",
    "REGISTRY",
    "UNSEEN",
    "Access",
    "Answer",
    "Comparison",
    "Finding",
    "ForeignStatement",
    "Grant",
    "Holder",
    "Keeps",
    "Level",
    "Lockout",
    "Openness",
    "Policy",
    "PolicyError",
    "Puzzle",
    "RegistryPolicy",
    "ServiceStatement",
    "Statement",
    "Trust",
    "Verdict",
    "WrittenGrant",
    "can_pull",
    "compare",
    "effective",
    "foreign_statements",
    "grants_of",
    "holders",
    "lint",
    "lockouts",
    "may",
    "named",
    "openness",
    "parse",
    "service_statements",
    "with_statements",
]
