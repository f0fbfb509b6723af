"""Validate and store repository policies, registry policies and lifecycle policies like ECR.

ECR does not store the text that it gets. Account ids become root ARNs, lists come back in another order, a list with
one element becomes a scalar, and users and roles are stored as unique ids, which are visible after the user or role is
deleted. This module does the same, so that code that compares texts fails here. ``policy`` decides about access.
"""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sandbox import policy
from sandbox.aws import ACCOUNT, AWSError, Model, invalid
from sandbox.iam import IAM
from sandbox.policy import Policy, many

# IAM actions of ECR that are not operations of ECR's service model.
IAM_ONLY = {"ReplicateImage", "BatchImportUpstreamImage", "GetImageCopyStatus", "UploadLayerPart"}
SERVICE = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)*\.(amazonaws\.com|amazonaws\.com\.cn|amazon\.com|aws\.internal)")
UNIQUE_ID = re.compile(r"(AIDA|AROA)[A-Z0-9]{12,124}")
UNKNOWN = "Principal not found"


class _Bad(Exception):
    """ECR would not accept the document. The text says why, for the journal; AWS's answer has no reason."""


@dataclass(slots=True)
class Stored:
    """A resource policy as ECR stores it: ``document`` has unique ids instead of users and roles."""

    document: dict[str, Any]
    policy: Policy
    partition: str
    _text: str = field(default="", repr=False)
    _generation: int = -1

    def text(self, iam: IAM) -> str:
        """The text as ECR returns it: a deleted user or role is shown as its unique id."""
        if self._generation != iam.generation:
            shown = json.loads(json.dumps(self.document))
            _each_principal(shown, lambda value: iam.spelled(value, self.partition))
            self._text = json.dumps(shown, indent=2, separators=(",", " : "))
            self._generation = iam.generation
        return self._text


def repository_policy(text: str, *, model: Model, iam: IAM, partition: str) -> Stored:
    """The policy as ECR stores it. Raises InvalidParameterException with ECR's message."""
    return _resource_policy(text, "repository", model=model, iam=iam, partition=partition)


def unchecked(text: str, *, partition: str) -> Stored:
    """The policy without any check, for the fault ``newer_policies``. Raises ValueError if the text is no policy."""
    document = json.loads(text)
    return Stored({**document, "Statement": many(document["Statement"])}, policy.parse(text), partition)


def registry_policy(text: str, *, model: Model, iam: IAM, partition: str) -> Stored:
    """The registry policy as ECR stores it. Raises InvalidParameterException with ECR's message."""
    return _resource_policy(text, "registry", model=model, iam=iam, partition=partition)


def _resource_policy(text: str, kind: str, *, model: Model, iam: IAM, partition: str) -> Stored:
    try:
        document = _strict(text)
        _only(document, {"Version", "Id", "Statement"})
        version = document.get("Version", "2008-10-17")
        if version not in ("2008-10-17", "2012-10-17"):
            raise _Bad("unknown Version")
        if not isinstance(document.get("Id", ""), str):
            raise _Bad("bad Id")
        statements = many(document.get("Statement"))
        if not statements:
            raise _Bad("no Statement")
        actions = sorted(f"ecr:{name}".lower() for name in model.operations | IAM_ONLY)
        clean = [_statement(each, kind, actions, partition) for each in statements]
    except _Bad:
        raise invalid("PolicyText", f"Invalid {kind} policy provided") from None
    stored = {"Version": version, **({"Id": document["Id"]} if "Id" in document else {}), "Statement": clean}
    unknown = False

    def by_id(value: str) -> str:
        nonlocal unknown
        if ":role/" in value or ":user/" in value:
            found = iam.unique_id(value, partition)
        elif UNIQUE_ID.fullmatch(value):
            found = value if iam.spelled(value, partition) != value else None
        else:
            return value
        unknown = unknown or found is None
        return found or value

    _each_principal(stored, by_id)
    if unknown:
        raise invalid("PolicyText", UNKNOWN)
    return Stored(stored, policy.parse(json.dumps(stored)), partition)


def _each_principal(document: dict[str, Any], change: Callable[[str], str]) -> None:
    for statement in document["Statement"]:
        for element in ("Principal", "NotPrincipal"):
            value = statement.get(element)
            if isinstance(value, dict) and "AWS" in value:
                aws = value["AWS"]
                value["AWS"] = [change(each) for each in aws] if isinstance(aws, list) else change(aws)


def _strict(text: str) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise _Bad("a key occurs twice")
        return found

    def never(constant: str) -> Any:
        raise _Bad(f"{constant} is not JSON")

    try:
        document = json.loads(text, object_pairs_hook=once, parse_constant=never)
    except (ValueError, RecursionError):
        raise _Bad("not JSON") from None
    if not isinstance(document, dict):
        raise _Bad("not an object")
    return document


def _only(found: dict[str, Any], known: set[str]) -> None:
    if not found.keys() <= known:
        raise _Bad(f"unknown elements {sorted(found.keys() - known)}")


def _one_of(found: dict[str, Any], element: str) -> str:
    names = [name for name in (element, f"Not{element}") if name in found]
    if len(names) != 1:
        raise _Bad(f"needs {element} or Not{element}")
    return names[0]


def _statement(raw: Any, kind: str, actions: list[str], partition: str) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise _Bad("a statement is an object")
    resources = {"Resource", "NotResource"} if kind == "registry" else set()
    _only(raw, {"Sid", "Effect", "Principal", "NotPrincipal", "Action", "NotAction", "Condition"} | resources)
    if raw.get("Effect") not in ("Allow", "Deny") or not isinstance(raw.get("Sid", ""), str):
        raise _Bad("bad Effect or Sid")
    who, what = _one_of(raw, "Principal"), _one_of(raw, "Action")
    clean: dict[str, Any] = {name: raw[name] for name in ("Sid", "Effect") if name in raw}
    clean[who] = _principal(raw[who], partition)
    clean[what] = _settled([_action(each, actions) for each in _texts(raw[what])])
    if resources:
        where = _one_of(raw, "Resource")
        clean[where] = _settled(_texts(raw[where]))
    if raw.get("Condition") not in (None, [], {}):
        clean["Condition"] = _condition(raw["Condition"])
    return clean


def _texts(value: Any) -> list[str]:
    texts = many(value)
    if not texts or not all(isinstance(each, str) and each for each in texts):
        raise _Bad("needs one text or a list of them")
    return texts


def _settled(values: list[str]) -> str | list[str]:
    """Values as ECR stores them: one value is a scalar, several values are in another order than in the request."""
    ordered = sorted(set(values))
    if len(ordered) == 1:
        return ordered[0]
    return ordered if ordered != values else [*ordered[1:], ordered[0]]


def _principal(value: Any, partition: str) -> Any:
    if value == "*":
        return value
    if not isinstance(value, dict) or not value:
        raise _Bad("bad Principal")
    _only(value, {"AWS", "Service", "Federated"})  # a CanonicalUser is S3's
    clean: dict[str, Any] = {}
    for provider, names in value.items():
        texts = _texts(names)
        if provider == "AWS":
            texts = [_aws_principal(each, partition) for each in texts]
        elif provider == "Service" and not all(SERVICE.fullmatch(each) for each in texts):
            raise _Bad("not a service")
        clean[provider] = _settled(texts)
    return clean


def _aws_principal(value: str, partition: str) -> str:
    if ACCOUNT.match(value):
        return f"arn:{partition}:iam::{value}:root"
    name = r"[\w+=,.@-]+"
    path = r"([!-)+->@-~]+/)?"  # printable and no wildcard
    lasting = rf"iam::[0-9]{{12}}:(root|(user|role)/{path}{name})"
    session = rf"sts::[0-9]{{12}}:(assumed-role/{name}/|federated-user/){name}"
    arn = re.compile(rf"arn:{partition}:({lasting}|{session})", re.ASCII)
    if value == "*" or UNIQUE_ID.fullmatch(value) or arn.fullmatch(value):
        return value
    raise _Bad("not a principal of this partition")


def _action(value: str, actions: list[str]) -> str:
    # A wildcard must match at least one action of ECR. Whether AWS accepts a bare "*" is not verified.
    pattern = value.lower().replace("[", "[[]")
    if re.fullmatch(r"\*+(:\*+)?", value) or (
        pattern.startswith("ecr:") and any(fnmatch.fnmatchcase(each, pattern) for each in actions)
    ):
        return value
    raise _Bad("not an action of ECR")


def _condition(value: Any) -> dict[str, Any]:
    clean: dict[str, Any] = {}
    if not isinstance(value, dict):
        raise _Bad("bad Condition")
    for operator, pairs in value.items():
        # An empty block or list is taken: Access Analyzer only suggests to fill it (EMPTY_OBJECT_CONDITION).
        if not isinstance(pairs, dict) or (pairs and not policy.known_operator(operator)):
            raise _Bad("bad condition operator")
        clean[operator] = {}
        for key, values in pairs.items():
            items = many(values)
            if not key or values is None or not all(isinstance(each, str | int | float | bool) for each in items):
                raise _Bad("bad condition value")
            texts = [str(each).lower() if isinstance(each, bool) else str(each) for each in items]
            clean[operator][key] = _settled(texts) if texts else []
    return clean


# -- lifecycle policies ----------------------------------------------------------------------------------------------


def lifecycle_policy(text: str) -> str:
    """The text as ECR stores it. Raises InvalidParameterException with the violated rule."""
    try:
        document = _strict(text)
        _only(document, {"rules"})
        rules = document.get("rules")
        if not isinstance(rules, list) or not 1 <= len(rules) <= 50:
            raise _Bad("rules must be a list of 1 to 50 rules")
        for rule in rules:
            _rule(rule)
        priorities = [rule["rulePriority"] for rule in rules]
        if len(set(priorities)) != len(priorities):
            raise _Bad("rulePriority must be unique")
        for storage in ("standard", "archive"):
            own = [rule for rule in rules if rule["selection"].get("storageClass", "standard") == storage]
            last = max((rule["rulePriority"] for rule in own), default=0)
            if any(rule["selection"]["tagStatus"] == "any" and rule["rulePriority"] != last for rule in own):
                raise _Bad("only one rule of a storageClass may select any, and it must have its highest rulePriority")
    except _Bad as error:
        message = f"Lifecycle policy validation failure: {error}"
        raise AWSError(
            "InvalidParameterException",
            f"Invalid parameter at 'LifecyclePolicyText' failed to satisfy constraint: '{message}'",
        ) from None
    return json.dumps(document, separators=(",", ":"))


def _positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _rule(rule: Any) -> None:
    if not isinstance(rule, dict):
        raise _Bad("a rule must be an object")
    _only(rule, {"rulePriority", "description", "selection", "action"})
    if not _positive(rule.get("rulePriority")):
        raise _Bad("rulePriority must be an integer of at least 1")
    if not isinstance(rule.get("description", ""), str):
        raise _Bad("description must be a string")
    if rule.get("action") not in ({"type": "expire"}, {"type": "transition", "targetStorageClass": "archive"}):
        raise _Bad("action must be to expire, or to transition to the targetStorageClass archive")
    selection = rule.get("selection")
    if not isinstance(selection, dict):
        raise _Bad("selection is required")
    tags = {"tagStatus", "tagPrefixList", "tagPatternList"}
    _only(selection, tags | {"storageClass", "countType", "countUnit", "countNumber"})
    if selection.get("storageClass", "standard") != (
        "archive" if selection.get("countType") == "sinceImageTransitioned" else "standard"
    ):
        raise _Bad("storageClass must be archive for sinceImageTransitioned, else standard")
    lists = [name for name in ("tagPrefixList", "tagPatternList") if name in selection]
    if selection.get("tagStatus") not in ("tagged", "untagged", "any"):
        raise _Bad("tagStatus must be tagged, untagged or any")
    if (selection["tagStatus"] == "tagged") != (len(lists) == 1):
        raise _Bad("tagPrefixList or tagPatternList must be given for tagged images, and only for them")
    for name in lists:
        values = selection[name]
        if not isinstance(values, list) or not values or not all(isinstance(each, str) and each for each in values):
            raise _Bad(f"{name} must be a list of tags")
        if name == "tagPatternList" and any(each.count("*") > 4 for each in values):
            raise _Bad("a pattern has at most four wildcards")
    if not _positive(selection.get("countNumber")):
        raise _Bad("countNumber must be an integer of at least 1")
    if selection.get("countType") == "sinceImagePulled" and rule["action"]["type"] != "transition":
        raise _Bad("sinceImagePulled must be used with transition")
    if selection.get("countType") == "sinceImageTransitioned":
        if rule["action"]["type"] != "expire":
            raise _Bad("sinceImageTransitioned must be used with expire")
        if selection["countNumber"] < 90:
            raise _Bad("archived images are kept for at least 90 days")
    match selection.get("countType"), selection.get("countUnit", ""):
        case ("imageCountMoreThan", ""):
            if "countUnit" in selection:
                raise _Bad("countUnit must not be given with imageCountMoreThan")
        case (("sinceImagePushed" | "sinceImagePulled" | "sinceImageTransitioned"), "days"):
            pass
        case _:
            raise _Bad("countType must be imageCountMoreThan without, or a sinceImage… with countUnit days")
