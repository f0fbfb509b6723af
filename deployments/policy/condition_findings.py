"""What is wrong with a condition: its keys, its values, and whether operator, key and value fit together.

Each of these conditions is accepted by ECR, and holds for no request, or for every request, or not for the requests
that were meant. So all findings are warnings. They follow the catalogue of IAM Access Analyzer (docs/policy-lint.md).
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from deployments.policy.condition_keys import AS_OF, Key, KeyType, known_key, nearest_key
from deployments.policy.conditions import Operator, operator_of
from deployments.policy.context import is_private
from deployments.policy.document import Policy, Statement, WrittenCondition, quoted
from deployments.policy.findings import Finding, place_of, report
from deployments.policy.values import moment, network, number
from deployments.policy.wildcard import ascii_lower, has_wildcard


def condition_findings(statement: Statement, policy: Policy) -> Iterator[Finding]:
    """The findings about the conditions of a statement. An unknown operator is not judged (E112 names it)."""
    place = place_of(statement)
    spellings = Counter((one.operator, ascii_lower(one.key)) for one in statement.conditions)
    for (name, spelling), times in spellings.items():
        if times > 1:
            message = f"{place} has the condition key {quoted(spelling)} under {name} in two spellings: both must hold."
            yield report("W128", message, "Write the key once, with all its values.")
    for one in statement.conditions:
        operator = operator_of(one.operator)
        if not operator.known:
            continue
        where = f"{place}: the condition {one.operator} on {quoted(one.key)}"
        key = known_key(one.key)
        if key is None:
            yield from _of_unknown_key(one.key, where)
        else:
            yield from _of_fit(one, operator, key, where, denies=statement.effect == "Deny")
        version_has_variables = policy.version == "2012-10-17"
        for value in one.values:
            if version_has_variables and "${" in value:
                yield from _of_variables(value, operator, where)
            else:
                yield from _of_value(value, operator, key, where)
        yield from _of_values(one, operator, key, where)
    yield from _of_pairs(statement, place)


# ------------------------------------------------------------------------------------------------------------ keys


def _of_unknown_key(key: str, where: str) -> Iterator[Finding]:
    if not key:
        return  # E103
    prefix, colon, _ = key.partition(":")
    tagged = known_key(f"{key.rstrip('/')}/x")
    if tagged is not None:
        message = f"{where} lacks the tag key, so it matches no request."
        yield report("W119", message, f"Write {tagged.name}/team for the tag “team”.")
    elif not colon or ascii_lower(prefix) in ("aws", "ecr"):
        meant = nearest_key(key)
        message = f"{where}: there is no such key in our list of {AS_OF}, and a missing key matches nothing."
        hint = f"Was {meant} meant?" if meant else "Write a key of AWS or ECR, such as aws:PrincipalOrgID."
        yield report("W119", message, hint)


def _of_fit(one: WrittenCondition, operator: Operator, key: Key, where: str, *, denies: bool) -> Iterator[Finding]:
    if operator.base == "Null":
        if operator.quantifier:
            always = "true" if operator.quantifier == "ForAllValues" else "false"
            message = f"{where}: {operator.quantifier} with Null is always {always}."
            yield report("W121", message, f"Write Null without {operator.quantifier}:.")
        return
    if key.multivalued and not operator.quantifier:
        message = f"{where}: a request may have several values of this key, and {one.operator} compares one."
        yield report("W121", message, f"Write ForAnyValue:{one.operator}.")
    elif denies and not key.multivalued and operator.quantifier == "ForAllValues":  # in an Allow it is W111
        message = f"{where}: the key has one value, and ForAllValues is true when the key is missing."
        yield report("W121", message, f"Write {one.operator.partition(':')[2]}.")
    wanted = _OPERATORS[key.type]
    if not key.tagged and not operator.base.startswith(wanted):
        message = f"{where}: the key is {key.type.value}, which {one.operator} does not compare."
        yield report("W126", message, f"Use {_SUGGESTED[key.type]}.")


#: Type of a key → the beginnings of the operators that compare it. A text operator on an ARN compares it as text.
_OPERATORS = {
    KeyType.TEXT: ("String",),
    KeyType.ARN: ("Arn", "String"),
    KeyType.BOOL: ("Bool",),
    KeyType.DATE: ("Date", "Numeric"),  # aws:EpochTime has seconds
    KeyType.NUMBER: ("Numeric",),
    KeyType.ADDRESS: ("IpAddress",),
}
_SUGGESTED = {
    KeyType.TEXT: "StringEquals or StringLike",
    KeyType.ARN: "ArnEquals or ArnLike",
    KeyType.BOOL: "Bool",
    KeyType.DATE: "DateLessThan or DateGreaterThan",
    KeyType.NUMBER: "NumericLessThan or NumericGreaterThan",
    KeyType.ADDRESS: "IpAddress or NotIpAddress",
}


def _of_pairs(statement: Statement, place: str) -> Iterator[Finding]:
    keys = {ascii_lower(one.key) for one in statement.conditions}
    if "aws:vpcsourceip" in keys and not keys & {"aws:sourcevpc", "aws:sourcevpce", "aws:sourcevpcarn"}:
        message = f"{place} has a condition on aws:VpcSourceIp and none on the VPC: other VPCs have the same addresses."
        yield report("W131", message, "Add a condition on aws:SourceVpc or aws:SourceVpce.")


# ---------------------------------------------------------------------------------------------------------- values


def _of_value(value: str, operator: Operator, key: Key | None, where: str) -> Iterator[Finding]:
    if right := _right_form(value, operator.base):
        yield report("W120", f"{where} has the value {quoted(value)}, which it cannot compare.", right)
        return
    if key is not None and key.name == "aws:PrincipalArn" and re.match(r"arn:[^:]*:sts::[^:]*:assumed-role/", value):
        message = f"{where} has the value {quoted(value)}: the key has the ARN of the role, not of a session."
        yield report("W120", message, "Write the role: arn:aws:iam::111111111111:role/NAME.")
    if not operator.base.startswith("String"):
        return
    like = operator.base == "StringLike"
    if has_wildcard(value) and not like:
        message = f"{where} has the value {quoted(value)}: {operator.base} takes * and ? as plain characters."
        yield report("W122", message, "Write StringLike, or name the values.")
    elif key is not None and (form := _FORMS.get(ascii_lower(key.name))) is not None:
        pattern, says, sensitive = form
        if like and has_wildcard(value):
            if sensitive:
                message = f"{where} has the value {quoted(value)}, which also matches values of strangers."
                yield report("W122", message, f"Name the values: {says}.")
        elif not re.fullmatch(pattern, value):
            message = f"{where} has the value {quoted(value)}, which no request has."
            yield report("W120", message, f"Write {says}.")


#: Lower-cased key → the form of its values, the form in words, and whether AWS calls the key sensitive: no wildcards.
_ACCOUNT = (r"[0-9]{12}", "an account as 12 digits", True)
_VPC, _VPCE = r"vpc-([0-9a-z]{8}|[0-9a-z]{17})", r"vpce-([0-9a-z]{8}|[0-9a-z]{17})"
_ORGANISATION = (r"o-.+", "an organisation as o-…", True)
_FORMS = {
    "aws:principalaccount": (r"[0-9]{12}|anonymous", "an account as 12 digits", True),
    "aws:resourceaccount": _ACCOUNT,
    "aws:sourceaccount": _ACCOUNT,
    "aws:vpceaccount": _ACCOUNT,
    "aws:principalorgid": _ORGANISATION,
    "aws:resourceorgid": _ORGANISATION,
    "aws:sourceorgid": _ORGANISATION,
    "aws:vpceorgid": _ORGANISATION,
    "aws:sourcevpc": (_VPC, "vpc- and 8 or 17 characters", True),
    "aws:sourcevpce": (_VPCE, "vpce- and 8 or 17 characters", True),
    "aws:requestedregion": (r"[a-z]{2,4}(-[a-z]+)+-[0-9]", "a region such as us-east-1", False),
}


def _right_form(value: str, base: str) -> str:
    """What to write instead of a value that the operator cannot compare; empty if it can."""
    match base:
        case "IpAddress":
            return _right_network(value)
        case "Bool" | "Null":
            return "" if value in ("true", "false") else "Write true or false."
        case "BinaryEquals":
            return "" if _is_base64(value) else "Write a text in base64."
        case "ArnEquals" | "ArnLike":
            parts = value.split(":", 5)
            right = len(parts) == 6 and (parts[0] == "arn" or has_wildcard(parts[0]))
            return "" if right else "Write an ARN with all six parts, such as arn:aws:iam::111111111111:role/*."
    if base.startswith("Numeric"):
        return "" if number(value) is not None else "Write a number in digits."
    if base.startswith("Date"):
        return "" if moment(value) is not None else "Write a date as 2026-12-31 or 2026-12-31T23:59:59Z."
    return ""


def _right_network(value: str) -> str:
    if network(value) is not None:
        return ""
    address, _, length = value.partition("/")
    if network(address) is not None and length.isdecimal():
        try:
            return f"Write {ipaddress.ip_network(value, strict=False)}: the digits behind the range are ignored."
        except ValueError:
            pass  # longer than the address
    return "Write an address or a range, such as 203.0.113.0/24."


def _is_base64(value: str) -> bool:
    try:
        base64.b64decode(value, validate=True)
    except binascii.Error:
        return False
    return True


def _of_values(one: WrittenCondition, operator: Operator, key: Key | None, where: str) -> Iterator[Finding]:
    if operator.base in ("Bool", "Null") and len(set(one.values)) > 1:
        yield report("W120", f"{where} has two values; one of them is always right.", "Write true or false.")
    private = [value for value in one.values if is_private(value)]
    if operator.base != "IpAddress" or key is None or key.name != "aws:SourceIp" or not private:
        return
    hint = "aws:SourceIp is public. For callers behind an ECR VPC endpoint use aws:VpcSourceIp and aws:SourceVpc."
    if len(private) < len(one.values):
        message = f"{where} names {private[0]}, a private range, beside public ones: it has no effect."
    else:
        message = f"{where} names only private ranges, so it is {'always' if operator.negated else 'never'} true."
    yield report("W123", message, hint)


def without_private_ranges(policy: Policy) -> Policy:
    """The policy without its tests of aws:SourceIp that name only private ranges, and without the Denies of such tests.

    So it lets in at least the callers that the policy was meant for. For a comparison, not to be written to AWS.
    """

    def is_of_private(one: WrittenCondition) -> bool:
        is_address = operator_of(one.operator).base == "IpAddress" and ascii_lower(one.key) == "aws:sourceip"
        return is_address and bool(one.values) and all(map(is_private, one.values))

    kept = (each for each in policy.statements if each.effect != "Deny" or not any(map(is_of_private, each.conditions)))
    return replace(
        policy,
        statements=tuple(
            replace(each, conditions=tuple(one for one in each.conditions if not is_of_private(one))) for each in kept
        ),
    )


# -------------------------------------------------------------------------------------------------------- variables

_VARIABLE = re.compile(r"\$\{([^}]*)(\})?")


def _of_variables(value: str, operator: Operator, where: str) -> Iterator[Finding]:
    """The policy variables in a value. Source: IAM User Guide, “IAM policy elements: Variables and tags”."""
    if not operator.base.startswith(("String", "Arn")):
        message = f"{where} has a policy variable, which {operator.base} does not replace."
        yield report("W124", message, "Write the value, or use a String or Arn operator.")
        return
    for found in _VARIABLE.finditer(value):
        name, _, default = found[1].partition(",")
        if found[2] is None:
            wrong, hint = "lacks its closing brace", "Write ${aws:username}."
        elif not name:
            wrong, hint = "is empty", "Write ${aws:username}, or remove it."
        elif " " in name:
            wrong, hint = "has a space in its name", "Write ${aws:username}."
        elif default and not re.fullmatch(r" '[^']*'", default):
            wrong = "has no default value of the form comma, space, text in single quotes"
            hint = "Write ${aws:PrincipalTag/team, 'none'}."
        elif name not in ("*", "?", "$") and ascii_lower(name).startswith(("aws:", "ecr:")) and not known_key(name):
            meant = nearest_key(name)
            wrong = f"is of a key that is not in our list of {AS_OF}"
            hint = f"Was {meant} meant?" if meant else "Write the name of a condition key."
        else:
            continue
        shown = quoted("${" + found[1] + (found[2] or ""))
        yield report("W124", f"{where}: the policy variable {shown} {wrong}.", hint)
