"""An assumption about AWS as a value: its sentence, its source, what relies on it, and its probe."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conformance.account import Account

Probe = Callable[["Account"], None]


class Differs(Exception):
    """AWS does something else than what is assumed. The text says what AWS did."""


class NotRun(Exception):
    """The probe says nothing about this account. The text says what the account would need."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumption:
    """`used`: files that rely on it, each with a word to find the place. `cannot`: why there is no probe.

    `makes`: what the probe creates: a kind of `journal.KINDS`, with the suffix of its name if it has one
    (“repository-other”), or the name of an account setting. `minutes`: how long the probe may wait;
    such a probe runs with --slow only. `registry_wide`: the probe changes what counts for the whole registry.
    """

    id: str
    service: str  # the file of the probe
    sentence: str
    source: str
    used: tuple[str, ...]
    probe: Probe | None = None
    cannot: str = ""
    makes: tuple[str, ...] = ()
    minutes: int = 0
    registry_wide: bool = False

    def names(self, prefix: str) -> list[tuple[str, str]]:
        """Kind and name of all that the probe creates or changes in a run with this prefix."""
        found = []
        for made in self.makes:
            kind, dash, suffix = made.partition("-")
            separator = "/" if kind == "repository" else "-"  # other names have no slash
            name = f"{prefix}{separator}{self.id}{dash}{suffix}"
            found.append(("setting", made) if made.isupper() else (kind, name))
        return found


ASSUMPTIONS: list[Assumption] = []


def assumed(name: str, source: str, *used: str, makes: str = "repository", **more: Any) -> Callable[[Probe], Probe]:
    """Put a probe on the list, with its docstring as the sentence. `more`: other fields of `Assumption`.

    `source` and `used` are short forms of addresses and paths; `makes` is one text with spaces.
    """

    def put(probe: Probe) -> Probe:
        fields: dict[str, Any] = {
            "id": name,
            "service": probe.__module__.rpartition(".")[2],
            "sentence": " ".join((probe.__doc__ or "").split()),
            "source": _source(source),
            "used": tuple(_place(each) for text in used for each in text.split("; ")),
            "probe": None if "cannot" in more else probe,
            "makes": tuple(makes.split()),
        }
        ASSUMPTIONS.append(Assumption(**fields, **more))
        return probe

    return put


def unprobed(name: str, sentence: str, source: str, *used: str, why: str) -> None:
    """Put on the list what no probe can try from one account."""

    def nothing(_: Account) -> None:
        """The sentence takes this place."""

    nothing.__doc__, nothing.__module__ = sentence, "conformance.unprobed"
    assumed(name, source, *used, makes="", cannot=why)(nothing)


def expect(holds: object, saw: object) -> None:
    """Raise Differs with what was seen, unless the assumption holds."""
    if not holds:
        raise Differs(f"AWS answered {saw}")


_AWS = "https://docs.aws.amazon.com/"
#: The short forms of addresses, of which each probe has one or more.
_ADDRESSES = {
    "api": _AWS + "AmazonECR/latest/APIReference/API_{}.html",
    "guide": _AWS + "AmazonECR/latest/userguide/{}.html",
    "iam": _AWS + "IAM/latest/UserGuide/{}.html",
    "sts": _AWS + "STS/latest/APIReference/API_{}.html",
    "sqs": _AWS + "AWSSimpleQueueService/latest/APIReference/API_{}.html",
    "docs": _AWS + "{}.html",
    "seen": "observed by https://github.com/{}",
}


def _source(short: str) -> str:
    """A source with whole addresses: `api:TagResource` is a page of the Amazon ECR API Reference."""
    return re.sub(r"\b(\w+):([\w./-]+)", lambda found: _ADDRESSES[found[1]].format(found[2]), short)


def _place(short: str) -> str:
    """A file of the program or the sandbox and a word in it, with the whole path."""
    return short if short.startswith("sandbox/") else f"deployments/{short}"
