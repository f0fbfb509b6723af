"""Made-up policies of the whole grammar, pairs of them, and the requests that could tell a pair apart.

Everything comes from one seed, so a pair is made again by its number.
"""

from __future__ import annotations

import copy
import ipaddress
import json
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from deployments.policy import compare
from tests.policy.plain_iam import Context, Document, Guess, decide, listed, principals_of

ONE, TWO, THREE = "111111111111", "222222222222", "333333333333"
ROLES = [f"arn:aws:iam::{ONE}:role/r", f"arn:aws:iam::{TWO}:role/team/s"]
USER = f"arn:aws:iam::{TWO}:user/u"
SESSION = f"arn:aws:sts::{ONE}:assumed-role/r/i-1"
SERVICES = ["lambda.amazonaws.com", "codebuild.amazonaws.com"]
UNIQUE = "AROAEXAMPLE1234567890"
ACTIONS = ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer", "ecr:PutImage", "ecr:DescribeImages"]
PATTERNS = ["ecr:*", "*", "ecr:Batch*", "ecr:Get*", "ecr:Describe????es", "ecr:GetAuthorizationToken"]

# Key → its values and operators. The texts overlap on purpose.
_TEXTS = {
    "aws:PrincipalOrgID": ["o-1", "o-2", "o-3", "O-1"],
    "aws:SourceVpce": ["vpce-1", "vpce-2", "vpce-3"],
    "aws:PrincipalTag/team": ["red", "red-1", "blue", "Red", "a*"],
    "aws:userid": ["AROA1:x", "AROA2:y"],
}
_LIKES = {
    "aws:PrincipalOrgID": ["o-*", "o-?", "*", "o-1"],
    "aws:SourceVpce": ["vpce-*", "*-1", "vpce-??"],
    "aws:PrincipalTag/team": [
        "red*",
        "red-*",
        "*e*",
        "r?d",
        "red",
        "a${*}",
        "${aws:userid}",
        "${aws:SourceVpce, 'red'}",
    ],
    "aws:userid": ["AROA1:*", "*:x"],
}
_NUMBERS = ["300", "900", "900.0", "3600", "1e3"]
_DATES = ["2030-01-01T00:00:00Z", "1893456000", "2031-06-01", "2029-12-31T23:00:00-01:00"]
_RANGES = ["203.0.112.0/24", "203.0.113.0/24", "203.0.112.0/23", "203.0.113.7/32", "203.0.113.7", "0.0.0.0/0",
           "2001:db8::/32", "2001:db8:1::/48", "::/0"]  # fmt: skip
_ARNS = [*ROLES, f"arn:aws:iam::{ONE}:role/*", f"arn:aws:iam::{TWO}:*", f"arn:aws:iam::{ONE}:role/r?",
         "arn:aws:iam::*:role/r", f"arn:aws:iam::{THREE}:role/x"]  # fmt: skip
_PATHS = ["o-1/r-1/", "o-1/r-1/ou-1/", "o-2/r-2/"]


def _some(chance: random.Random, pool: list[str], most: int = 3) -> Any:
    found = chance.sample(pool, chance.randint(1, min(most, len(pool))))
    return found[0] if len(found) == 1 and chance.random() < 0.5 else found


def _condition(chance: random.Random) -> Document:
    found: Document = {}
    for _ in range(chance.choice([0, 0, 1, 1, 1, 2, 2, 3])):
        operator, key, values = _one_test(chance)
        found.setdefault(operator, {})[key] = values
    return found


def _one_test(chance: random.Random) -> tuple[str, str, Any]:
    sort = chance.randrange(12)
    exists = "IfExists" if chance.random() < 0.2 else ""
    no = chance.random() < 0.3
    if sort < 4:
        key = chance.choice(list(_TEXTS))
        if chance.random() < 0.5:
            word = "StringNotEquals" if no else "StringEquals"
            word += "IgnoreCase" if chance.random() < 0.2 else ""
            return word + exists, key, _some(chance, _TEXTS[key])
        return ("StringNotLike" if no else "StringLike") + exists, key, _some(chance, [*_LIKES[key], *_TEXTS[key]])
    if sort == 4:
        word = chance.choice(["Equals", "LessThan", "LessThanEquals", "GreaterThan", "GreaterThanEquals", "NotEquals"])
        key = chance.choice(["aws:MultiFactorAuthAge", "aws:PrincipalTag/level"])
        return f"Numeric{word}{exists}", key, _some(chance, _NUMBERS, 2)
    if sort == 5:
        word = chance.choice(["Equals", "LessThan", "LessThanEquals", "GreaterThan", "GreaterThanEquals", "NotEquals"])
        return f"Date{word}{exists}", "aws:CurrentTime", _some(chance, _DATES, 2)
    if sort == 6:
        return ("NotIpAddress" if no else "IpAddress") + exists, "aws:SourceIp", _some(chance, _RANGES)
    if sort == 7:
        word = chance.choice(["ArnLike", "ArnEquals"])
        return (word.replace("Arn", "ArnNot") if no else word) + exists, "aws:PrincipalArn", _some(chance, _ARNS)
    if sort == 8:
        if chance.random() < 0.3:
            return "StringNotEquals" if no else "StringEquals", "aws:SecureTransport", chance.choice(["true", "false"])
        return f"Bool{exists}", "aws:SecureTransport", chance.choice(["true", "false", True, False])
    if sort == 9:
        pool = ["aws:SourceVpce", "aws:PrincipalOrgPaths", "aws:PrincipalTag/team", "aws:SourceIp", "aws:CurrentTime",
                "aws:PrincipalTag/level"]  # fmt: skip
        return "Null", chance.choice(pool), chance.choice(["true", "false", ["true", "false"]])
    if sort == 10:
        word = chance.choice(["StringEquals", "StringLike", "StringNotEquals", "StringNotLike"])
        quantifier = chance.choice(["ForAnyValue", "ForAllValues"])
        pool = [*_PATHS, "o-1/*"] if "Like" in word else _PATHS
        operator = f"{quantifier}:{word}{exists}" if chance.random() < 0.8 else word + exists
        return operator, chance.choice(["aws:PrincipalOrgPaths", "AWS:principalorgpaths"]), _some(chance, pool)
    word = "StringNotEquals" if no else "StringEquals"
    return word + exists, "aws:PrincipalAccount", _some(chance, [ONE, TWO, THREE])


def _principal(chance: random.Random) -> Any:
    sort = chance.randrange(10)
    if sort < 2:
        return "*"
    if sort < 6:
        return {"AWS": _some(chance, [ONE, f"arn:aws:iam::{ONE}:root", TWO, *ROLES, USER, "*", THREE])}
    if sort < 7:
        return {"Service": _some(chance, SERVICES)}
    if sort < 8:
        return {"AWS": _some(chance, [SESSION, UNIQUE, ONE, ROLES[0]])}
    return {"AWS": _some(chance, [ONE, TWO]), "Service": chance.choice(SERVICES)}


def statement(chance: random.Random) -> Document:
    """One statement."""
    found: Document = {"Effect": chance.choice(["Allow", "Allow", "Allow", "Deny"])}
    if chance.random() < 0.07:
        found["NotPrincipal"] = {"AWS": _some(chance, [ONE, TWO, *ROLES])}
    else:
        found["Principal"] = _principal(chance)
    if chance.random() < 0.07:
        found["NotAction"] = _some(chance, [*ACTIONS, *PATTERNS])
    else:
        found["Action"] = _some(chance, [*ACTIONS, *ACTIONS, *PATTERNS, "ecr:NewThing"])
    if condition := _condition(chance):
        found["Condition"] = condition
    return found


def pair(number: int, seed: int = 1) -> tuple[Document, Document]:
    """The pair with this number: two policies that are often alike, and often mean the same."""
    chance = random.Random(f"{seed}-{number}")  # noqa: S311  # made-up policies
    version = "2008-10-17" if chance.random() < 0.05 else "2012-10-17"
    a = {"Version": version, "Statement": [statement(chance) for _ in range(chance.randint(1, 4))]}
    if chance.random() < 0.15:
        return a, {"Version": version, "Statement": [statement(chance) for _ in range(chance.randint(1, 4))]}
    b = copy.deepcopy(a)
    for _ in range(chance.randint(1, 4)):
        _CHANGES[chance.randrange(len(_CHANGES))](chance, b)
    return a, b


# ------------------------------------------------------------------------------------------ changes, harmless or not


def _split(chance: random.Random, policy: Document) -> None:
    """One statement becomes two: by a value, an action or a principal."""
    if not policy["Statement"]:
        return
    one = chance.choice(policy["Statement"])
    places = [(one, "Action")] if "Action" in one else []
    places += [(block, key) for block in one.get("Condition", {}).values() for key in block]
    if isinstance(one.get("Principal"), dict):
        places += [(one["Principal"], kind) for kind in one["Principal"]]
    if not places:
        return
    holder, name = chance.choice(places)
    values = listed(holder[name])
    if len(values) < 2:
        return
    first = values[: len(values) // 2]
    holder[name] = values[len(values) // 2 :]
    other = copy.deepcopy(one)
    holder[name] = first
    policy["Statement"].append(other)


def _drop_statement(chance: random.Random, policy: Document) -> None:
    if len(policy["Statement"]) > 1:
        policy["Statement"].pop(chance.randrange(len(policy["Statement"])))


def _drop_test(chance: random.Random, policy: Document) -> None:
    some = [one for one in policy["Statement"] if one.get("Condition")]
    if some:
        condition = chance.choice(some)["Condition"]
        condition.pop(chance.choice(list(condition)))


def _narrower_twin(chance: random.Random, policy: Document) -> None:
    """A statement once more, with another test: it adds nothing."""
    twin = copy.deepcopy(chance.choice(policy["Statement"]))
    operator, key, values = _one_test(chance)
    twin.setdefault("Condition", {}).setdefault(operator, {})[key] = values
    policy["Statement"].insert(0, twin)


def _two_halves(chance: random.Random, policy: Document) -> None:
    """A statement under a test and under its opposite instead of the statement without a test."""
    at = chance.randrange(len(policy["Statement"]))
    operator, key, values = _one_test(chance)
    opposite = {
        "StringEquals": "StringNotEquals", "StringLike": "StringNotLike", "ArnLike": "ArnNotEquals",
        "IpAddress": "NotIpAddress", "NumericLessThan": "NumericGreaterThanEqualsIfExists",
        "ForAnyValue:StringEquals": "ForAllValues:StringNotEquals", "DateLessThan": "DateGreaterThanEqualsIfExists",
    }.get(operator)  # fmt: skip
    if opposite is None or any(key in block for block in policy["Statement"][at].get("Condition", {}).values()):
        return
    if "Numeric" in operator or "Date" in operator:
        values = listed(values)[:1]
    halves = []
    for word in (operator, opposite):
        half = copy.deepcopy(policy["Statement"][at])
        half.setdefault("Condition", {}).setdefault(word, {})[key] = values
        halves.append(half)
    policy["Statement"][at : at + 1] = halves


def _other_operator(chance: random.Random, policy: Document) -> None:
    some = [one for one in policy["Statement"] if one.get("Condition")]
    if some:
        condition = chance.choice(some)["Condition"]
        swap = {"ArnLike": "ArnEquals", "ArnEquals": "ArnLike", "StringEquals": "StringLike",
                "StringLike": "StringEquals", "ArnNotLike": "ArnNotEquals", "StringNotEquals": "StringNotLike",
                "ForAnyValue:StringEquals": "ForAnyValue:StringLike"}  # fmt: skip
        word = chance.choice(list(condition))
        variable = "${aws" in json.dumps(condition[word])  # wildcards in the value of a variable are not documented
        if swap.get(word) and swap[word] not in condition and not variable:
            condition[swap[word]] = condition.pop(word)


def _value(chance: random.Random, policy: Document) -> None:
    """One value of a test more or fewer."""
    some = [one for one in policy["Statement"] if one.get("Condition")]
    if some:
        operator, block = chance.choice(list(chance.choice(some)["Condition"].items()))
        if operator == "Null":
            return
        key = chance.choice(list(block))
        values = listed(block[key])
        if len(values) > 1:
            block[key] = values[1:]
        elif key in _TEXTS:
            block[key] = [*values, chance.choice(_TEXTS[key])]
        elif key == "aws:SourceIp":
            block[key] = [*values, chance.choice(_RANGES)]


def _more(chance: random.Random, policy: Document) -> None:
    policy["Statement"].append(statement(chance))


def _shuffle(chance: random.Random, policy: Document) -> None:
    chance.shuffle(policy["Statement"])
    policy["Statement"].append(copy.deepcopy(chance.choice(policy["Statement"])))


_CHANGES = [_split, _split, _split, _narrower_twin, _two_halves, _two_halves, _other_operator, _shuffle,
            _drop_statement, _drop_test, _value, _more]  # fmt: skip


# --------------------------------------------------------------------------------------------------------- judging

_SAME_REQUESTS, _DIFFERENT_REQUESTS, _GUESSES = 80, 3_000, 8


@dataclass(frozen=True)
class Judged:
    """What the engine says of a pair, held against the plain evaluator.

    `verdict`: same, different, incomparable, missed (called the same, and a request tells them apart), or invented
    (called different, and no request was found).
    """

    verdict: str
    steps: int
    words: str = ""


def judge(number: int, seed: int = 1) -> Judged:
    """Compare a made-up pair and check the answer with requests."""
    a, b = pair(number, seed)
    found = compare(json.dumps(a), json.dumps(b), partition="aws")
    chance = random.Random(f"requests-{seed}-{number}")  # noqa: S311  # made-up policies

    def told_apart(principal: str, action: str, context: Context, guesses: Iterable[int]) -> bool:
        request = principal, action, context
        return any(decide(a, *request, Guess(guess)) != decide(b, *request, Guess(guess)) for guess in guesses)

    if found.level in ("identical", "cosmetic"):
        for request in requests(a, b, chance, _SAME_REQUESTS):
            if told_apart(*request, [chance.randrange(_GUESSES)]):
                return Judged("missed", found.steps, f"{number}: {request}\n{json.dumps(a)}\n{json.dumps(b)}")
        return Judged("same", found.steps)
    if found.level == "incomparable":
        return Judged("incomparable", found.steps, f"{number}: {found.why}")
    if (shown := found.example) is not None:
        context = {key.lower(): value for key, value in shown.context.items()}
        if told_apart(shown.principal, shown.action, context, range(_GUESSES)):
            return Judged("different", found.steps)
    for request in requests(a, b, chance, _DIFFERENT_REQUESTS):
        if told_apart(*request, range(_GUESSES)):
            return Judged("different", found.steps)
    words = [grant.words for grant in (*found.gained, *found.lost)]
    return Judged("invented", found.steps, f"{number}: {words}\n{json.dumps(a)}\n{json.dumps(b)}")


# ------------------------------------------------------------------------------------------------------- requests

CALLERS = [
    f"arn:aws:iam::{ONE}:role/unnamed", f"arn:aws:iam::{TWO}:role/unnamed", f"arn:aws:iam::{THREE}:role/unnamed",
    "arn:aws:iam::444444444444:role/unnamed", *ROLES, USER, SESSION, UNIQUE, *(f"Service:{one}" for one in SERVICES),
]  # fmt: skip


def requests(a: Document, b: Document, chance: random.Random, number: int) -> Iterator[tuple[str, str, Context]]:
    """Requests made of what the two policies name: their values, what is just beside them, and nothing."""
    keys: dict[str, set[str]] = {}
    for document in (a, b):
        for one in document["Statement"]:
            for operator, block in one.get("Condition", {}).items():
                for key, values in block.items():
                    pool = keys.setdefault(key.lower(), set())
                    if operator != "Null":
                        for value in listed(values):
                            pool |= set(_near(key, str(value)))
    named = " ".join(value.lower() for pool in keys.values() for value in pool)
    for variable in ("aws:userid", "aws:sourcevpce"):
        if "${" + variable in named:
            keys.setdefault(variable, set()).update(["red", "blue", "a*"])
    pools = {
        key: sorted(value for value in pool if "${" not in value) or _DEFAULTS.get(key, ["x"])
        for key, pool in keys.items()
    }
    for _ in range(number):
        caller = chance.choice(CALLERS)
        context: Context = {key: chance.choice([None, *pool, *pool]) for key, pool in sorted(pools.items())}
        if "aws:principaltag/team" in context and chance.random() < 0.5:
            context["aws:principaltag/team"] = context.get(chance.choice(["aws:userid", "aws:sourcevpce"])) or "red"
        if "aws:principalorgpaths" in context:
            paths = pools["aws:principalorgpaths"]
            several = chance.sample(paths, min(len(paths), chance.randint(1, 3)))
            context["aws:principalorgpaths"] = chance.choice([None, several, several])
        accounts = {one.split(":")[4] for one in _named(a) | _named(b) if one.endswith(":root")}
        yield (
            caller,
            chance.choice(
                [
                    *ACTIONS,
                    *ACTIONS,
                    "ecr:NewThing",
                    "ecr:ListImages",
                    "ecr:BatchDeleteImage",
                    "ecr:GetAuthorizationToken",
                ]
            ),
            with_facts(caller, context, accounts),
        )


def _named(document: Document) -> set[str]:
    """The principals that a policy names."""
    elements = [one.get("Principal", one.get("NotPrincipal")) for one in document["Statement"]]
    return set().union(*(principals_of(element) for element in elements))


def with_facts(caller: str, context: Context, named: set[str]) -> Context:
    """The context with what a request of this caller has for certain. `named`: the accounts that are principals.

    Each of these accounts has callers of its own, so another caller is in none of them.
    """
    parts = caller.split(":")
    found = dict(context)
    if caller.startswith("Service:"):
        arn = found.get("aws:principalarn")
        if found.get("aws:principalaccount") in named:
            found["aws:principalaccount"] = None
        if arn and arn.split(":")[4] in named:
            found["aws:principalarn"] = None
    elif caller == UNIQUE:
        found["aws:principalaccount"], found["aws:principalarn"] = "555555555555", "arn:aws:iam::555555555555:role/gone"
    elif len(parts) > 5:
        found["aws:principalaccount"] = parts[4]
        arn = found.get("aws:principalarn")
        if caller == SESSION:
            found["aws:principalarn"] = ROLES[0]
        elif not caller.endswith("/unnamed") or not arn or arn.split(":")[4:5] != [parts[4]]:
            found["aws:principalarn"] = caller
    return found


_DEFAULTS = {
    "aws:sourcevpce": ["vpce-1"],
    "aws:principaltag/team": ["red", "blue", "x", "ax"],
    "aws:principaltag/level": ["5", "gold"],
    "aws:principalorgpaths": ["o-9/r/"],
    "aws:sourceip": ["203.0.113.9"],
    "aws:currenttime": ["2030-01-01T00:00:00Z"],
    "aws:securetransport": ["true", "false"],
}


def _near(key: str, value: str) -> list[str]:
    """Values that could pass or just fail a test with this value."""
    if key == "aws:MultiFactorAuthAge":
        return [str(float(value)), str(float(value) - 1), str(float(value) + 1)]
    if key == "aws:PrincipalTag/level":
        return [str(float(value)), str(float(value) - 1), str(float(value) + 1), "gold"]
    if key == "aws:CurrentTime":
        return [*_DATES, "2030-01-01T00:00:01Z", "2029-12-31T23:59:59Z", "2032-01-01T00:00:00Z", "2031-06-01T00:00:01Z"]
    if key == "aws:SecureTransport":
        return ["true", "false"]
    if key == "aws:SourceIp":
        network = ipaddress.ip_network(value)
        beside = [int(network[0]), int(network[-1]), int(network[0]) - 1, int(network[-1]) + 1]
        kind = type(network[0])
        top = 2**network.max_prefixlen
        return [str(kind(one)) for one in beside if 0 <= one < top] + ["8.8.8.8", "2001:db9::1"]
    if key == "aws:PrincipalAccount":
        return [value]
    plain = value.replace("${*}", "*")
    texts = [plain, plain.swapcase(), re.sub(r"\*", "", plain), plain.replace("*", "x").replace("?", "y"),
             plain.replace("*", "red-1"), f"{plain}x".replace("*", "")]  # fmt: skip
    return [text for text in texts if key != "aws:PrincipalArn" or text.count(":") >= 5]
