"""Events of CloudTrail about calls of ECR, events of ECR itself, and EventBridge's rules that send them to SQS queues.

ECR itself sends no event when a repository or a policy changes; CloudTrail does, "AWS API Call via CloudTrail", for
each successful call that changes something. Events of reads (calls that begin with Describe, Get or List, also refused
ones) go to rules in the state ENABLED_WITH_ALL_CLOUDTRAIL_MANAGEMENT_EVENTS, and to a subscription that names them in
``reads``. ECR's own events are about images (``image_events``). At AWS an event may
be minutes late, out of order or delivered twice; here it comes at once, unless a subscription sets copies or a delay.
Patterns match exact values, ``prefix``, ``suffix``, ``exists`` and ``anything-but``. The queue's policy, which at AWS
must allow events.amazonaws.com to send, is not checked.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from sandbox.aws import AWSError, Call, Change, ServiceEvent, model, snake, timestamp
from sandbox.iam import IAM
from sandbox.server import Request
from sandbox.sqs import SQS, Queue

Event = dict[str, Any]
ALL_STATE = "ENABLED_WITH_ALL_CLOUDTRAIL_MANAGEMENT_EVENTS"


@dataclass(slots=True)
class Rule:
    name: str
    arn: str
    pattern: str
    description: str = ""
    state: str = "ENABLED"
    targets: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Subscription:
    """A queue that gets all events of its account, of every region, without a rule."""

    queue: Queue
    copies: int
    delay: float
    reads: frozenset[str]  # the reads whose events it gets too

    def gets(self, event: Event) -> bool:
        """Whether it gets this event of its account."""
        return not _is_read(event) or event["detail"]["eventName"] in self.reads


class Events:
    def __init__(self, iam: IAM, sqs: SQS) -> None:
        self._iam, self._sqs = iam, sqs
        self._rules: dict[tuple[str, str], dict[str, Rule]] = {}
        self._subscriptions: list[Subscription] = []

    # -- emitting --

    def emit_call(self, call: Call) -> None:
        """Sends the events about a successful call to the registry's account."""
        if call.change is not None:
            self._emit(_event(call, call.change))
        self.emit(call.events)

    def emit_refused(self, call: Call, code: str) -> None:
        """Sends the event about a read that was refused."""
        if call.change is not None and call.change.read_only:
            self._emit(_event(call, replace(call.change, error=code)))

    def emit(self, events: Iterable[ServiceEvent]) -> None:
        """Sends events of ECR itself to the registry's account."""
        for each in events:
            self._emit(_own(each))

    def _emit(self, event: Event) -> None:
        account, region = str(event["account"]), str(event["region"])
        for rule in self._rules.get((account, region), {}).values():
            states = (ALL_STATE,) if _is_read(event) else ("ENABLED", ALL_STATE)
            if rule.state in states and _matches(json.loads(rule.pattern), event):
                for target in rule.targets.values():
                    queue = self._sqs.by_arn(str(target["Arn"]))
                    if queue is not None:
                        queue.put(json.dumps(event))
        for subscription in self._subscriptions:
            if subscription.queue.account == account and subscription.gets(event):
                for _ in range(subscription.copies):
                    _deliver(subscription, json.dumps(event))

    def subscribe(self, body: dict[str, Any], request: Request) -> dict[str, Any]:
        """``POST /_sandbox/events`` with ``queue_url``, or with ``queue`` and ``account``; makes a missing queue."""
        if unknown := body.keys() - {"queue_url", "queue", "account", "region", "copies", "delay", "reads"}:
            raise ValueError(f"unknown keys: {', '.join(sorted(unknown))}")
        url = str(body.get("queue_url", ""))
        account, name = url.split("/")[-2:] if url.count("/") >= 4 else ("", "")
        account, name = str(body.get("account", account or "111111111111")), str(body.get("queue", name))
        region = body.get("region")
        queue = self._sqs.by_name(account, name, region) or self._sqs.create(account, str(region or "us-east-1"), name)
        reads = frozenset(str(each) for each in body.get("reads", []))
        subscription = Subscription(queue, int(body.get("copies", 1)), float(body.get("delay", 0)), reads)
        self._subscriptions.append(subscription)
        return {"queue_url": f"{request.origin}/{account}/{name}", "queue_arn": queue.arn}

    # -- EventBridge's API --

    def answer(self, call: Call) -> dict[str, Any]:
        """Runs one operation of EventBridge's API. Raises AWSError."""
        operation = getattr(self, f"do_{snake(call.operation)}", None)
        if operation is None:
            raise AWSError("UnknownOperationException", f"The sandbox does not do events:{call.operation}")
        model("events").check(call.operation, call.params)
        name = call.params.get("Name") or call.params.get("Rule") or "*"
        self._iam.require(call, f"events:{call.operation}", _rule_arn(call, str(name)))
        if call.params.get("EventBusName", "default") != "default":
            raise AWSError("ResourceNotFoundException", "The sandbox has the default event bus only.")
        result: dict[str, Any] = operation(call)
        return result

    def _mine(self, call: Call) -> dict[str, Rule]:
        return self._rules.setdefault((call.by.account, call.region), {})

    def _rule(self, call: Call) -> Rule:
        name = str(call.params.get("Name") or call.params.get("Rule"))
        rule = self._mine(call).get(name)
        if rule is None:
            raise AWSError("ResourceNotFoundException", f"Rule {name} does not exist on EventBus default.")
        return rule

    def do_put_rule(self, call: Call) -> dict[str, Any]:
        name, pattern = str(call.params.get("Name")), str(call.params.get("EventPattern", ""))
        try:
            if not isinstance(json.loads(pattern), dict):
                raise ValueError
            _matches(json.loads(pattern), {})
        except (ValueError, RecursionError):
            raise AWSError("InvalidEventPatternException", "Event pattern is not valid.") from None
        rule = self._mine(call).setdefault(name, Rule(name, _rule_arn(call, name), pattern))
        rule.pattern, rule.state = pattern, str(call.params.get("State", "ENABLED"))
        rule.description = str(call.params.get("Description", ""))
        return {"RuleArn": rule.arn}

    def do_describe_rule(self, call: Call) -> dict[str, Any]:
        return _shown(self._rule(call))

    def do_list_rules(self, call: Call) -> dict[str, Any]:
        prefix = str(call.params.get("NamePrefix", ""))
        return {"Rules": [_shown(rule) for rule in self._mine(call).values() if rule.name.startswith(prefix)]}

    def do_delete_rule(self, call: Call) -> dict[str, Any]:
        name = str(call.params.get("Name"))
        if name in self._mine(call) and self._mine(call)[name].targets:
            raise AWSError("ValidationException", "Rule can't be deleted since it has targets.")
        self._mine(call).pop(name, None)
        return {}

    def _switch(self, call: Call) -> dict[str, Any]:
        self._rule(call).state = "ENABLED" if call.operation == "EnableRule" else "DISABLED"
        return {}

    do_enable_rule = do_disable_rule = _switch

    def do_put_targets(self, call: Call) -> dict[str, Any]:
        rule = self._rule(call)
        for target in call.params.get("Targets") or []:
            if ":sqs:" not in str(target.get("Arn")):
                raise AWSError("ValidationException", "The sandbox delivers to SQS queues only.")
            rule.targets[str(target["Id"])] = dict(target)
        return {"FailedEntryCount": 0, "FailedEntries": []}

    def do_remove_targets(self, call: Call) -> dict[str, Any]:
        rule = self._rule(call)
        for each in call.params.get("Ids") or []:
            rule.targets.pop(str(each), None)
        return {"FailedEntryCount": 0, "FailedEntries": []}

    def do_list_targets_by_rule(self, call: Call) -> dict[str, Any]:
        return {"Targets": list(self._rule(call).targets.values())}


def _rule_arn(call: Call, name: str) -> str:
    return f"arn:{call.by.partition}:events:{call.region}:{call.by.account}:rule/{name}"


def _shown(rule: Rule) -> dict[str, Any]:
    return {
        "Name": rule.name,
        "Arn": rule.arn,
        "EventPattern": rule.pattern,
        "State": rule.state,
        "Description": rule.description,
        "EventBusName": "default",
    }


def _deliver(subscription: Subscription, body: str) -> None:
    if subscription.delay:
        asyncio.get_running_loop().call_later(subscription.delay, subscription.queue.put, body)
    else:
        subscription.queue.put(body)


def _matches(pattern: dict[str, Any], event: Event) -> bool:
    """EventBridge's rule: each key of the pattern must match one of its values. Raises ValueError for an unknown
    matcher.
    """
    results = []
    for key, wanted in pattern.items():
        have = event.get(key)
        if isinstance(wanted, dict):
            results.append(_matches(wanted, have if isinstance(have, dict) else {}))
        elif isinstance(wanted, list):
            values = have if isinstance(have, list) else [have]
            results.append(any([_fits(each, value) for each in wanted for value in values]))
        else:
            raise ValueError("a pattern's leaves are lists")
    return all(results)


def _fits(wanted: Any, value: Any) -> bool:
    if not isinstance(wanted, dict):
        return bool(wanted == value)
    match wanted:
        case {"prefix": str(prefix)}:
            return isinstance(value, str) and value.startswith(prefix)
        case {"suffix": str(suffix)}:
            return isinstance(value, str) and value.endswith(suffix)
        case {"exists": bool(exists)}:
            return (value is not None) == exists
        case {"anything-but": others}:
            return value is not None and value not in (others if isinstance(others, list) else [others])
        case _:
            raise ValueError("a matcher that the sandbox does not know")


def _is_read(event: Event) -> bool:
    detail = event["detail"]
    return bool(detail.get("readOnly")) and str(detail.get("eventName", "")).startswith(("Describe", "Get", "List"))


def _own(event: ServiceEvent) -> Event:
    return {
        "version": "0",
        "id": str(uuid.uuid4()),
        "detail-type": event.kind,
        "source": "aws.ecr",
        "account": event.account,
        "time": timestamp(time.time()),
        "region": event.region,
        "resources": [],
        "detail": dict(event.detail),
    }


def _event(call: Call, change: Change) -> Event:
    account = change.arn.split(":")[4]
    moment = timestamp(time.time())
    kind = "AWS API Call via CloudTrail"
    return {
        **_own(ServiceEvent(kind=kind, account=account, region=call.region, detail={})),
        "detail": {
            "eventVersion": "1.08",
            "userIdentity": _identity(call),
            "eventTime": moment,
            "eventSource": "ecr.amazonaws.com",
            "eventName": change.name,
            "awsRegion": call.region,
            "sourceIPAddress": "127.0.0.1",
            "userAgent": call.request.headers.get("user-agent", ""),
            "requestParameters": dict(change.sent),
            "responseElements": dict(change.answered) or None,
            "requestID": call.request_id,
            "eventID": str(uuid.uuid4()),
            "readOnly": change.read_only,
            **({"errorCode": change.error} if change.error else {}),
            "resources": [{"accountId": account, "ARN": change.arn}],
            "eventType": "AwsApiCall",
            "managementEvent": True,
            "recipientAccountId": account,
            "eventCategory": "Management",
        },
    }


def _identity(call: Call) -> dict[str, Any]:
    caller = call.by
    owner, credential = caller.credential.owner, caller.credential
    identity: dict[str, Any] = {
        "type": caller.kind,
        "principalId": caller.user_id,
        "arn": caller.arn,
        "accountId": caller.account,
        "accessKeyId": credential.access_key,
    }
    if caller.kind == "IAMUser":
        identity["userName"] = owner.name
    if credential.token is not None:
        issuer = {
            "type": owner.kind.capitalize() if owner.kind == "role" else "IAMUser",
            "principalId": owner.unique_id,
            "arn": owner.arn(caller.partition),
            "accountId": owner.account,
            "userName": owner.name,
        }
        attributes = {"creationDate": timestamp(credential.issued), "mfaAuthenticated": "false"}
        identity["sessionContext"] = {
            "attributes": attributes,
            **({"sessionIssuer": issuer} if caller.kind != "IAMUser" else {}),
        }
    return identity
