"""What ECR refuses to store: one table of rules for repository policies, lifecycle policies and AWS tags.

`manage.py check`, `policy lint` and the what-if page report a breach before anything is sent to AWS. This module has
the rules with their sources, and checks lifecycle policies and tags. `deployments.policy.lint` checks repository
policies and gives its findings the names of this table. Rules that depend on AWS's state are not here: AWS alone knows
whether a role exists.

Pure: texts in, breaches out. No function raises.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

_GRAMMAR = "IAM User Guide, “Grammar of the IAM JSON policy language”"
_PRINCIPALS = "IAM User Guide, “AWS JSON policy elements: Principal”"
_ECR_POLICIES = "Amazon ECR User Guide, “Private repository policies in Amazon ECR”"
_SET_POLICY = "Amazon ECR API Reference, SetRepositoryPolicy"
_LIFECYCLE = "Amazon ECR User Guide, “Lifecycle policy properties in Amazon ECR”"
_LIFECYCLE_EXAMPLES = "Amazon ECR User Guide, “Examples of lifecycle policies in Amazon ECR”"
_PUT_LIFECYCLE = "Amazon ECR API Reference, PutLifecyclePolicy"
_TAGS = "Amazon ECR User Guide, “Tagging a private repository in Amazon ECR”"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule. `name`: for a repository policy the id of its finding. `says` is a sentence without its subject."""

    name: str
    about: Literal["policy", "lifecycle", "tags"]
    says: str
    instead: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Breach:
    """One place that breaks a rule. `message` names the place and says what is wrong, `hint` what to write instead."""

    rule: str
    message: str
    hint: str


def _policy(code: str, says: str, instead: str, source: str = _GRAMMAR) -> Rule:
    return Rule(name=f"deployments.{code}", about="policy", says=says, instead=instead, source=source)


def _lifecycle(name: str, says: str, instead: str, source: str = _LIFECYCLE) -> Rule:
    return Rule(name=f"lifecycle.{name}", about="lifecycle", says=says, instead=instead, source=source)


def _tag(name: str, says: str, instead: str) -> Rule:
    return Rule(name=f"tags.{name}", about="tags", says=says, instead=instead, source=_TAGS)


_TABLE = (
    _policy("E101", "the text is not JSON", "Write a JSON object."),
    _policy("E102", "longer than ECR's 10,240 characters", "Name accounts instead of roles.", _SET_POLICY),
    _policy("E103", "an unknown element, or an element of the wrong shape", "Follow IAM's grammar."),
    _policy("E104", "a Resource element, which ECR refuses", "Remove it.", _ECR_POLICIES),
    _policy("E105", "no Principal", 'Write {"AWS": "111111111111"}.'),
    _policy("E106", "no Action", "Name the actions."),
    _policy("E107", "an action of another service", "Name only actions of ECR.", _ECR_POLICIES),
    _policy("E108", "an action whose name has a form that no ECR action has", "Write ecr:BatchGetImage."),
    _policy(
        "E109",
        "not an AWS principal: a bad account id, a wildcard in an ARN, another partition, a sort of another service",
        "Write an account as 12 digits.",
        _PRINCIPALS,
    ),
    _policy("E112", "a condition operator that IAM does not have", "Write StringEquals, ArnLike, IpAddress …"),
    _policy("E113", "no statement", "Add a statement.", _ECR_POLICIES),
    _policy("E114", "not the name of a service", "Write lambda.amazonaws.com.", _PRINCIPALS),
    _policy(
        "E115",
        "a Deny that keeps the identity that writes the policy from writing it again",
        "Exempt this identity, or leave ecr:SetRepositoryPolicy out of the Deny.",
        f"{_SET_POLICY}, parameter force",
    ),
    _lifecycle("json", "is not a JSON object in which each name is given once", 'Write {"rules": […]}.'),
    _lifecycle(
        "size",
        "has a length that ECR does not accept: 100 to 30,720 characters",
        "Remove spaces to make the text shorter; add a description to make it longer.",
        _PUT_LIFECYCLE,
    ),
    _lifecycle("element", "is not an element of a lifecycle policy", "Remove it, or correct its spelling and place."),
    _lifecycle("rules", "must be a list of at least one rule", 'Write {"rules": [{"rulePriority": 1, …}]}.'),
    _lifecycle(
        "many-rules",
        "has more than 50 rules",
        "Merge rules: a rule may name several tag patterns.",
        "Amazon ECR User Guide, “Amazon ECR service quotas”, rules per lifecycle policy",
    ),
    _lifecycle("rule", "must be an object", 'Write {"rulePriority": 1, "selection": {…}, "action": {…}}.'),
    _lifecycle("priority", "must be an integer of at least 1", 'Write a number without quotes: "rulePriority": 1.'),
    _lifecycle("unique-priority", "is the priority of another rule too", "Give each rule a priority of its own."),
    _lifecycle("description", "must be a text", "Write a text in quotes, or remove it."),
    _lifecycle("selection", "must be an object", 'Write "selection": {"tagStatus": "untagged", "countType": …}.'),
    _lifecycle("tag-status", "must be tagged, untagged or any", "Write one of the three."),
    _lifecycle(
        "tagged",
        "with tagStatus tagged needs either tagPatternList or tagPrefixList, and not both",
        'Add "tagPatternList": ["*"] for all tagged images.',
    ),
    _lifecycle("not-tagged", "may be given only with tagStatus tagged", 'Remove it, or write "tagStatus": "tagged".'),
    _lifecycle("tag-list", "must be a list of at least one text", 'Write a list of texts: ["prod*"].'),
    _lifecycle("wildcards", "has more than four wildcards (*)", "Use at most four * in a pattern."),
    _lifecycle(
        "any-last",
        "selects any images, so it must have the highest rulePriority of its storageClass, and only one may",
        "Give this rule the highest rulePriority.",
    ),
    _lifecycle(
        "count-type",
        "must be imageCountMoreThan, sinceImagePushed, sinceImagePulled or sinceImageTransitioned",
        "Write one of the four.",
    ),
    _lifecycle(
        "count-unit",
        "must be days with a countType that begins with since, and absent with imageCountMoreThan",
        'Write "countUnit": "days", or remove it with imageCountMoreThan.',
    ),
    _lifecycle("count-number", "must be an integer of at least 1", 'Write a number without quotes: "countNumber": 14.'),
    _lifecycle(
        "storage-class",
        "must be archive with sinceImageTransitioned, and standard or absent with another countType",
        'Write "storageClass": "archive" with sinceImageTransitioned, and remove it elsewhere.',
    ),
    _lifecycle(
        "action",
        "must be to expire, or to transition to the targetStorageClass archive, and nothing else",
        'Write "action": {"type": "expire"}.',
    ),
    _lifecycle(
        "count-action",
        "must be to transition with sinceImagePulled, and to expire with sinceImageTransitioned",
        "Archive images that nobody pulls, and let a second rule expire them with sinceImageTransitioned.",
        _LIFECYCLE_EXAMPLES,
    ),
    _lifecycle(
        "archive-days",
        "must be at least 90 with sinceImageTransitioned",
        'Write "countNumber": 90.',
        _LIFECYCLE_EXAMPLES,
    ),
    _tag("key", "must have a key of 1 to 128 characters", "Shorten the key."),
    _tag("value", "must have a value of at most 256 characters", "Shorten the value."),
    _tag("reserved", "must not begin with aws:, which AWS keeps for itself", "Write the key without aws:."),
    _tag("characters", "may contain only letters, digits, spaces and _ . : / = + - @", "Replace the other characters."),
    _tag("many", "are more than the 50 tags that a repository may have", "Remove some."),
)
#: Rule's name → rule.
RULES: Mapping[str, Rule] = {rule.name: rule for rule in _TABLE}

LIFECYCLE_CHARACTERS = (100, 30_720)
LIFECYCLE_RULES = 50
PATTERN_WILDCARDS = 4
ARCHIVE_DAYS = 90
TAGS_PER_REPOSITORY = 50
TAG_KEY_CHARACTERS, TAG_VALUE_CHARACTERS = 128, 256


def _breach(name: str, place: str, detail: str = "") -> Breach:
    rule = RULES[name]
    return Breach(rule=name, message=f"{place} {rule.says}{detail}.", hint=rule.instead)


# ----------------------------------------------------------------------------------------------- lifecycle policies


def lifecycle_breaches(text: str) -> tuple[Breach, ...]:
    """The places of a lifecycle policy that ECR refuses; none if ECR accepts it.

    A place is written like `rules[1].selection.countNumber`; indexes begin with 0.
    """
    return tuple(_of_lifecycle(text))


def _of_lifecycle(text: str) -> Iterator[Breach]:
    document = _object(text)
    if document is None:
        yield _breach("lifecycle.json", "The text")
        return
    found = [*_unknown(document, {"rules"}, ""), *_of_rules(document)]
    yield from found
    least, most = LIFECYCLE_CHARACTERS
    if not found and not least <= len(text) <= most:  # a correction changes the length
        yield _breach("lifecycle.size", "The text", f" (it has {len(text):,})")


def _of_rules(document: dict[str, Any]) -> Iterator[Breach]:
    rules = document.get("rules")
    if not isinstance(rules, list) or not rules:
        if "rules" in document or not document:  # else the unknown element is probably a misspelt one
            yield _breach("lifecycle.rules", "rules")
        return
    if len(rules) > LIFECYCLE_RULES:
        yield _breach("lifecycle.many-rules", "rules", f" (it has {len(rules)})")
    first: dict[int, int] = {}
    for index, rule in enumerate(rules):
        yield from _of_rule(rule, f"rules[{index}]")
        priority: Any = rule.get("rulePriority") if isinstance(rule, dict) else None
        if _is_count(priority) and first.setdefault(priority, index) != index:
            yield _breach("lifecycle.unique-priority", f"rules[{index}].rulePriority {priority}")
    yield from _of_any(rules)


def _of_rule(rule: Any, place: str) -> Iterator[Breach]:
    if not isinstance(rule, dict):
        yield _breach("lifecycle.rule", place)
        return
    yield from _unknown(rule, {"rulePriority", "description", "selection", "action"}, f"{place}.")
    if not _is_count(rule.get("rulePriority")):
        yield _breach("lifecycle.priority", f"{place}.rulePriority")
    if not isinstance(rule.get("description", ""), str):
        yield _breach("lifecycle.description", f"{place}.description")
    if rule.get("action") not in ({"type": "expire"}, {"type": "transition", "targetStorageClass": "archive"}):
        yield _breach("lifecycle.action", f"{place}.action")
    selection = rule.get("selection")
    if not isinstance(selection, dict):
        yield _breach("lifecycle.selection", f"{place}.selection")
        return
    yield from _of_selection(selection, f"{place}.selection")
    kind, action = selection.get("countType"), rule.get("action")
    wanted = {"sinceImagePulled": "transition", "sinceImageTransitioned": "expire"}
    if isinstance(kind, str) and kind in wanted and isinstance(action, dict) and action.get("type") != wanted[kind]:
        yield _breach("lifecycle.count-action", f"{place}.action")
    number: Any = selection.get("countNumber")
    if kind == "sinceImageTransitioned" and _is_count(number) and number < ARCHIVE_DAYS:
        yield _breach("lifecycle.archive-days", f"{place}.selection.countNumber")


_LISTS = ("tagPatternList", "tagPrefixList")
_SINCE = ("sinceImagePushed", "sinceImagePulled", "sinceImageTransitioned")


def _of_selection(selection: dict[str, Any], place: str) -> Iterator[Breach]:
    known = {"tagStatus", *_LISTS, "storageClass", "countType", "countUnit", "countNumber"}
    yield from _unknown(selection, known, f"{place}.")
    status, given = selection.get("tagStatus"), [name for name in _LISTS if name in selection]
    if not isinstance(status, str) or status not in ("tagged", "untagged", "any"):
        yield _breach("lifecycle.tag-status", f"{place}.tagStatus")
    elif status == "tagged" and len(given) != 1:
        yield _breach("lifecycle.tagged", place)
    elif status != "tagged":
        yield from (_breach("lifecycle.not-tagged", f"{place}.{name}") for name in given)
    for name in given:
        values = selection[name]
        if not isinstance(values, list) or not values or not all(isinstance(one, str) and one for one in values):
            yield _breach("lifecycle.tag-list", f"{place}.{name}")
        elif name == "tagPatternList":
            for index, pattern in enumerate(values):
                if pattern.count("*") > PATTERN_WILDCARDS:
                    yield _breach("lifecycle.wildcards", f"{place}.{name}[{index}]")
    kind = selection.get("countType")
    if kind not in ("imageCountMoreThan", *_SINCE):
        yield _breach("lifecycle.count-type", f"{place}.countType")
    else:
        if ("countUnit" in selection) != (kind in _SINCE) or selection.get("countUnit", "days") != "days":
            yield _breach("lifecycle.count-unit", f"{place}.countUnit")
        storage = selection.get("storageClass", "standard")
        if storage != ("archive" if kind == "sinceImageTransitioned" else "standard"):
            yield _breach("lifecycle.storage-class", f"{place}.storageClass")
    if not _is_count(selection.get("countNumber")):
        yield _breach("lifecycle.count-number", f"{place}.countNumber")


def _of_any(rules: list[Any]) -> Iterator[Breach]:
    """Rules that select any images: in each storage class at most one, and the last by priority.

    The guide's example “Combining archive and expire rules” has one for each of the two classes.
    """
    highest: dict[str, int] = {}
    found: list[tuple[int, int, str]] = []
    for index, rule in enumerate(rules):
        selection = rule.get("selection") if isinstance(rule, dict) else None
        priority: Any = rule.get("rulePriority") if isinstance(rule, dict) else None
        if not isinstance(selection, dict) or not _is_count(priority):
            continue
        storage = str(selection.get("storageClass", "standard"))
        highest[storage] = max(highest.get(storage, 0), priority)
        if selection.get("tagStatus") == "any":
            found.append((index, priority, storage))
    for index, priority, storage in found:
        if priority != highest[storage]:
            yield _breach("lifecycle.any-last", f"rules[{index}]")


def _object(text: str) -> dict[str, Any] | None:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = dict(pairs)
        if len(names) != len(pairs):
            raise ValueError("a name is given twice")
        return names

    def no_constant(name: str) -> Any:
        raise ValueError(f"{name} is not a JSON number")

    try:
        document = json.loads(text, object_pairs_hook=once, parse_constant=no_constant)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _unknown(found: dict[str, Any], known: set[str], before: str) -> Iterator[Breach]:
    for name in found:
        if name not in known:
            shown = name if name.isidentifier() and len(name) <= 60 else json.dumps(name[:60])
            yield _breach("lifecycle.element", f"{before}{shown}")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


# --------------------------------------------------------------------------------------------------------- AWS tags


def tag_breaches(tags: Iterable[tuple[str, str]]) -> tuple[Breach, ...]:
    """The AWS tags (key, value) that ECR refuses; none if ECR accepts them all."""
    every = tuple(tags)
    found = [breach for key, value in every for breach in _of_tag(key, value)]
    if len(every) > TAGS_PER_REPOSITORY:
        found.append(_breach("tags.many", f"The {len(every)} tags"))
    return tuple(found)


def _of_tag(key: str, value: str) -> Iterator[Breach]:
    place = f"The tag “{key if len(key) <= 40 else key[:39] + '…'}”"
    if not 1 <= len(key) <= TAG_KEY_CHARACTERS:
        yield _breach("tags.key", place)
    if len(value) > TAG_VALUE_CHARACTERS:
        yield _breach("tags.value", place)
    if key.lower().startswith("aws:"):
        yield _breach("tags.reserved", place)
    wrong = next((one for one in key + value if not _is_tag_character(one)), None)
    if wrong is not None:
        yield _breach("tags.characters", place, f", and it has {unicodedata.name(wrong, ascii(wrong)).lower()}")


def _is_tag_character(one: str) -> bool:
    # Letters, digits and separators of all scripts: the pattern [\p{L}\p{Z}\p{N}_.:/=+\-@]* of AWS's tagging APIs.
    return one in "_.:/=+-@" or unicodedata.category(one)[0] in "LNZ"
