"""Policies of almost the 10,240 characters that ECR takes, in shapes that make a comparison work hard."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

from deployments.policy import MAX_CHARACTERS

PULL = ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
DEFAULT = json.dumps(
    {"Statement": [{"Effect": "Allow", "Principal": {"AWS": "111111111111"}, "Action": PULL}]}, separators=(",", ":")
)
Statement = dict[str, Any]


def _statement(chance: random.Random, **more: Any) -> Statement:
    return {"Effect": chance.choice(["Allow", "Allow", "Allow", "Deny"]), "Principal": "*", "Action": "*"} | more


def _many_keys(keys: int, values: int, operator: str = "StringEquals") -> Callable[[random.Random, int], Statement]:
    def made(chance: random.Random, number: int) -> Statement:
        block = {f"k:{key}": sorted(chance.sample("abcdefgh", values)) for key in range(keys)}
        return {"Effect": "Allow", "Principal": "*", "Action": "*", "Condition": {operator: block}}

    return made


def _clauses(chance: random.Random, number: int) -> Statement:
    """Three keys of thirty: the hard kind of the satisfiability problem."""
    tests: dict[str, dict[str, str]] = {}
    for key in chance.sample(range(24), 3):
        tests.setdefault(chance.choice(["StringEquals", "StringNotEquals"]), {})[f"k:{key}"] = "a"
    return {"Effect": "Allow", "Principal": "*", "Action": "*", "Condition": tests}


def _pigeons(chance: random.Random, number: int) -> Statement:
    """Two of ten pigeons in one hole of nine, or one pigeon in none: the hard kind of proof."""
    pigeons, holes = 8, 7
    pairs = [(one, two, hole) for hole in range(holes) for one in range(pigeons) for two in range(one)]
    if number < pigeons:
        return _plain({"StringNotEquals": {f"p:{number}.{hole}": "a" for hole in range(holes)}})
    one, two, hole = pairs[(number - pigeons) % len(pairs)]
    return _plain({"StringEquals": {f"p:{one}.{hole}": "a", f"p:{two}.{hole}": "a"}})


def _plain(condition: dict[str, Any]) -> Statement:
    return {"Effect": "Allow", "Principal": "*", "Action": "*", "Condition": condition}


def _text(chance: random.Random, length: int, letters: str = "abc*") -> str:
    return "".join(chance.choice(letters) for _ in range(length))


def _patterns(chance: random.Random, number: int) -> Statement:
    return _plain({"StringLike": {"aws:userid": [f"*{_text(chance, 12)}*" for _ in range(3)]}})


def _prefixes(chance: random.Random, number: int) -> Statement:
    names = [f"arn:aws:iam::{chance.randrange(10**12):012d}:role/{_text(chance, 6, 'abc')}*" for _ in range(4)]
    return _statement(chance, Condition={chance.choice(["ArnLike", "ArnNotLike"]): {"aws:PrincipalArn": names}})


def _ranges(chance: random.Random, number: int) -> Statement:
    ranges = [f"203.{chance.randrange(8)}.{chance.randrange(0, 256, 8)}.0/{chance.choice([21, 24])}" for _ in range(5)]
    operator = chance.choice(["IpAddress", "NotIpAddress", "IpAddressIfExists"])
    more = {"NumericLessThan": {f"n:{chance.randrange(4)}": str(chance.randrange(99))}}
    return _statement(chance, Condition={operator: {"aws:SourceIp": ranges}} | more)


def _sets(chance: random.Random, number: int) -> Statement:
    operator = chance.choice(["ForAnyValue:StringEquals", "ForAllValues:StringEquals", "ForAllValues:StringNotEquals"])
    return _statement(chance, Condition={operator: {f"k:{chance.randrange(3)}": chance.sample("abcdefghij", 4)}})


def _principals(chance: random.Random, number: int) -> Statement:
    accounts = [f"{chance.randrange(10**12):012d}" for _ in range(20)]
    more = {"Condition": {"StringEquals": {"aws:PrincipalTag/t": chance.sample("abcdef", 3)}}}
    return _statement(chance, Principal={"AWS": accounts}, Action=chance.sample(PULL, 1), **more)


def _negated(chance: random.Random, number: int) -> Statement:
    roles = [f"arn:aws:iam::{number % 7:012d}:role/{chance.choice('abcdef')}" for _ in range(2)]
    found: Statement = {"Effect": chance.choice(["Allow", "Deny"]), "NotPrincipal": {"AWS": roles}}
    found["NotAction"] = [f"ecr:{chance.choice('BDGLP')}*", f"ecr:N{number}"]
    return found | {"Condition": {"StringNotEquals": {"k:1": chance.sample("abcdef", 2)}}}


def _actions(chance: random.Random, number: int) -> Statement:
    return _statement(chance, Action=[f"ecr:{_text(chance, 20, 'abe*?')}" for _ in range(8)])


def _long_pattern(chance: random.Random, number: int) -> Statement:
    return _statement(chance, Action=["ecr:" + "*a" * 300], Principal={"AWS": f"arn:aws:iam::{'*1' * 150}:root"})


def _variables(chance: random.Random, number: int) -> Statement:
    return _plain({"StringEquals": {f"k:{chance.randrange(3)}": ["${aws:v" + str(chance.randrange(40)) + "}", "a"]}})


def _values(chance: random.Random, number: int) -> Statement:
    return _plain({"StringNotEquals": {"k:1": [_text(chance, 5, "abcdefgh") for _ in range(60)]}})


def _mixed(chance: random.Random, number: int) -> Statement:
    operator = chance.choice(["StringLike", "NumericLessThan", "DateLessThan", "IpAddress", "ArnLike", "Bool"])
    value = chance.choice(["1", "2030-01-01", "10.0.0.0/8", "a*", "true", "arn:aws:iam::1:role/*"])
    return _plain({operator: {f"k:{chance.randrange(2)}": value}})


def _bare(chance: random.Random, number: int) -> Statement:
    return _statement(chance, Principal={"AWS": f"{number % 97:012d}"})


def _roles(chance: random.Random, number: int) -> Statement:
    names = [f"arn:aws:iam::111111111111:role/{chance.choice('abc')}/{number}.{one}" for one in range(8)]
    return _statement(chance, Principal={"AWS": names}, Action=chance.choice(["*", "ecr:Batch*"]))


def _sessions(chance: random.Random, number: int) -> Statement:
    names = [f"arn:aws:sts::111111111111:assumed-role/{number}/{one}" for one in range(3)]
    more = {"Condition": {"ArnNotLike": {"aws:PrincipalArn": f"arn:aws:iam::*:role/*{number}"}}}
    return _statement(chance, Principal={"AWS": names}) | more


def _accounts_by_condition(chance: random.Random, number: int) -> Statement:
    accounts = [f"{chance.randrange(40):012d}" for _ in range(2)]
    more = {"Condition": {"StringEquals": {"aws:PrincipalAccount": [f"{chance.randrange(40):012d}" for _ in range(2)]}}}
    return _statement(chance, Principal={"AWS": accounts}) | more


SHAPES: dict[str, Callable[[random.Random, int], Statement]] = {
    "4 of 8 values, 2 keys": _many_keys(2, 4),
    "4 of 8 values, 5 keys": _many_keys(5, 4),
    "4 of 8 values, 6 keys": _many_keys(6, 4),
    "7 of 8 values, 3 keys": _many_keys(3, 7),
    "6 of 8 negated, 5 keys": _many_keys(5, 6, "StringNotEquals"),
    "4 of 8 if exists, 5 keys": _many_keys(5, 4, "StringEqualsIfExists"),
    "any of a set, 3 keys": _many_keys(3, 3, "ForAnyValue:StringEquals"),
    "all of a set, 3 keys": _many_keys(3, 3, "ForAllValues:StringEquals"),
    "clauses of three": _clauses,
    "pigeons": _pigeons,
    "patterns": _patterns,
    "prefixes of ARNs": _prefixes,
    "address ranges and numbers": _ranges,
    "set operators": _sets,
    "many accounts": _principals,
    "NotPrincipal and NotAction": _negated,
    "patterns of actions": _actions,
    "long patterns": _long_pattern,
    "variables": _variables,
    "long lists": _values,
    "operators mixed on one key": _mixed,
    "many small statements": _bare,
    "roles of one account": _roles,
    "sessions": _sessions,
    "accounts by condition": _accounts_by_condition,
}


def shaped(name: str, seed: int) -> str:
    """A policy of this shape, as long as ECR takes it."""
    chance = random.Random(f"{name}-{seed}")  # noqa: S311  # made-up policies
    statements: list[Statement] = []
    text = ""
    while True:
        statements.append(SHAPES[name](chance, len(statements)))
        longer = json.dumps({"Version": "2012-10-17", "Statement": statements}, separators=(",", ":"))
        if len(longer) > MAX_CHARACTERS:
            return text
        text = longer
