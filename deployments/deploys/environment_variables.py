"""Environment variables of a project's code, for its build and for the indexer.

A preview branch has the variables of its parent; its own variables override them. Each value is encrypted for its row
(`deployments.access.vault`). No value is ever in a log line, an exception, an audit line or a `repr`. The value of a
secret variable is never shown to people again; the build and the indexer get it, because they run the code that reads
it.

Use cases: they take what they need as arguments, know no HTTP, and store all variables of a request or none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from django.db import transaction
from django.utils import timezone

from deployments.access.vault import Unreadable, Vault
from deployments.catalogue import sentence
from deployments.errors import Refusal, refusal
from deployments.models import Environment, EnvironmentVariable

#: Linux passes no string over 128 KiB to a program (MAX_ARG_STRLEN), so a value stays well below.
MAX_VARIABLES = 1_000
MAX_NAME_CHARACTERS = 255
MAX_VALUE_BYTES = 64 * 1024
#: The CLI sets these itself for the indexer, so variables with these names are not stored, as in trigger.dev's server.
RESERVED_NAMES = frozenset({"TRIGGER_SECRET_KEY", "TRIGGER_API_URL"})

# Printable ASCII without the space and “=”: also `npm_config_@scope:registry` is a name.
_NAME = re.compile(r"[!-<>-~]+")


class Rejected(Refusal):
    """The variables were not stored. `problems`: {name: sentence}. No sentence contains a value."""

    def __init__(self, problems: Mapping[str, str]) -> None:
        self.problems = dict(problems)
        names = ", ".join(f"“{name[:60]}”" for name in list(self.problems)[:3])
        more = f" and {len(self.problems) - 3} more" if len(self.problems) > 3 else ""
        first = next(iter(self.problems.values()))
        super().__init__(
            sentence("variables_rejected", names=f"{names}{more}", problem=first), code="variables_rejected"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class VariableChange:
    """The result of `store`: the names of new variables and of changed variables. Contains no value."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.changed)


def store(
    *,
    environment: Environment,
    variables: Mapping[str, str],
    vault: Vault,
    is_secret: bool | None = None,
    override: bool = False,
    by: str = "",
) -> VariableChange:
    """Set all variables or none.

    `is_secret`: None keeps the mark of an existing variable and makes a new variable not secret. Without `override`, an
    existing variable is rejected. Raises Rejected.
    """
    wanted = {name.strip(): value for name, value in variables.items() if name.strip() not in RESERVED_NAMES}
    problems = {name: problem for name, value in wanted.items() if (problem := problem_of(name, value))}
    if problems:
        raise Rejected(problems)
    with transaction.atomic():
        # Concurrent requests wait here for each other, so that both do not insert the same name.
        Environment.objects.select_for_update().get(pk=environment.pk)
        known = {row.name: row for row in environment.variables.all()}
        if not override and (taken := sorted(wanted.keys() & known.keys())):
            raise Rejected(dict.fromkeys(taken, "the variable exists, and override was not requested."))
        if len(known.keys() | wanted.keys()) > MAX_VARIABLES:
            raise Rejected({name: f"an environment has at most {MAX_VARIABLES:,} variables." for name in wanted})
        added, changed = [], []
        for name, value in wanted.items():
            row = known.get(name)
            if row is None:
                row = EnvironmentVariable(environment=environment, name=name)
                added.append(name)
            elif _is(row, value, vault) and is_secret in (None, row.is_secret):
                continue
            else:
                changed.append(name)
            row.value = vault.encrypt(value, context=_encryption_context(environment.pk, name))
            row.is_secret = row.is_secret if is_secret is None else is_secret
            row.updated_at = timezone.now()
            row.updated_by = by[:200]
            row.save()
    return VariableChange(added=tuple(added), changed=tuple(changed))


def sync(
    *,
    environment: Environment,
    variables: Mapping[str, str],
    parent_variables: Mapping[str, str],
    vault: Vault,
    is_secret: bool | None = None,
    override: bool = False,
    by: str = "",
) -> dict[Environment, VariableChange]:
    """`store` for an environment and, if it is a preview branch, for its parent, in one transaction. Raises Rejected.

    Returns the changes by environment, without environments in which nothing changed.
    """
    wanted = {environment: variables}
    if environment.parent is not None:  # a root environment has no parent to store them in
        wanted[environment.parent] = parent_variables
    with transaction.atomic():
        changes = {
            each: store(environment=each, variables=some, vault=vault, is_secret=is_secret, override=override, by=by)
            for each, some in wanted.items()
        }
    return {each: change for each, change in changes.items() if change}


def remove(*, environment: Environment, name: str) -> bool:
    """Delete a variable; False if it does not exist. On a preview branch, the parent's variable then applies again."""
    return bool(environment.variables.filter(name=name).delete()[0])


def values(*, environment: Environment, vault: Vault, secrets: bool = True) -> dict[str, str]:
    """{name: value} of every variable of the environment's code; without `secrets` only those that are not secret.

    Raises Refusal if a variable cannot be decrypted: without this variable the code could fail without a clear cause.
    """
    owners = [environment.pk] if environment.parent_id is None else [environment.parent_id, environment.pk]
    rows = sorted(
        EnvironmentVariable.objects.filter(environment_id__in=owners), key=lambda row: owners.index(row.environment_id)
    )
    effective = {row.name: row for row in rows}  # the branch's own rows come last, so they override
    return {name: reveal(row, vault) for name, row in sorted(effective.items()) if secrets or not row.is_secret}


def reveal(row: EnvironmentVariable, vault: Vault) -> str:
    """The value of one row. Raises Refusal if it cannot be decrypted."""
    try:
        return vault.decrypt(row.value, context=_encryption_context(row.environment_id, row.name))
    except Unreadable as error:
        raise refusal("variable_unreadable", name=row.name, reason=error) from None


def can_decrypt(vault: Vault) -> bool | None:
    """Whether the vault decrypts the oldest and the newest stored value; None if there is no value."""
    rows = EnvironmentVariable.objects.order_by("pk")
    try:
        values = [reveal(row, vault) for row in (rows.first(), rows.last()) if row is not None]
    except Refusal:
        return False
    return True if values else None


def reencrypt(*, vault: Vault) -> tuple[int, list[EnvironmentVariable]]:
    """Encrypt every variable with the vault's first key.

    Returns how many variables were encrypted again, and the rows that cannot be decrypted. A value that somebody sets
    meanwhile is not changed: it is already encrypted with the first key.
    """
    done, unreadable = 0, []
    for row in EnvironmentVariable.objects.select_related("environment__project").iterator(chunk_size=500):
        if vault.is_current(row.value):
            continue
        context = _encryption_context(row.environment_id, row.name)
        try:
            encrypted = vault.encrypt_again(row.value, context=context)
        except Unreadable:
            unreadable.append(row)
            continue
        done += EnvironmentVariable.objects.filter(pk=row.pk, value=row.value).update(value=encrypted)
    return done, unreadable


def problem_of(name: str, value: str) -> str | None:
    """Why this cannot be an environment variable, in a sentence without the value; None if it can."""
    if not _NAME.fullmatch(name):
        return "a name is printable ASCII without spaces and without =." if name else "a name is empty."
    if len(name) > MAX_NAME_CHARACTERS:
        return f"a name has at most {MAX_NAME_CHARACTERS} characters."
    if "\0" in value:
        return "a value holds a NUL character."
    if len(value.encode("utf-8", "surrogatepass")) > MAX_VALUE_BYTES:
        return f"a value has at most {MAX_VALUE_BYTES // 1024} KiB."
    return None


def _is(row: EnvironmentVariable, value: str, vault: Vault) -> bool:
    try:
        return vault.decrypt(row.value, context=_encryption_context(row.environment_id, row.name)) == value
    except Unreadable:
        return False


def _encryption_context(environment_id: int, name: str) -> str:
    return f"environment {environment_id} variable {name}"
