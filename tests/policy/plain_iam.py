"""What IAM decides about one request, written as plainly as the documentation says it, to check the engine against.

Shares no code with `deployments.policy`, and takes a policy as the JSON document that it is. Where AWS documents no
answer, `Guess` answers: at random, but always the same for the same question. Two policies that the engine calls the
same must give the same decision for every guess.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from typing import Any

ACCOUNT_LEVEL = {"ecr:getauthorizationtoken", "ecr:putregistrypolicy", "ecr:describeregistry"}  # of this grammar
DENIED, NOTHING, BY_ACCOUNT, BY_NAME = "denied", "nothing", "allowed by the account", "allowed by name"
Document = dict[str, Any]
Context = dict[str, Any]  # lower-cased key → text, list of texts, or None: missing


@dataclass(frozen=True)
class Guess:
    """Answers to what AWS does not document."""

    seed: int

    def __call__(self, *question: Any) -> bool:
        text = json.dumps([self.seed, *question], default=sorted)
        return hashlib.blake2b(text.encode(), digest_size=1).digest()[0] % 2 == 0


def decide(document: Document, principal: str, action: str, context: Context, guess: Guess) -> str:
    """The decision about a request: `principal` is an ARN, a unique id, or `Service:name`."""
    decision = NOTHING
    for statement in listed(document.get("Statement")):
        meant = _meant(statement, principal, guess)
        if meant is None or not _action(statement, action):
            continue
        version = document.get("Version", "2008-10-17")
        if not _resolved(statement, context, version, guess) or not all(
            _test(operator, key, [_text(value) for value in listed(values)], context, version, guess)
            for operator, block in (statement.get("Condition") or {}).items()
            for key, values in block.items()
        ):
            continue
        if statement["Effect"] == "Deny":
            return DENIED
        decision = BY_NAME if BY_NAME in (meant, decision) else BY_ACCOUNT
    return decision


def _resolved(statement: Document, context: Context, version: str, guess: Guess) -> bool:
    """Whether a variable without a value leaves the statement valid: it “might make the entire statement invalid”."""
    text = json.dumps(statement.get("Condition") or {})
    names = {name.lower() for name in re.findall(r"\$\{([^},]*)\}", text)} - {"*", "?", "$"}
    valid = [isinstance(context.get(name), str) or guess("valid", name) for name in sorted(names)]
    return version == "2008-10-17" or all(valid)


def listed(value: Any) -> list[Any]:
    return [] if value is None else value if isinstance(value, list) else [value]


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


# --------------------------------------------------------------------------------------------- principals, actions


def principals_of(element: Any) -> set[str]:
    """The principals of an element, with an account as its root ARN and a service as `Service:name`."""
    if isinstance(element, str):
        return {"*"}
    found = set()
    for kind, names in element.items():
        for name in listed(names):
            if kind == "AWS":
                found.add(f"arn:aws:iam::{name}:root" if re.fullmatch("[0-9]{12}", name) else name)
            else:
                found.add(f"{kind}:{name}")
    return found


def _one_of(names: set[str], principal: str, guess: Guess) -> str | None:
    if "*" in names or principal in names:
        return BY_NAME  # an account is asked about by a principal of it that nobody names
    parts = principal.split(":")
    if len(parts) < 6:
        return None
    kind, _, path = parts[5].partition("/")
    if kind == "assumed-role":
        role = path.split("/")[0]
        for name in names:
            other = name.split(":")
            if len(other) > 5 and other[4] == parts[4] and re.fullmatch(f"role/(.*/)?{re.escape(role)}", other[5]):
                return BY_NAME
    return BY_ACCOUNT if f"arn:aws:iam::{parts[4]}:root" in names else None


def _meant(statement: Document, principal: str, guess: Guess) -> str | None:
    if "Principal" in statement:
        return _one_of(principals_of(statement["Principal"]), principal, guess)
    names = principals_of(statement["NotPrincipal"])
    exempt = _one_of(names, principal, guess)
    if exempt is None:
        return BY_NAME
    parts = principal.split(":")
    if statement["Effect"] == "Deny" and len(parts) > 5 and "*" not in names:
        account = f"arn:aws:iam::{parts[4]}:root"
        session = parts[5].split("/") if parts[5].startswith("assumed-role/") else []
        role = (
            any(re.fullmatch(f"arn:aws:iam::{parts[4]}:role/(.*/)?{re.escape(session[1])}", one) for one in names)
            if session
            else not parts[5].startswith("role/")
        )
        if not (principal in names and account in names and role):
            return BY_NAME if guess("NotPrincipal", names, principal) else None
    return None


def _action(statement: Document, action: str) -> bool:
    if action.lower() in ACCOUNT_LEVEL:
        return False
    negated = "NotAction" in statement
    patterns = listed(statement["NotAction" if negated else "Action"])
    return any(_like(pattern.lower(), action.lower()) for pattern in patterns) is not negated


def _like(pattern: str, text: str) -> bool:
    expression = "".join({"*": ".*", "?": "."}.get(one, re.escape(one)) for one in pattern)
    return re.fullmatch(expression, text, re.DOTALL) is not None


# --------------------------------------------------------------------------------------------------- conditions

_NEGATED = {
    "StringNotEquals": "StringEquals",
    "StringNotEqualsIgnoreCase": "StringEqualsIgnoreCase",
    "StringNotLike": "StringLike",
    "NumericNotEquals": "NumericEquals",
    "DateNotEquals": "DateEquals",
    "NotIpAddress": "IpAddress",
    "ArnNotEquals": "ArnEquals",
    "ArnNotLike": "ArnLike",
}


def _test(operator: str, key: str, values: list[str], context: Context, version: str, guess: Guess) -> bool:
    given = context.get(key.lower())
    if operator == "Null":
        return ("true" if given is None or given == [] else "false") in values
    quantifier, _, rest = operator.rpartition(":")
    if_exists = rest.endswith("IfExists")
    word = rest.removesuffix("IfExists")
    negated, base = word in _NEGATED, _NEGATED.get(word, word)
    if given is None or given == []:
        if quantifier == "ForAllValues":
            return True
        return False if quantifier else negated or if_exists

    def passes(one: str) -> bool:
        return any(_equal(base, value, one, context, version, guess) for value in values) is not negated

    if quantifier == "ForAllValues":
        return all(passes(one) for one in listed(given))
    if quantifier == "ForAnyValue":
        return any(passes(one) for one in listed(given))
    if isinstance(given, list) and len(set(given)) > 1:
        some = sorted(set(given))
        looked_at = [one for one in some if guess("looked at", key.lower(), some, one)] or some[:1]
        return (
            any(_equal(base, value, one, context, version, guess) for value in values for one in looked_at)
            is not negated
        )
    return passes(listed(given)[0])


def _filled(value: str, context: Context, wildcards: bool) -> tuple[list[str], list[bool]] | None:
    """The characters of a value, and whether each is written as it is (a wildcard is); None: not known."""
    characters: list[str] = []
    written: list[bool] = []
    for part in re.split(r"(\$\{[^}]*\})", value):
        if not re.fullmatch(r"\$\{[^}]*\}", part):
            filled, plain = part, True
        elif part[2:-1] in ("*", "?", "$"):
            filled, plain = part[2:-1], False
        else:
            name, _, default = part[2:-1].partition(",")
            found = context.get(name.strip().lower())
            if found is None and default:
                found = default.strip().strip("'")
            if not isinstance(found, str) or (wildcards and re.search("[*?]", found)):
                return None
            filled, plain = found, False
        characters += filled
        written += [plain] * len(filled)
    return characters, written


def _equal(base: str, value: str, given: str, context: Context, version: str, guess: Guess) -> bool:
    if base.startswith("Numeric"):
        if not re.fullmatch(r"[0-9.]+(e[0-9])?", given):
            return False  # a tag can have any text
        return _ordered(base, Fraction(given), Fraction(value))
    if base.startswith("Date"):
        return _ordered(base, _seconds(given), _seconds(value))
    if base == "IpAddress":
        address, network = ipaddress.ip_address(given), ipaddress.ip_network(value)
        return address.version == network.version and address in network
    if version == "2012-10-17":
        filled = _filled(value, context, base not in ("StringEquals", "StringEqualsIgnoreCase"))
        if filled is None:
            return guess("variable", base, value.lower(), given)
        characters, written = filled
    else:
        characters, written = list(value), [True] * len(value)
    if base in ("StringEquals", "Bool"):
        return "".join(characters) == given
    if base == "StringEqualsIgnoreCase":
        return "".join(characters).lower() == given.lower()
    if base == "StringLike":
        return _matched(characters, written, given, "")
    assert base in ("ArnEquals", "ArnLike"), base
    parts, others = _split(characters, written), given.split(":", 5)
    return len(others) == 6 and all(
        _matched(*part, other, "" if at == 5 else ":")
        for at, (part, other) in enumerate(zip(parts, others, strict=True))
    )


def _split(characters: list[str], written: list[bool]) -> list[tuple[list[str], list[bool]]]:
    parts: list[tuple[list[str], list[bool]]] = [([], [])]
    for one, plain in zip(characters, written, strict=True):
        if one == ":" and len(parts) < 6:
            parts.append(([], []))
        else:
            parts[-1][0].append(one)
            parts[-1][1].append(plain)
    return parts


def _matched(characters: list[str], written: list[bool], text: str, no: str) -> bool:
    any_ = f"[^{no}]" if no else "."
    expression = "".join(
        f"{any_}*" if one == "*" and plain else any_ if one == "?" and plain else re.escape(one)
        for one, plain in zip(characters, written, strict=True)
    )
    return re.fullmatch(expression, text, re.DOTALL) is not None


def _ordered(base: str, given: Fraction, value: Fraction) -> bool:
    for word, answer in (
        ("LessThanEquals", given <= value),
        ("GreaterThanEquals", given >= value),
        ("LessThan", given < value),
        ("GreaterThan", given > value),
        ("Equals", given == value),
    ):
        if base.endswith(word):
            return answer
    raise AssertionError(base)


def _seconds(text: str) -> Fraction:
    if text.isdigit():
        return Fraction(text)
    at = datetime.fromisoformat(text if "T" in text else f"{text}T00:00:00+00:00")
    since = at - datetime.fromisoformat("1970-01-01T00:00:00+00:00")
    return Fraction(since.days * 86_400 + since.seconds) + Fraction(since.microseconds, 1_000_000)
