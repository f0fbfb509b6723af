"""The hostile suite: which of its cases run, and how many requests it sends.

`make attack` runs every case. Another run takes of each test function the number of cases that its mark names
(`attack(sample=4)`; without a number: all; 0: none), chosen with SEED, and `make fast` takes none; a test that is named
with `::` always runs.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connection, transaction
from django.test import override_settings

from deployments import config
from deployments.api import limits
from deployments.aws.ecr import Ecr
from deployments.errors import registry_error
from tests.attack import console as consoles
from tests.attack.attacker import Attacker, Sent
from tests.attack.console import Console
from tests.attack.projects import SETTINGS, Side

SEED = 11
_SENT = "requests of the hostile suite"


def _is_whole(config: pytest.Config) -> bool:
    return "attack" in config.option.markexpr or any("::" in argument for argument in config.args)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if _is_whole(config):
        return
    cases: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        mark = item.get_closest_marker("attack")
        if mark is not None and "sample" in mark.kwargs:
            cases[item.nodeid.partition("[")[0]].append(item)
    unasked: set[pytest.Item] = set()
    for function, found in cases.items():
        mark = found[0].get_closest_marker("attack")
        assert mark is not None
        found.sort(key=lambda item: item.nodeid)
        sample = min(mark.kwargs["sample"], len(found))
        chosen = random.Random(f"{SEED} {function}").sample(found, sample)  # noqa: S311
        unasked |= set(found) - set(chosen)
    config.hook.pytest_deselected(items=list(unasked))
    items[:] = [item for item in items if item not in unasked]


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    counts: Counter[str] = Counter()
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            counts.update(dict(getattr(report, "user_properties", ())).get(_SENT, {}))
    if counts:
        share = "all cases" if _is_whole(config) else f"a sample, seed {SEED}; make attack runs all cases"
        terminalreporter.section(f"hostile requests ({share})")
        for kind, number in sorted(counts.items()):
            terminalreporter.write_line(f"{number:7,} {kind}")
        terminalreporter.write_line(f"{sum(counts.values()):7,} in all")


@pytest.fixture
def sent(request: pytest.FixtureRequest) -> Sent:
    """Counts the requests of a test by the KIND of its module."""
    sent = Sent(kind=request.module.KIND)
    request.node.user_properties.append((_SENT, sent.counts))
    return sent


@pytest.fixture
def attacker(sent: Sent) -> Callable[..., Attacker]:
    """Makes a client whose requests are counted."""

    def make(**options: Any) -> Attacker:
        return Attacker(sent, **options)

    return make


@pytest.fixture
def sides(transactional_db: None, configure: Callable[..., config.Configuration]) -> tuple[Side, Side]:
    """Two projects with one of everything: the attacker's own, and the other."""
    configure(**SETTINGS)
    for limiter in (limits.failed_logins, limits.unknown_keys):
        limiter.clear()
    return Side.make("own", first=1), Side.make("other", first=1000)


def _not_asked(ecr: Ecr, name: str, *_: object, **__: object) -> None:
    raise registry_error("NoCredentials", operation="DescribeImages", name=name)


@pytest.fixture(scope="module")
def console(django_db_setup: None, django_db_blocker: Any) -> Iterator[Console]:
    """One of everything that the console shows, and all forms of its pages; made once for the tests of a module, which
    undo what they change.
    """
    configuration = config.load(consoles.SETTINGS).require()
    settings = override_settings(CONFIGURATION=configuration, MAIL_IS_CONFIGURED=True)
    with django_db_blocker.unblock(), settings, pytest.MonkeyPatch.context() as patch, transaction.atomic():
        # A JSON error closes the page that it replaces, and with it a connection that is in a transaction.
        patch.setattr(connection, "close_if_unusable_or_obsolete", lambda: None)
        # The pages of images ask AWS, which nothing does in a transaction.
        patch.setattr(Ecr, "image_page", _not_asked)
        patch.setattr(Ecr, "image", _not_asked)
        yield Console.make()
        transaction.set_rollback(True)
