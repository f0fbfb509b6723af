"""Injected faults: errors, throttling, waiting, hanging, resets, lost answers, and AWS's eventual consistency.

A fault matches calls by a glob on ``service:Operation`` (``ecr:Set*``, ``v2:*``) and a glob on the repository's name,
except calls of the callers in ``spare`` (a glob on their ARN). It lets ``skip`` matching calls pass, then strikes
``times`` times (each ``every``-th call), then ends. ``gateway`` finds the faults that strike a call and applies them
before or after the call.
"""

from __future__ import annotations

import fnmatch
import itertools
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sandbox.aws import AWSError, Call

DURING = frozenset({"error", "throttle", "latency", "hang", "reset", "lost", "unanswered"})
# These faults depend on the state of a repository, not on a call, so `ecr` checks them.
INSIDE = frozenset(
    {"not_found_after_create", "principal_not_found", "newer_policies", "slow_preview", "failed_preview"}
)


@dataclass(slots=True, kw_only=True)
class Fault:
    """One fault. Times are in seconds, ``rate`` in calls per second."""

    kind: str
    match: str = "*"
    repository: str = "*"
    spare: str = ""
    times: int | None = None
    skip: int = 0
    every: int = 1
    code: str = ""
    message: str = ""
    status: int = 0
    seconds: float = 0.0
    rate: float = 0.0
    burst: float = 1.0
    id: int = 0
    seen: int = 0
    struck: int = 0
    _tokens: float = 0.0
    _stamp: float = 0.0

    def strikes(self) -> bool:
        """Counts one matching call. Returns whether the fault strikes it."""
        if self.times is not None and self.struck >= self.times:
            return False
        self.seen += 1
        if self.seen <= self.skip or (self.seen - self.skip - 1) % self.every:
            return False
        if self.kind == "throttle" and self._takes_token():
            return False
        self.struck += 1
        return True

    def _takes_token(self) -> bool:
        now = time.monotonic()
        if self._stamp == 0.0:
            self._tokens = self.burst
        else:
            self._tokens = min(self.burst, self._tokens + (now - self._stamp) * self.rate)
        self._stamp = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def error(self) -> AWSError:
        """The error that a struck call gets."""
        throttled = self.kind == "throttle"
        code = self.code or ("ThrottlingException" if throttled else "ServerException")
        message = self.message or ("Rate exceeded" if throttled else "An injected fault")
        return AWSError(code, message, self.status or (400 if throttled or self.code else 500))


class Faults:
    """The faults, in the order in which they were added."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._ids = itertools.count(1)
        self._born: dict[int, float] = {}

    def add(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """Adds a fault. Raises ValueError with the reason if it is invalid."""
        kind = raw.get("kind")
        if kind not in DURING | INSIDE:
            raise ValueError(f"kind is one of {', '.join(sorted(DURING | INSIDE))}")
        settable: dict[str, tuple[type, ...]] = {
            **dict.fromkeys(("kind", "match", "repository", "spare", "code", "message"), (str,)),
            **dict.fromkeys(("times", "skip", "every", "status"), (int,)),
            **dict.fromkeys(("seconds", "rate", "burst"), (int, float)),
        }
        for name, value in raw.items():
            if name not in settable:
                raise ValueError(f"unknown key {name!r}; known: {', '.join(settable)}")
            if not isinstance(value, settable[name]) or isinstance(value, bool):
                raise ValueError(f"bad value for {name}: {value!r}")
        fault = Fault(**raw, id=next(self._ids))
        if kind == "throttle" and (fault.rate < 0 or fault.burst < 0):
            raise ValueError("rate and burst are not negative")
        if fault.every < 1:
            raise ValueError("every is at least 1")
        self._faults.append(fault)
        self._born[fault.id] = time.monotonic()
        return self.shown()[-1]

    def clear(self) -> None:
        self._faults.clear()
        self._born.clear()

    def shown(self) -> list[dict[str, Any]]:
        """The faults for the control API, each with its counts."""
        return [{k: v for k, v in asdict(fault).items() if not k.startswith("_")} for fault in self._faults]

    def strike(self, call: Call) -> list[Fault]:
        """The faults that strike this call."""
        if not self._faults:
            return []
        name = f"{call.service}:{call.operation}"
        return [
            fault for fault in self._faults if fault.kind in DURING and _matches(fault, name, call) and fault.strikes()
        ]

    def hides(self, repository: str, age: float) -> bool:
        """Whether a fault hides this repository, which was made ``age`` seconds ago."""
        return any(
            fault.kind == "not_found_after_create"
            and age < fault.seconds
            and fnmatch.fnmatchcase(repository, fault.repository)
            and fault.strikes()
            for fault in self._faults
        )

    def forgets_principals(self, repository: str) -> bool:
        """Whether a fault lets ECR not know new users and roles of IAM yet."""
        return any(
            fault.kind == "principal_not_found"
            and (not fault.seconds or time.monotonic() - self._born[fault.id] < fault.seconds)
            and fnmatch.fnmatchcase(repository, fault.repository)
            and fault.strikes()
            for fault in self._faults
        )

    def knows_more(self, repository: str) -> bool:
        """Whether a fault lets ECR accept policies with elements and operators that the sandbox does not know."""
        return any(self._inside("newer_policies", repository))

    def preview_delay(self, repository: str) -> float:
        """The seconds by which faults delay a preview of a lifecycle policy."""
        return sum(fault.seconds for fault in self._inside("slow_preview", repository))

    def preview_fails(self, repository: str) -> bool:
        """Whether a fault lets a preview of a lifecycle policy end as FAILED."""
        return any(self._inside("failed_preview", repository))

    def _inside(self, kind: str, repository: str) -> Iterator[Fault]:
        for fault in self._faults:
            if fault.kind == kind and fnmatch.fnmatchcase(repository, fault.repository) and fault.strikes():
                yield fault


def _matches(fault: Fault, name: str, call: Call) -> bool:
    return (
        fnmatch.fnmatchcase(name, fault.match)
        and (fault.repository == "*" or fnmatch.fnmatchcase(call.repository, fault.repository))
        and not (fault.spare and call.caller is not None and fnmatch.fnmatchcase(call.caller.arn, fault.spare))
    )
