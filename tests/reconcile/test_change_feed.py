"""A change feed that proves itself lets sweeps read a share; one that is silent, or has a gap, does not.

Hours pass by `fast_clock`. AWS calls are counted at the sandbox.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest
from django.db.models.functions import Now

from deployments import clock, doctor, metrics
from deployments.aws.sqs import EventQueue
from deployments.config import Access, Configuration
from deployments.models import (
    ChangeFeed,
    Deployment,
    DeploymentStatus,
    Environment,
    EnvironmentType,
    ImageState,
    Project,
    Promotion,
    Repository,
    RepositoryStatus,
    Sweep,
    SweepTrigger,
)
from deployments.reconcile import change_events, change_feed, registry_policies, sweep_record, targets
from deployments.reconcile.change_feed import Feed
from sandbox import images
from sandbox.control import Sandbox
from tests.support.change_events import event, message
from tests.support.constants import CLUSTER, HOST, OWNER, POLICY
from tests.support.fast_clock import advance
from tests.support.registry import calls, drift, fill, policies
from tests.support.sweeps import sweep_all

pytestmark = pytest.mark.django_db(transaction=True)
Configure = Callable[..., Configuration]
INTERVAL = timedelta(minutes=10)
MINUTE = timedelta(minutes=1)
READS = ("ecr:Get", "ecr:Describe", "ecr:List")


@pytest.fixture
def configuration(configure: Configure, sandbox: Sandbox) -> Configuration:
    return configure(
        DEPLOY_REGISTRY_HOST=HOST,
        DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY=POLICY,
        DEPLOY_REGISTRY_ECR_CONSUMER_ACCOUNTS=CLUSTER,
        RECONCILE_CALLS_PER_SECOND="5000",
    )


@dataclass(kw_only=True)
class World:
    """An installation with scheduled sweeps and an events process, in minutes that the test lets pass."""

    configuration: Configuration
    sandbox: Sandbox
    queue: EventQueue
    names: list[str]
    delivers: bool = True  # whether AWS sends events
    minutes: int = 0
    sweeps: list[Sweep] = field(default_factory=list)

    def receive(self) -> None:
        """Handle what is on the queue, as the events process does; nothing arrives while AWS sends no events."""
        while messages := self.queue.receive():
            if self.delivers:
                messages = change_events.handle(configuration=self.configuration, messages=messages)
            self.queue.delete(messages)

    def sweep(self) -> Sweep:
        self.sweeps.append(sweep_all(self.configuration))
        self.receive()
        return self.sweeps[-1]

    def pass_minutes(self, minutes: int, *, step: int = 1) -> None:
        """Each minute (or `step` of them): the events process, a worker's tick; each ten minutes a scheduled sweep."""
        for _ in range(0, minutes, step):
            advance(step * MINUTE)
            self.minutes += step
            change_events._prove(self.configuration)
            self.receive()
            if change_feed.sweep_is_owed(self.configuration) or self.minutes % 10 == 0:
                self.sweep()

    def state(self) -> Feed:
        [feed] = change_feed.states(self.configuration)
        return feed

    def repository_calls(self) -> Counter[str]:
        """The calls about single repositories since the last reset."""
        counted = Counter(calls(self.sandbox))
        del counted["GetRegistryPolicy"], counted["GetAccountSetting"]
        return counted


def world_of(configuration: Configuration, sandbox: Sandbox, count: int) -> World:
    url = sandbox.events_to("registry-admin", reads=["GetRegistryPolicy"])
    queue = EventQueue(url=url, region="us-east-1", access=Access(), seconds=0)
    world = World(configuration=configuration, sandbox=sandbox, queue=queue, names=fill(sandbox, configuration, count))
    world.receive()
    Repository.objects.update(written_at=None)
    return world


@pytest.fixture
def world(configuration: Configuration, sandbox: Sandbox) -> World:
    """Eight repositories, and a feed that has proven itself for half an hour."""
    world = world_of(configuration, sandbox, 8)
    world.pass_minutes(30)
    assert world.state().trusted, world.state().words
    sandbox.reset_calls()
    return world


def with_images(world: World) -> None:
    """Give each repository a project with a current image."""
    for number, name in enumerate(world.names):
        project = Project.objects.create(ref=f"proj_{number}", name=f"Project {number}")
        environment = Environment.objects.create(project=project, slug="prod", type=EnvironmentType.PRODUCTION)
        row = Repository.objects.get(name=name)
        Repository.objects.filter(pk=row.pk).update(project=project)
        image = images.build(f"{number}\n")
        digest = images.push(image, world.sandbox.url, *world.sandbox.login(), name, "1.prod", registry=HOST)
        made = Deployment.objects.create(
            project=project,
            environment=environment,
            repository=row,
            content_hash="c",
            image_ref=f"{HOST}/{name}:1.prod",
            status=DeploymentStatus.DEPLOYED,
            deployed_at=Now(),
            version_day="20261126",
            version_number=1,
            image_digest=digest,
        )
        Promotion.objects.create(environment=environment, deployment=made)
    world.receive()


# ------------------------------------------------------------------------------------------------------- a day of calls


@pytest.mark.slow
def test_in_a_day_at_rest_a_proven_feed_takes_less_than_a_tenth_of_the_calls_and_each_part_is_read_in_six_hours(
    configuration: Configuration, sandbox: Sandbox
) -> None:
    world = world_of(configuration, sandbox, 16)
    with_images(world)
    world.delivers = False
    world.pass_minutes(6 * 60, step=10)
    sandbox.reset_calls()
    world.pass_minutes(6 * 60, step=10)
    broken = world.repository_calls()
    assert not world.state().trusted

    world.delivers = True
    world.pass_minutes(60)
    assert world.state().trusted
    sandbox.reset_calls()
    for _ in range(24):
        world.pass_minutes(60, step=2)
        six_hours_ago = clock.now() - timedelta(hours=6)
        assert not Repository.objects.filter(last_checked_at__lt=six_hours_ago).exists()
        assert not Repository.objects.filter(details_checked_at__lt=six_hours_ago).exists()
        assert not ImageState.objects.filter(looked_at__lt=six_hours_ago).exists()
    proven = world.repository_calls()
    assert world.state().trusted

    assert min(broken["GetRepositoryPolicy"], broken["DescribeImages"]) == 36 * len(world.names)
    proofs = calls(sandbox)["GetRegistryPolicy"]
    assert proofs <= 24 * (60 + 6)  # one a minute, and one of each sweep
    before = 4 * (broken.total() - 36) / len(world.names)  # calls a day for each repository, without the listings
    after = (proven.total() - 144) / len(world.names)
    of_10_000 = {name: 144 * 11 + 10_000 * each for name, each in (("before", before), ("after", after))}
    assert (of_10_000["after"] + 24 * 60) / of_10_000["before"] <= 0.1, (before, after)


@pytest.mark.costly
def test_after_all_repositories_were_read_at_once_the_sweeps_read_equal_shares_and_each_once_in_six_hours(
    configuration: Configuration, monkeypatch: pytest.MonkeyPatch
) -> None:
    [target] = targets.configured(configuration)
    began = now = clock.now()
    digest = configuration.desired_digest
    read = {"last_checked_at": began, "details_checked_at": began, "checked_digest": digest, "status": "in_sync"}
    names = [f"trigger/{number}" for number in range(200)]
    Repository.objects.bulk_create(Repository(account=OWNER, region="us-east-1", name=name, **read) for name in names)
    feed = Feed(account=OWNER, region="us-east-1", trusted=True, words="", unbroken_since=began - timedelta(hours=1))
    read_at = dict.fromkeys(Repository.objects.values_list("pk", flat=True), began)
    monkeypatch.setattr(clock, "now", lambda: now)
    shares = []

    while now < began + timedelta(hours=24):
        now += INTERVAL
        ids = list(
            change_feed.to_read(
                Repository.objects.all(), feed=feed, config=target.config, desired_digest=digest, known_from=None
            )
        )
        Repository.objects.filter(pk__in=ids).update(last_checked_at=now, details_checked_at=now)
        assert all(now - read_at[pk] <= timedelta(hours=6) for pk in ids)
        read_at |= dict.fromkeys(ids, now)
        shares.append(len(ids))

    assert all(now - at <= timedelta(hours=6) for at in read_at.values())
    assert set(shares[:8]) == {0}  # nothing is old yet
    afterwards = shares[60:]
    assert min(afterwards) >= 4, shares
    assert max(afterwards) <= 8, shares
    assert sum(afterwards) <= 200 * 14 / 5.5, shares


# ---------------------------------------------------------------------------------------------------------------- trust


@pytest.mark.costly
def test_without_a_proof_every_sweep_reads_every_repository(configuration: Configuration, sandbox: Sandbox) -> None:
    world = world_of(configuration, sandbox, 4)
    world.delivers = False
    world.pass_minutes(30)
    sandbox.reset_calls()

    sweep = world.sweep()

    assert calls(sandbox)["GetRepositoryPolicy"] == 4
    assert sweep.spared == 0
    assert world.state() == Feed(
        account=OWNER,
        region="us-east-1",
        trusted=False,
        words="No event of an own read has come yet, so it is not known whether the change events are complete.",
    )


@pytest.mark.costly
def test_a_feed_at_rest_proves_itself_by_reads_and_is_trusted_after_an_interval_without_a_pause(
    configuration: Configuration, sandbox: Sandbox
) -> None:
    world = world_of(configuration, sandbox, 4)
    world.sweep()

    world.pass_minutes(9)
    assert not world.state().trusted
    world.pass_minutes(2)

    assert world.state().trusted
    assert world.state().delay is not None
    written = [name for name in sandbox.calls() if name.startswith("ecr:") and not name.startswith(READS)]
    assert not set(written) - {"ecr:CreateRepository", "ecr:PutLifecyclePolicy", "ecr:SetRepositoryPolicy"}


@pytest.mark.costly
@pytest.mark.parametrize("came_back", [False, True])
def test_no_proof_is_asked_for_where_none_came_back_in_the_last_hour(
    configuration: Configuration, sandbox: Sandbox, came_back: bool
) -> None:
    world = world_of(configuration, sandbox, 1)
    if came_back:
        world.sweep()
        advance(timedelta(hours=1))
    world.delivers = False
    sandbox.reset_calls()

    world.pass_minutes(20)

    assert calls(sandbox)["GetRegistryPolicy"] == 2  # one of each sweep


@pytest.mark.costly
def test_drift_behind_a_feed_that_breaks_is_corrected_within_one_interval(world: World) -> None:
    world.pass_minutes(3)
    world.delivers = False
    drift(world.sandbox, world.names)

    world.pass_minutes(10)

    assert policies(world.sandbox, world.names) == len(world.names)
    assert not world.state().trusted
    assert "more than 5 minutes ago" in world.state().words


@pytest.mark.costly
def test_when_trust_ends_one_sweep_of_everything_starts_at_once(world: World) -> None:
    world.pass_minutes(1)
    world.delivers = False
    before = len(world.sweeps)

    world.pass_minutes(8)

    assert [sweep_record.size_of(sweep) for sweep in world.sweeps[before:]] == [len(world.names)]


@pytest.mark.costly
def test_drift_behind_a_proven_feed_is_corrected_by_its_event(world: World) -> None:
    drift(world.sandbox, world.names[:1])

    world.receive()

    assert policies(world.sandbox, world.names) == len(world.names)
    world.pass_minutes(20)
    assert world.state().trusted, world.state().words


@pytest.mark.costly
def test_a_feed_that_comes_back_is_trusted_after_an_interval_and_everything_was_read_since(world: World) -> None:
    world.delivers = False
    world.pass_minutes(70)
    drift(world.sandbox, world.names)
    world.receive()  # the events of the drift are lost
    world.delivers = True

    world.pass_minutes(10)
    assert not world.state().trusted
    world.pass_minutes(20)

    assert world.state().trusted
    assert policies(world.sandbox, world.names) == len(world.names)


@pytest.mark.costly
def test_a_write_whose_event_does_not_come_is_a_gap_and_its_late_event_closes_it(world: World) -> None:
    written_at = clock.now()
    Repository.objects.filter(name=world.names[0]).update(written_at=written_at)
    world.pass_minutes(4)
    assert world.state().trusted

    world.pass_minutes(2)

    assert not world.state().trusted
    assert f"The event of our write to {world.names[0]}" in world.state().words
    row = Repository.objects.get(name=world.names[0])
    assert row.written_at is not None
    own = event("SetRepositoryPolicy", row.name, userAgent="x registry-admin", eventTime=row.written_at.isoformat())
    change_events.handle(configuration=world.configuration, messages=[message(own)])
    assert world.state().trusted, world.state().words


@pytest.mark.costly
def test_a_gap_counts_for_a_full_pass(world: World) -> None:
    Repository.objects.filter(name=world.names[0]).update(written_at=Now())

    world.pass_minutes(6 * 60 - 4, step=4)
    assert not world.state().trusted
    world.pass_minutes(8, step=4)
    assert world.state().trusted


def test_a_read_of_another_program_proves_nothing(configuration: Configuration, sandbox: Sandbox) -> None:
    foreign = event(change_feed.PROOF, "", requestParameters=None)

    change_events.handle(configuration=configuration, messages=[message(foreign)])

    assert not ChangeFeed.objects.exists()


def test_a_refused_read_is_a_proof_too_and_its_time_is_never_in_the_future(
    configuration: Configuration, sandbox: Sandbox
) -> None:
    refused = event(
        change_feed.PROOF, "", requestParameters=None, userAgent="registry-admin", errorCode="RegistryPolicyNotFound"
    )

    done = change_events.handle(configuration=configuration, messages=[message(refused)])

    assert len(done) == 1
    row = ChangeFeed.objects.get()
    assert (row.account, row.region) == (OWNER, "us-east-1")
    assert row.proven_at == row.arrived_at <= clock.now()


def test_of_two_events_processes_one_asks(configuration: Configuration, sandbox: Sandbox) -> None:
    where = {"account": OWNER, "region": "us-east-1"}
    change_feed.read_returned(**where, at=clock.now(), interval=INTERVAL)

    assert [change_feed.proof_is_due(**where, interval=INTERVAL) for _ in range(2)] == [True, False]
    advance(MINUTE)
    assert change_feed.proof_is_due(**where, interval=INTERVAL)
    assert not change_feed.proof_is_due(**where, interval=timedelta())


@pytest.mark.parametrize(("minutes", "seconds"), [(10, 300), (2, 60), (60, 900), (7 * 24 * 60, 900), (0, 900)])
def test_a_feed_is_silent_after_half_an_interval_and_at_most_fifteen_minutes(minutes: int, seconds: int) -> None:
    assert change_feed.silent_after(timedelta(minutes=minutes)) == timedelta(seconds=seconds)


# ---------------------------------------------------------------------------------------------------------------- share


@pytest.mark.costly
@pytest.mark.parametrize(
    "values",
    [
        {"status": RepositoryStatus.DRIFTED},
        {"status": RepositoryStatus.FAILED, "last_error": "AWS said no."},
        {"status": RepositoryStatus.PENDING},
        {"checked_digest": ""},  # as after a roll-out has pinned another version of the policy
        {"checked_digest": "of an earlier configuration"},
        {"details_checked_at": None},
        {"last_checked_at": None},
        {"incomparable_since": Now()},
        {"mutability": {"mode": "MUTABLE"}},
        {"last_checked_at": Now() - timedelta(hours=5.7)},
        {"details_checked_at": Now() - timedelta(hours=5.7)},
    ],
    ids=str,
)
def test_a_repository_that_is_not_known_to_be_in_sync_is_read_beside_a_trusted_feed(
    world: World, values: dict[str, object]
) -> None:
    row = Repository.objects.get(name=world.names[3])
    world.sweep()
    assert sweep_record.size_of(world.sweeps[-1]) <= 1
    Repository.objects.filter(pk=row.pk).update(**values)

    [target] = targets.configured(world.configuration)
    ids = change_feed.to_read(
        Repository.objects.all(),
        feed=world.state(),
        config=target.config,
        desired_digest=world.configuration.desired_digest,
        known_from=clock.now() - timedelta(hours=1),
    )

    assert row.pk in list(ids)


@pytest.mark.costly
def test_a_changed_configuration_is_compared_with_every_repository(world: World) -> None:
    [target] = targets.configured(world.configuration)
    ids = change_feed.to_read(
        Repository.objects.all(),
        feed=world.state(),
        config=target.config,
        desired_digest=world.configuration.desired_digest,
        known_from=clock.now(),
    )

    assert len(list(ids)) == len(world.names)


@pytest.mark.costly
def test_an_image_that_cannot_be_pulled_or_was_never_looked_at_is_looked_at_by_every_sweep(world: World) -> None:
    with_images(world)
    ImageState.objects.all().delete()  # as long as neither an event nor a sweep has looked at a new image
    world.sweep()
    assert world.sweeps[-1].spared == 0
    world.sandbox.reset_calls()
    world.sweep()
    assert calls(world.sandbox).get("DescribeImages", 0) <= 1

    ImageState.objects.filter(repository__name=world.names[2]).update(state="missing", image="missing")
    world.sandbox.reset_calls()
    world.sweep()

    assert calls(world.sandbox)["DescribeImages"] >= 1
    assert ImageState.objects.get(repository__name=world.names[2]).state == "runnable"


@pytest.mark.costly
@pytest.mark.parametrize("trigger", [SweepTrigger.PERSON, SweepTrigger.COMMAND])
def test_a_persons_sweep_reads_everything(world: World, trigger: SweepTrigger) -> None:
    sweep = sweep_all(world.configuration, trigger=trigger)

    assert (sweep_record.size_of(sweep), sweep.spared) == (8, 0)
    assert calls(world.sandbox)["GetLifecyclePolicy"] == 8


@pytest.mark.costly
def test_a_repository_that_is_gone_is_missing_at_the_next_sweep_also_without_its_event(world: World) -> None:
    world.sandbox.client("ecr").delete_repository(repositoryName=world.names[0], force=True)
    while messages := world.queue.receive():
        world.queue.delete(messages)

    world.sweep()

    assert Repository.objects.get(name=world.names[0]).status == RepositoryStatus.MISSING


@pytest.mark.costly
def test_the_share_of_the_last_sweep_is_known(world: World) -> None:
    sweep = world.sweep()

    assert sweep_record.last_share() == (sweep_record.size_of(sweep), 8)
    assert sweep.spared == 8 - sweep_record.size_of(sweep) >= 6


def test_a_sweeps_own_read_of_the_registry_policy_is_a_proof(configuration: Configuration, sandbox: Sandbox) -> None:
    world = world_of(configuration, sandbox, 1)
    [target] = targets.configured(configuration)

    registry_policies.look(target.ecr())
    world.receive()

    assert ChangeFeed.objects.count() == 1


@pytest.mark.costly
def test_the_metrics_and_the_doctor_say_whether_it_is_trusted_why_and_what_is_read(world: World, settings: Any) -> None:
    queue = "https://sqs.us-east-1.amazonaws.com/111111111111/q"
    settings.CONFIGURATION = configuration = replace(world.configuration, events_queue_url=queue)
    labels = {"account": OWNER, "region": "us-east-1"}

    def said() -> tuple[float, str, str]:
        found = {sample.name: sample for sample in metrics.samples() if sample.labels in ({}, labels)}
        what = f"Change feed of {OWNER}, us-east-1"
        [line] = [each for each in doctor.examine(configuration=configuration, offline=True).lines if each.what == what]
        assert 0 <= found["sweep_share"].value <= 1
        assert found["change_feed_delay_seconds"].value >= 0
        return found["change_feed_trusted"].value, str(line.level), line.says

    trusted, level, words = said()
    assert (trusted, level) == (1, "ok")
    assert "Trusted: the newest own read whose event came is less than 5 minutes old" in words
    assert "of 8 repositories" in words

    advance(timedelta(minutes=6))
    trusted, level, words = said()
    assert (trusted, level) == (0, "warn")
    assert "Not trusted, so every sweep reads every repository: the last own read whose event came was made at" in words
