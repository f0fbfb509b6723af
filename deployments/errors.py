"""The two kinds of errors that the program raises, with sentences from `deployments.catalogue`.

`RegistryError`: AWS, or another registry, did not do what was asked. `Refusal`: this program refuses.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from deployments.catalogue import DENIED, SERVER, THROTTLED, UNKNOWN, Retry, find, sentence


@dataclass(slots=True, kw_only=True)
class RegistryError(Exception):
    """AWS did not do what was asked. `str()` is the sentence for the operator and the CLI; it holds no secret."""

    operation: str
    code: str  # AWS's error code, or a code of the catalogue: NoCredentials, Unreachable, OutOfTime, …
    sentence: str
    retryable: bool  # the same request can succeed later without a correction
    installation: bool = False  # no repository of this registry works until the cause (credentials, role) is corrected
    bounded: bool = False  # retryable for some minutes only: a new role becomes known to AWS within minutes
    aws_request_id: str = ""
    said: str = ""  # AWS's code and message, with no secret

    @property
    def throttled(self) -> bool:
        """Whether AWS throttled the call. The repository is not the cause; a sweep tries the repository again later."""
        return self.code in THROTTLED

    @property
    def denied(self) -> bool:
        """Whether AWS denied the call by policy. Such an answer does not change by itself."""
        return self.code in DENIED

    def __str__(self) -> str:
        return self.sentence

    def as_refusal(self) -> Refusal:
        """The same sentence and code as a `Refusal`, for callers that handle no AWS errors."""
        return Refusal(self.sentence, code=self.code, retryable=self.retryable)


class Refusal(Exception):
    """The program refuses, with one sentence for the CLI, the row and the page.

    `retryable`: the same request can succeed later without a correction.
    """

    def __init__(self, sentence: str, *, code: str, retryable: bool = False) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.code = code
        self.retryable = retryable


class NotFound(Refusal):
    """The named object does not exist or belongs to another owner. The answer is the same for both."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence, code="not_found")


def refusal(code: str, *, retryable: bool | None = None, **values: object) -> Refusal:
    """A refusal with the catalogue's sentence, in which `values` replace the placeholders.

    `retryable`: only for an entry with `Retry.DEPENDS`; else the entry decides. The value `operation` chooses an entry
    that is only for this operation. Raises KeyError for an unknown code or a missing value.
    """
    entry = find(code, operation=str(values.get("operation", "")))
    by_entry = entry is not None and entry.retryable is Retry.YES
    return Refusal(sentence(code, **values), code=code, retryable=by_entry if retryable is None else retryable)


def registry_error(code: str, *, operation: str, **values: object) -> RegistryError:
    """A `RegistryError` of the catalogue, for what AWS did not answer itself: no connection, no credentials, no lease.

    Raises KeyError for an unknown code or missing value.
    """
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
    aws_request_id: str = "",
    status: int = 0,
) -> RegistryError:
    """AWS's error answer as a `RegistryError`; its sentence ends with what to do.

    `name` is the repository or queue, `message` AWS's own text, `permission` the IAM action that the call needs,
    `setting` the setting that names the assumed role or that the request's text comes from (empty: not known), `status`
    the HTTP status (0: unknown).
    """
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
            setting=setting or "the setting that this text comes from",
        ),
        retryable=entry.retryable in (Retry.YES, Retry.BOUNDED),
        # Without the role no call to the registry works, whatever AWS's reason is.
        installation=entry.installation or operation == "AssumeRole",
        bounded=entry.retryable is Retry.BOUNDED,
        aws_request_id=aws_request_id,
        said=said,
    )


def _one_line(message: str) -> str:
    # The encoded part is long and can be decoded only inside the account.
    message = message.partition("Encoded authorization failure message:")[0]
    return re.sub(r"\s+", " ", message).strip()[:600].rstrip(". ")
