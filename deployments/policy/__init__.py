"""A repository policy as a value: parse it, compare two by meaning, ask who may do what, lint it.

Pure: no I/O, no Django, no boto3. The partition of the registry's region is a plain argument everywhere. Numbered
rules that the modules cite: 1 account ids, 2 order and lists, 3 `*`, 4 case, 5 wildcards in actions, 6 atoms, 7 Sid,
Id and Version, 8 condition values, 9 empty elements, 10 unknown elements, 11 deleted principals, 12 Deny and the
negated forms.
"""

from deployments.policy.compare import Comparison, Grant, Level, compare
from deployments.policy.document import Policy, PolicyError, Puzzle, Statement, parse
from deployments.policy.evaluate import Answer, Holder, Verdict, can_pull, holders, may
from deployments.policy.lint import IDS, MAX_CHARACTERS, Finding, lint

__all__ = [
    "IDS",
    "MAX_CHARACTERS",
    "Answer",
    "Comparison",
    "Finding",
    "Grant",
    "Holder",
    "Level",
    "Policy",
    "PolicyError",
    "Puzzle",
    "Statement",
    "Verdict",
    "can_pull",
    "compare",
    "holders",
    "lint",
    "may",
    "parse",
]
