"""The two kinds of errors that the program raises, and how they get their sentences from the catalogue.

AWS, or another registry, did not do what was asked: `RegistryError`. This program refuses: `Refusal`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from deployments.catalogue import _DENIED, _THROTTLED, SERVER, UNKNOWN, Retry, find, sentence


@dataclass(slots=True, kw_only=True)
class RegistryError(Exception):
    """AWS did not do what was asked. `str()` is the sentence for the operator and the CLI; it holds no secret."""

    operation: str
    code: str  # AWS's own error code, or one of ours: NoCredentials, Unreachable, OutOfTime
    sentence: str
    retryable: bool  # by itself: trying again is enough
    installation: bool = False  # nothing of this registry can work until it is mended (credentials, role)
    bounded: bool = False  # heals only for a while: a role that was just made becomes known within minutes
    request_id: str = ""
    said: str = ""  # AWS's own code and words

    @property
    def throttled(self) -> bool:
        """AWS limits the rate: not a fault of this repository, and worth a place further back in the line."""
        return is_throttling(self.code)

    @property
    def denied(self) -> bool:
        """AWS's definitive “you may not”, as opposed to all that may pass."""
        return self.code in _DENIED

    def __str__(self) -> str:
        return self.sentence

    def as_refusal(self) -> Refusal:
        """The same sentence and code as a “no” of ours, for a caller that knows no AWS."""
        return Refusal(self.sentence, code=self.code, retryable=self.retryable)


class Refusal(Exception):
    """A “no”, in one sentence for the CLI, the row and the page. `retryable`: trying again is enough."""

    def __init__(self, sentence: str, *, code: str, retryable: bool = False) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.code = code
        self.retryable = retryable


class NotFound(Refusal):
    """What was named is not there, or belongs to somebody else; the two look the same from outside."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence, code="not_found")


def is_throttling(code: str) -> bool:
    """Whether an error code of AWS says that calls come too fast."""
    return code in _THROTTLED


def refusal(code: str, *, retryable: bool | None = None, **values: object) -> Refusal:
    """A refusal of ours with its sentence. `retryable` only where the entry says that it depends."""
    entry = find(code)
    by_itself = entry is not None and entry.retryable is Retry.YES
    return Refusal(sentence(code, **values), code=code, retryable=by_itself if retryable is None else retryable)


def registry_error(code: str, *, operation: str, **values: object) -> RegistryError:
    """An error on the way to a registry that is not AWS's own word."""
    entry = find(code)
    return RegistryError(
        operation=operation,
        code=code,
        sentence=sentence(code, operation=operation, **values),
        retryable=entry is not None and entry.retryable is not Retry.NO,
        installation=entry is not None and entry.installation,
    )


def aws_error(
    operation: str,
    name: str,
    code: str,
    message: str,
    *,
    permission: str = "",
    setting: str = "",
    request_id: str = "",
    status: int = 0,
) -> RegistryError:
    """What AWS answered, in one sentence that ends with what to do. `setting` is where an assumed role comes from."""
    entry = find(code, operation=operation, detail=message)
    if status >= 500 and (entry is None or entry.retryable is Retry.NO):
        entry = find(SERVER)
    entry = entry or find(UNKNOWN)
    if entry is None:
        raise KeyError(UNKNOWN)
    detail = _one_line(message) if entry.shows_detail else ""
    said = f"{code}: {detail}" if detail else code
    return RegistryError(
        operation=operation,
        code=code,
        sentence=entry.template.format(
            operation=operation,
            name=name,
            reason=said,
            permission=permission,
            setting=setting,
        ),
        retryable=entry.retryable in (Retry.YES, Retry.BOUNDED),
        # A role that cannot be assumed leaves nothing that works, whatever the reason.
        installation=entry.installation or operation == "AssumeRole",
        bounded=entry.retryable is Retry.BOUNDED,
        request_id=request_id,
        said=said,
    )


def _one_line(message: str) -> str:
    # The encoded message is for the account's own people, long, and says nothing to anybody else.
    message = message.partition("Encoded authorization failure message:")[0]
    return re.sub(r"\s+", " ", message).strip()[:600].rstrip(". ")
