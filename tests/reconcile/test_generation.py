"""Which configuration counts, decided in rows: registering, ranking, activating, going back, and acting on the row."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import IntegrityError, connection, connections
from django.test import Client
from django.utils import timezone

from deployments.aws import ecr, partitions
from deployments.config import Access, Configuration
from deployments.deploys import lifecycle
from deployments.errors import Refusal, RegistryError
from deployments.models import (
    ActivationCause,
    AuditEntry,
    ConfigurationActivation,
    ConfigurationGeneration,
    DesiredState,
    Environment,
    PolicyText,
    Process,
    ProcessRole,
    Repository,
    RepositoryEvent,
    RepositoryStatus,
    SweepStatus,
    SweepTrigger,
)
from deployments.reconcile import change_events, generation, put_back, repositories, sweep_record, sweeps
from deployments.settings_table import DEFAULT_LIFECYCLE_POLICY
from sandbox.control import Sandbox
from tests.support.constants import CLUSTER, HOST, POLICY, TRAIL

Configure = Callable[..., Configuration]
OTHER = "333333333333"
RESTART_TAKES_AT_MOST = generation.RESTART_TAKES_AT_MOST
BOTH = POLICY.replace(f'"{CLUSTER}"', f'["{CLUSTER}", "{OTHER}"]')


@pytest.fixture(autouse=True)
def fresh(transactional_db: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(generation, "RESTART_TAKES_AT_MOST", timedelta(0))  # as if all had ended, and started, long ago
    generation.held = None
    yield
    generation.held = None


def given(configure: Configure, policy: str = POLICY, **variables: str) -> Configuration:
    return configure(DEPLOY_REGISTRY_HOST=HOST, DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY=policy, **variables)


def register(configuration: Configuration, role: ProcessRole = ProcessRole.WEB) -> ConfigurationGeneration:
    return generation.register(configuration, role=role)


def counts() -> ConfigurationGeneration:
    current = generation.counting()
    assert current is not None
    return current.configuration


def process(row: ConfigurationGeneration, host: str, **values: Any) -> Process:
    return Process.objects.create(role=ProcessRole.WEB, host=host, pid=1, configuration=row, **values)


def end(*processes: Process) -> None:
    Process.objects.filter(pk__in=[each.pk for each in processes]).update(ended_at=timezone.now())


# ---------------------------------------------------------------------------------------------------------- ranking


def test_what_was_first_seen_last_counts_and_a_restart_with_the_older_one_changes_nothing(
    configure: Configure,
) -> None:
    older, newer = given(configure), given(configure, BOTH)
    register(older)
    row = register(newer)
    for _ in range(3):
        register(older)
        register(older, ProcessRole.WORKER)

    assert counts() == row
    assert ConfigurationActivation.objects.count() == 2
    assert ConfigurationGeneration.objects.count() == 2


def test_a_higher_generation_counts_whenever_it_is_started_and_a_lower_one_never_does(configure: Configure) -> None:
    register(given(configure, DEPLOY_REGISTRY_ECR_TAGS="a=0"))  # without a generation
    fifth = register(given(configure, CONFIGURATION_GENERATION="5"))
    assert counts() == fifth
    register(given(configure, DEPLOY_REGISTRY_ECR_TAGS="a=4", CONFIGURATION_GENERATION="4"))
    register(given(configure, DEPLOY_REGISTRY_ECR_TAGS="a=none"))
    assert counts() == fifth

    back = register(given(configure, DEPLOY_REGISTRY_ECR_TAGS="a=0", CONFIGURATION_GENERATION="6"))

    assert counts() == back


def test_of_two_different_ones_with_one_generation_the_first_seen_counts_and_an_alarm_names_what_differs(
    configure: Configure,
) -> None:
    first = register(given(configure, DEPLOY_REGISTRY_ECR_TAGS="team=a", CONFIGURATION_GENERATION="5"))
    second = register(given(configure, DEPLOY_REGISTRY_ECR_TAGS="team=b", CONFIGURATION_GENERATION="5"))
    process(first, "one")
    process(second, "two")

    assert counts() == first
    [alarm] = generation.alarms()
    assert alarm.code == "conflict"
    assert "Generation 5" in alarm.words
    assert "web on two" in alarm.words
    assert "DEPLOY_REGISTRY_ECR_TAGS: team=b instead of team=a." in alarm.words


def test_two_that_register_at_once_are_ranked_one_after_the_other(configure: Configure) -> None:
    first = register(given(configure, CONFIGURATION_GENERATION="1"))
    taken = ConfigurationActivation.objects.get()

    with pytest.raises(IntegrityError):
        ConfigurationActivation.objects.create(
            configuration=first, follows=taken.follows, cause=ActivationCause.STARTED, by="x"
        )


def test_a_registration_that_loses_the_race_decides_again(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(given(configure, DEPLOY_REGISTRY_ECR_TAGS="a=1", CONFIGURATION_GENERATION="1"))
    activate = generation._activate
    lost: list[ConfigurationGeneration] = []

    def late(row: ConfigurationGeneration, **values: Any) -> None:
        if not lost:
            lost.append(row)
            raise IntegrityError("somebody was faster")
        activate(row, **values)

    monkeypatch.setattr(generation, "_activate", late)
    row = register(given(configure, DEPLOY_REGISTRY_ECR_TAGS="a=2", CONFIGURATION_GENERATION="2"))

    assert counts() == row
    assert ConfigurationGeneration.objects.count() == 2


def test_the_row_holds_no_secret_and_the_policy_text_is_stored_once(configure: Configure) -> None:
    secret = {
        "DEPLOY_REGISTRY_PASSWORD": "hunter2-hunter2",
        "DEPLOY_REGISTRY_ECR_ASSUME_ROLE_EXTERNAL_ID": "external-secret",
        "DEPLOY_REGISTRY_ECR_ASSUME_ROLE_ARN": "arn:aws:iam::111111111111:role/registry-admin",
    }
    register(given(configure, **secret))
    register(given(configure, DEPLOY_REGISTRY_ECR_TAGS="a=1", **secret))

    assert PolicyText.objects.get().text == POLICY
    stored = json.dumps(list(ConfigurationGeneration.objects.values_list("content", "first_seen_by")))
    assert all(value not in stored for value in secret.values())


@pytest.mark.parametrize(
    "changed",
    [
        {"DEPLOY_REGISTRY_ECR_POLICY_MODE": "observe"},
        {"DEPLOY_REGISTRY_ECR_TAGS": "a=1"},
        {"DEPLOY_REGISTRY_ECR_KMS_KEY": "alias/other"},
        {"DEPLOY_REGISTRY_ECR_CONSUMER_ACCOUNTS": CLUSTER},
        {"DEPLOY_REGISTRY_ECR_ALLOW_PUBLIC_POLICY": "1"},
        {"DEPLOY_REGISTRY_NAMESPACE": "other"},
        {"V4_DEPLOY_REGISTRY_NAMESPACE": "other"},
        {"V4_DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY": BOTH, "V4_DEPLOY_REGISTRY_NAMESPACE": "v4"},
        {"DEPLOY_REGISTRY_ECR_LIFECYCLE_POLICY": DEFAULT_LIFECYCLE_POLICY.replace("3 days", "three days")},
    ],
    ids=lambda changed: "+".join(changed),
)
def test_every_setting_of_the_desired_state_is_part_of_the_configuration(
    configure: Configure, changed: dict[str, str]
) -> None:
    base = register(given(configure))
    other = given(configure, **changed)
    row = register(other)
    given(configure)

    assert row.digest != base.digest
    used = generation.in_force(given(configure, **{k: v for k, v in changed.items() if "PUBLIC" in k}))
    assert used.desired_digest == other.desired_digest
    assert used.plain.consumer_accounts == other.plain.consumer_accounts
    assert used.allow_public_policy == other.allow_public_policy
    assert generation.differences(base, row)


def test_credentials_roles_and_time_limits_are_the_processs_own(configure: Configure) -> None:
    register(given(configure, BOTH, DEPLOY_REGISTRY_ECR_ASSUME_ROLE_ARN="arn:aws:iam::111111111111:role/theirs"))
    own = given(
        configure, DEPLOY_REGISTRY_ECR_ASSUME_ROLE_ARN="arn:aws:iam::111111111111:role/mine", DEPLOY_TIMEOUT_MS="1000"
    )

    used = generation.in_force(own)

    assert used.v4.default_repository_policy == BOTH
    assert used.v4.assume_role_arn == "arn:aws:iam::111111111111:role/mine"
    assert used.deploy_timeout == timedelta(seconds=1)


def test_each_activation_is_written_for_version_0_1_0_too(configure: Configure) -> None:
    older, newer = given(configure), given(configure, BOTH)
    register(older)
    register(newer)
    generation.activate(row=generation.find(_digest_of(older)), trail=TRAIL, reason="")

    told = list(DesiredState.objects.order_by("id").values_list("digest", flat=True))
    assert told == [older.desired_digest, newer.desired_digest, older.desired_digest]


def _digest_of(configuration: Configuration) -> str:
    content = generation._content(configuration)
    texts = [configuration.plain.default_repository_policy, configuration.v4.default_repository_policy]
    return generation._digest(content, texts)


# ------------------------------------------------------------------------------------------------- what is acted on


def test_a_process_with_older_settings_makes_a_new_repository_by_the_configuration_that_counts(
    environment: Environment, configure: Configure, sandbox: Sandbox
) -> None:
    register(given(configure))
    register(given(configure, BOTH, DEPLOY_REGISTRY_ECR_TAGS="team=new"))
    older = given(configure)

    lifecycle.create_deployment(
        environment=environment, configuration=older, content_hash="h", type="MANAGED", trail=TRAIL
    )

    row = Repository.objects.get()
    assert _pullers(sandbox, row) == {CLUSTER, OTHER}
    assert (row.status, row.tags) == (RepositoryStatus.IN_SYNC, {"team": "new"})


@pytest.mark.costly
def test_a_worker_with_older_settings_converges_to_the_configuration_that_counts_and_writes_once(
    environment: Environment, configure: Configure, sandbox: Sandbox
) -> None:
    older = given(configure)
    register(older)
    lifecycle.create_deployment(
        environment=environment, configuration=older, content_hash="h", type="MANAGED", trail=TRAIL
    )
    register(given(configure, BOTH))
    sandbox.reset_calls()

    for _ in range(2):
        sweep_record.start(trigger=SweepTrigger.PERSON)
        while sweeps.work(configuration=older, seconds=10):
            pass

    assert _pullers(sandbox, Repository.objects.get()) == {CLUSTER, OTHER}
    assert _calls(sandbox)["SetRepositoryPolicy"] == 1


def test_a_configuration_that_changes_while_a_deploy_waits_for_the_lease_is_used_by_it(
    environment: Environment, configure: Configure, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = given(configure)
    register(older)
    claim = repositories.claim
    changed: list[ConfigurationGeneration] = []

    def late(row: Repository) -> Any:
        if not changed:
            changed.append(register(given(configure, BOTH)))
        return claim(row)

    monkeypatch.setattr(repositories, "claim", late)
    lifecycle.create_deployment(
        environment=environment, configuration=older, content_hash="h", type="MANAGED", trail=TRAIL
    )

    assert _pullers(sandbox, Repository.objects.get()) == {CLUSTER, OTHER}
    assert _calls(sandbox)["SetRepositoryPolicy"] == 1
    assert Repository.objects.get().lease_until is None


@pytest.mark.costly
def test_a_configuration_that_changes_between_look_and_write_stops_the_write(
    environment: Environment, configure: Configure, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = given(configure)
    register(older)
    lifecycle.create_deployment(
        environment=environment, configuration=older, content_hash="h", type="MANAGED", trail=TRAIL
    )
    row = Repository.objects.get()
    sandbox.client("ecr").delete_repository_policy(repositoryName=row.name)
    observation = ecr.Ecr.observe

    def late(self: ecr.Ecr, name: str, *, details: bool) -> Any:
        seen = observation(self, name, details=details)
        register(given(configure, BOTH))
        return seen

    monkeypatch.setattr(ecr.Ecr, "observe", late)
    sandbox.reset_calls()
    result = _reconcile(row, older, activation=generation.newest() or 0)

    assert result is not None
    assert result.error is not None
    assert result.error.code == "ConfigurationChanged"
    assert "SetRepositoryPolicy" not in _calls(sandbox)


@pytest.mark.costly
def test_a_change_event_is_acted_on_by_the_configuration_that_counts(
    environment: Environment, configure: Configure, sandbox: Sandbox
) -> None:
    older = given(configure)
    register(older)
    lifecycle.create_deployment(
        environment=environment, configuration=older, content_hash="h", type="MANAGED", trail=TRAIL
    )
    row = Repository.objects.get()
    register(given(configure, BOTH))
    change = change_events.ChangeEvent(
        operation="SetRepositoryPolicy", account=row.account, region=row.region, name=row.name,
        at=timezone.now() + timedelta(minutes=1), made_by_us=False,
    )  # fmt: skip

    assert change_events._check(older, row.account, row.region, row.name, [change]) is None

    assert _pullers(sandbox, row) == {CLUSTER, OTHER}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"surprise": 1}, "Version 9.9.9 wrote it, and this is version .*, which does not know surprise"),
        ({"v4": {"host": HOST, "namespace": "trigger", "scan": True}}, "does not know v4.scan"),
        (
            {"plain": {"host": "999999999999.dkr.ecr.us-east-1.amazonaws.com", "namespace": "trigger"}},
            "for the registry 999999999999.* do not name",
        ),
    ],
)
def test_a_process_that_cannot_use_what_counts_neither_looks_nor_writes_and_is_not_ready(
    environment: Environment,
    configure: Configure,
    sandbox: Sandbox,
    client: Client,
    content: dict[str, Any],
    words: str,
) -> None:
    own = given(configure)
    lifecycle.create_deployment(
        environment=environment, configuration=own, content_hash="h", type="MANAGED", trail=TRAIL
    )
    row = Repository.objects.get()
    stored = register(own)
    ConfigurationGeneration.objects.filter(pk=stored.pk).update(
        content={**stored.content, **content}, version="9.9.9", digest="f" * 64
    )
    sandbox.reset_calls()

    with pytest.raises(Refusal, match=words) as refused:
        lifecycle.create_deployment(
            environment=environment, configuration=own, content_hash="h", type="MANAGED", trail=TRAIL
        )
    assert (refused.value.code, refused.value.retryable) == ("OutdatedConfiguration", True)
    sweep = sweep_record.start(trigger=SweepTrigger.PERSON)
    assert sweep is not None
    assert not sweeps.work(configuration=own, seconds=5)
    with pytest.raises(RegistryError, match=words):
        change_events._check(own, row.account, row.region, row.name, [])
    with pytest.raises(Refusal, match=words):
        put_back.put_back(
            event=RepositoryEvent(repository=row, policy_before=POLICY), configuration=own, by="me", trail=TRAIL
        )
    with pytest.raises(CommandError, match=words):
        call_command("reconcile", "--all")
    sweep.refresh_from_db()
    assert sweep.status == SweepStatus.RUNNING
    answer = client.get("/readyz")

    assert _calls(sandbox) == {}
    assert answer.status_code == 503
    assert answer.json()["ready"] is False
    for text in (sweep.error, answer.json()["reason"]):
        assert text.startswith("This process cannot use the configuration that counts.")


def test_a_row_that_this_processs_own_settings_refuse_is_not_acted_on(configure: Configure) -> None:
    public = POLICY.replace(CLUSTER, "*")
    register(given(configure, public, DEPLOY_REGISTRY_ECR_ALLOW_PUBLIC_POLICY="1"))

    with pytest.raises(RegistryError, match=r"settings refuse its policy \(deployments\.E110\)"):
        generation.in_force(given(configure))

    allowing = given(configure, DEPLOY_REGISTRY_ECR_ALLOW_PUBLIC_POLICY="1")
    assert generation.in_force(allowing).v4.default_repository_policy == public


def test_a_process_that_holds_an_older_one_is_ready_and_says_what_it_holds_and_what_counts(
    configure: Configure, client: Client
) -> None:
    newer = register(given(configure, BOTH))
    older = register(given(configure))
    generation.activate(row=newer, trail=TRAIL, reason="")

    answer = client.get("/readyz")

    assert answer.status_code == 200
    assert answer.json() == {"ready": True, "held": older.digest[:12], "counts": newer.digest[:12]}


def test_what_is_in_force_costs_one_query_a_call(configure: Configure) -> None:
    own = given(configure)
    register(own)
    generation.in_force(own)
    from django.test.utils import CaptureQueriesContext

    with CaptureQueriesContext(
        connection,
    ) as queries:
        generation.in_force(own)

    assert len(queries) == 1


# ------------------------------------------------------------------------------------------------------ going back


def test_it_goes_back_by_itself_when_every_holder_ended_or_was_started_again_with_the_older_one(
    configure: Configure,
) -> None:
    older, newer = register(given(configure)), register(given(configure, DEPLOY_REGISTRY_ECR_TAGS="a=2"))
    killed = timezone.now() - timedelta(minutes=1)
    ended, again = process(newer, "one"), process(newer, "two", started_at=killed, beat_at=killed)
    end(ended)
    process(older, "two")

    assert generation.settle()

    assert counts() == older
    assert ConfigurationActivation.objects.first().cause == ActivationCause.WENT_BACK  # type: ignore[union-attr]
    assert not generation.settle()
    assert again.pk


def test_it_does_not_go_back_before_the_first_process_that_was_started_with_the_newer_one_has_its_row(
    configure: Configure,
) -> None:
    older, newer = register(given(configure)), register(given(configure, DEPLOY_REGISTRY_ECR_TAGS="a=2"))
    process(older, "one")  # a rolling update: the first new process has registered, and sends no heartbeat yet

    assert not generation.settle()
    assert counts() == newer


@pytest.mark.parametrize("restart", ["ended", "registered"])
def test_a_restart_of_the_only_process_that_holds_the_newer_one_moves_nothing_beside_a_forgotten_old_one(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, restart: str
) -> None:
    older, newer = register(given(configure)), register(given(configure, DEPLOY_REGISTRY_ECR_TAGS="a=2"))
    process(older, "forgotten")
    ended = process(newer, "one", ended_at=timezone.now())
    monkeypatch.setattr(generation, "RESTART_TAKES_AT_MOST", timedelta(seconds=30))
    long_ago = timezone.now() - timedelta(minutes=1)
    if restart == "ended":
        ConfigurationActivation.objects.update(at=long_ago)
    else:
        Process.objects.filter(pk=ended.pk).update(ended_at=long_ago)

    assert not generation.settle()
    assert [alarm.code for alarm in generation.alarms()] == ["other"]

    ConfigurationActivation.objects.update(at=long_ago)
    Process.objects.filter(pk=ended.pk).update(ended_at=long_ago)
    assert generation.settle()


def test_going_back_never_replaces_what_another_process_activated_meanwhile(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    older, newer = register(given(configure)), register(given(configure, DEPLOY_REGISTRY_ECR_TAGS="a=2"))
    end(process(newer, "one"))
    process(older, "two")

    def meanwhile(*rows: ConfigurationGeneration) -> list[str]:
        register(given(configure, DEPLOY_REGISTRY_ECR_TAGS="a=3", CONFIGURATION_GENERATION="1"))
        return []

    monkeypatch.setattr(generation, "taken_away", meanwhile)

    assert not generation.settle()
    assert counts().generation == 1


@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has one writer at a time")
def test_of_two_that_register_at_once_the_higher_generation_counts(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(given(configure))
    ranked = generation._outranks

    def slowly(row: ConfigurationGeneration) -> bool:
        answer = ranked(row)
        if row.generation == 5:
            monkeypatch.setattr(generation, "_outranks", ranked)
            seventh = given(configure, DEPLOY_REGISTRY_ECR_TAGS="a=7", CONFIGURATION_GENERATION="7")
            with ThreadPoolExecutor(max_workers=1) as pool:
                pool.submit(register, seventh).result(20)
                pool.submit(connections.close_all).result(20)
        return answer

    monkeypatch.setattr(generation, "_outranks", slowly)
    register(given(configure, DEPLOY_REGISTRY_ECR_TAGS="a=5", CONFIGURATION_GENERATION="5"))

    assert counts().generation == 7


@pytest.mark.parametrize(
    "still",
    [
        "a holder was killed",
        "a holder runs",
        "another host was started",
        "another role was started",
        "earlier start",
        "started with a third one",
    ],
)
def test_it_does_not_go_back_by_itself_otherwise(configure: Configure, still: str) -> None:
    third = register(given(configure, DEPLOY_REGISTRY_ECR_TAGS="a=3"))
    older, newer = register(given(configure)), register(given(configure, DEPLOY_REGISTRY_ECR_TAGS="a=2"))
    old = timezone.now() - timedelta(hours=1)
    match still:
        case "a holder was killed":
            process(newer, "one", beat_at=old)
            process(older, "two")
        case "a holder runs":
            process(newer, "one")
            process(older, "two")
        case "another host was started":
            process(newer, "one", beat_at=old)
            process(older, "two", started_at=timezone.now())
        case "another role was started":
            process(newer, "one", beat_at=old, started_at=old)
            Process.objects.create(role=ProcessRole.WORKER, host="one", pid=1, configuration=older)
        case "earlier start":
            process(newer, "one", beat_at=old)
            process(older, "one", started_at=old)
        case "started with a third one":
            process(newer, "one", beat_at=old, started_at=old)
            end(process(third, "one"))
            process(older, "two")

    assert not generation.settle()
    assert counts() == newer


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ({"policy": BOTH}, {}, f"account {OTHER} loses pull"),
        (
            {"DEPLOY_REGISTRY_ECR_POLICY_MODE": "observe"},
            {},
            "enforces the policy, and the newer configuration only observes",
        ),
        ({"DEPLOY_REGISTRY_NAMESPACE": "new"}, {}, "trigger instead of"),
        ({"policy": ""}, {}, "has a default repository policy, and the newer configuration has none"),
    ],
)
def test_it_never_goes_back_by_itself_where_that_could_take_access_away_and_the_alarm_names_the_command(
    configure: Configure, before: dict[str, str], after: dict[str, str], words: str
) -> None:
    older, newer = register(given(configure, **after)), register(given(configure, **before))
    end(process(newer, "one"))
    process(older, "one")

    assert not generation.settle()

    assert counts() == newer
    [alarm] = generation.alarms()
    assert alarm.code == "unheld"
    assert words in alarm.words
    assert alarm.then.endswith(f"manage.py configuration activate {older.digest[:12]}")


def test_what_a_person_activated_is_never_taken_back_by_itself(configure: Configure) -> None:
    older, newer = register(given(configure)), register(given(configure, DEPLOY_REGISTRY_ECR_TAGS="a=2"))
    end(process(older, "one"))
    process(newer, "one")
    generation.activate(row=older, trail=TRAIL, reason="the new tags were wrong")

    assert not generation.settle()
    assert counts() == older
    [alarm] = generation.alarms()
    assert "Nothing changes by itself. A person activated it." in alarm.words
    assert "older" not in alarm.then
    third = register(given(configure, DEPLOY_REGISTRY_ECR_TAGS="a=3"))
    assert counts() == third


def test_a_process_that_was_given_other_settings_is_named_with_what_differs(configure: Configure) -> None:
    older, newer = register(given(configure)), register(given(configure, BOTH))
    process(newer, "one")
    process(older, "forgotten")

    [alarm] = generation.alarms()

    assert alarm.code == "other"
    assert "web on forgotten" in alarm.words
    assert f"account {OTHER} loses pull" in alarm.words


def test_rows_of_processes_that_held_what_counts_are_not_forgotten(configure: Configure) -> None:
    older, newer = register(given(configure)), register(given(configure, BOTH))
    old = timezone.now() - timedelta(days=3)
    kept = process(newer, "killed", beat_at=old)
    process(older, "old", beat_at=old)
    Process.objects.create(role=ProcessRole.TASK, host="x", pid=2, beat_at=old)

    end(process(newer, "ended long ago", beat_at=old))
    last = process(newer, "the last to end", beat_at=old)
    end(last)

    generation.forget_old(kept=timedelta(days=1))

    assert list(Process.objects.order_by("pk")) == [kept, last]


# ------------------------------------------------------------------------------------------------------- commands


def test_activate_takes_the_beginning_of_a_digest_and_leaves_an_audit_line(
    configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    older, newer = register(given(configure)), register(given(configure, BOTH))
    call_command("configuration", "list")
    listed = capsys.readouterr().out
    assert f"{newer.digest[:12]}  COUNTS" in listed
    assert f"account {OTHER} loses pull" in listed

    call_command("configuration", "activate", older.digest[:8], "--reason", "wrong account")

    assert counts() == older
    entry = AuditEntry.objects.get(action="activate.configuration")
    assert entry.after == {"digest": older.digest[:12], "reason": "wrong account"}
    with pytest.raises(CommandError, match="There is no configuration"):
        call_command("configuration", "activate", "zzzz")


@pytest.mark.costly
def test_an_activation_whose_audit_line_fails_does_not_happen(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    older, newer = register(given(configure)), register(given(configure, BOTH))

    def broken(**values: Any) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr("deployments.access.audit.record", broken)
    with pytest.raises(RuntimeError):
        call_command("configuration", "activate", older.digest[:8])

    assert counts() == newer


@pytest.mark.costly
def test_a_command_in_a_shell_with_other_settings_uses_what_counts_and_says_so(
    environment: Environment, configure: Configure, sandbox: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    older = given(configure)
    lifecycle.create_deployment(
        environment=environment, configuration=older, content_hash="h", type="MANAGED", trail=TRAIL
    )
    register(given(configure, BOTH))
    given(configure)

    call_command("reconcile", "--all")

    assert "are not the configuration that counts" in capsys.readouterr().err
    assert _pullers(sandbox, Repository.objects.get()) == {CLUSTER, OTHER}


# ------------------------------------------------------------------------------------------------------------ tools


def _pullers(sandbox: Sandbox, row: Repository) -> set[str]:
    """The accounts that the live policy names."""
    text = sandbox.client("ecr").get_repository_policy(repositoryName=row.name)["policyText"]
    return set(re.findall(r"\d{12}", text))


def _calls(sandbox: Sandbox) -> dict[str, int]:
    return {name.removeprefix("ecr:"): count for name, count in sandbox.calls().items() if name.startswith("ecr:")}


def _reconcile(row: Repository, configuration: Configuration, *, activation: int) -> repositories.Converged | None:
    registry = partitions.registry_of(HOST)
    assert registry is not None
    row.refresh_from_db()
    return repositories.reconcile(
        row=row,
        ecr=ecr.Ecr(registry=registry, access=Access()),
        config=configuration.v4,
        desired_digest=configuration.desired_digest,
        cause="event",
        enforce=True,
        activation=activation,
    )


@pytest.mark.parametrize(("seconds", "goes_back"), [(25, False), (35, True)])
@pytest.mark.parametrize("what", ["the newer one was registered", "a process that held the newer one ended"])
def test_it_goes_back_when_nothing_of_the_newer_one_has_started_or_ended_for_thirty_seconds(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, what: str, seconds: int, goes_back: bool
) -> None:
    monkeypatch.setattr(generation, "RESTART_TAKES_AT_MOST", RESTART_TAKES_AT_MOST)
    older, newer = register(given(configure)), register(given(configure, DEPLOY_REGISTRY_ECR_TAGS="a=2"))
    at, long_ago = (timezone.now() - timedelta(seconds=each) for each in (seconds, 3600))
    registered = what == "the newer one was registered"
    ConfigurationActivation.objects.update(at=at if registered else long_ago)
    Process.objects.filter(pk=process(newer, "one").pk).update(ended_at=long_ago if registered else at)
    process(older, "one")

    assert generation.settle() is goes_back


def test_a_configuration_is_found_by_the_beginning_of_its_digest_if_that_is_only_one(configure: Configure) -> None:
    first = register(given(configure, CONFIGURATION_GENERATION="1"))
    again = register(given(configure, CONFIGURATION_GENERATION="2"))
    other = register(given(configure, DEPLOY_REGISTRY_ECR_TAGS="a=2"))
    assert first.digest == again.digest != other.digest

    assert generation.find(first.digest[:12].upper()) == again
    for digest in ("", "zz"):
        with pytest.raises(ValueError, match="There is no configuration"):
            generation.find(digest)
    ConfigurationGeneration.objects.filter(pk=other.pk).update(digest=f"{first.digest[:12]}{'0' * 52}")
    with pytest.raises(ValueError, match="Give more characters"):
        generation.find(first.digest[:12])


def test_the_processes_of_a_workers_cluster_hold_no_configuration_of_their_own(configure: Configure) -> None:
    row = register(given(configure))
    Process.objects.create(role=ProcessRole.TASK, host="one", pid=2, configuration=row)

    web = process(row, "one")

    assert list(generation.running()) == [web]
