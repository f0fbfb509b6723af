"""Which repositories each consumer account can pull from, as their rows have it, as expressions of a query.

Nothing here calls AWS. A row keeps the answers of its last look (`Repository.consumers`). A list of all repositories
must sort and filter by them, so that the database reads the JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any

from django.db.models import Case, CharField, F, Func, IntegerField, Q, QuerySet, Value, When
from django.db.models.functions import Least
from django.db.models.lookups import Exact

from deployments.config import Configuration
from deployments.models import Repository, RepositoryStatus
from deployments.reconcile import targets


class PullState(IntEnum):
    """Whether a consumer account can pull from a repository, the worst first."""

    NO = 0  # by the policies, or because the repository is gone
    DEPENDS = 1
    UNKNOWN = 2  # not looked at yet, or a policy that was not read could turn the answer around
    YES = 3


_BY_VERDICT = {"no": PullState.NO, "depends": PullState.DEPENDS, "yes": PullState.YES}


class _Verdict(Func):
    """The verdict about an account in `consumers`; NULL without one.

    Django's own look-up of a key takes an account for the index of a list, because it is a number.
    """

    def __init__(self, account: str) -> None:
        super().__init__(F("consumers"), output_field=CharField())
        self.account = account

    def as_sql(self, compiler: Any, connection: Any, **_: Any) -> tuple[str, tuple[str, ...]]:  # type: ignore[override]
        sql, parameters = compiler.compile(self.source_expressions[0])
        if connection.vendor == "postgresql":
            return f"jsonb_extract_path_text({sql}, %s, 'pull')", (*parameters, self.account)
        return f"json_extract({sql}, %s)", (*parameters, f'$."{self.account}".pull')


def consumer_accounts(configuration: Configuration) -> list[str]:
    """The consumer accounts of all configured ECR registries, in order."""
    found = targets.configured(configuration)
    return sorted({account for target in found for account in target.config.consumer_accounts})


def states(configuration: Configuration, accounts: Sequence[str]) -> QuerySet[Any]:
    """The repositories of the configured registries, each with `pull_ACCOUNT` and `worst`, values of `PullState`.

    `accounts`: of `consumer_accounts`, at least one. An account that a row has an answer about, and that is configured
    no more, is not among them.
    """
    return with_states(Repository.objects.filter(targets.rows(configuration)), accounts)


def with_states(rows: QuerySet[Repository], accounts: Sequence[str]) -> QuerySet[Any]:
    """`rows`, each with `pull_ACCOUNT` and `worst` as in `states`; without an account, `worst` is UNKNOWN."""
    if not accounts:
        return rows.annotate(worst=Value(PullState.UNKNOWN))
    each = {account: _state(account) for account in accounts}
    worst = Least(*each.values()) if len(each) > 1 else each[accounts[0]]
    return rows.annotate(**{f"pull_{account}": state for account, state in each.items()}, worst=worst)


def with_a(configuration: Configuration, *wanted: PullState) -> Q | None:
    """Condition for the repositories of which a consumer account has one of the states `wanted`.

    None: no account is configured.
    """
    accounts = [] if configuration.problems else consumer_accounts(configuration)
    found = Q()
    for account in accounts:
        for state in wanted:
            found |= Q(Exact(_state(account), Value(state)))
    return targets.rows(configuration) & found if accounts else None


def _state(account: str) -> Case:
    verdict = _Verdict(account)
    return Case(
        When(status=RepositoryStatus.MISSING, then=Value(PullState.NO)),
        *(When(Exact(verdict, Value(word)), then=Value(state)) for word, state in _BY_VERDICT.items()),
        default=Value(PullState.UNKNOWN),
        output_field=IntegerField(),
    )
