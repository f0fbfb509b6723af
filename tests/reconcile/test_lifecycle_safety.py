"""A lifecycle policy takes no image away that is current or a roll-back target. Calls to AWS are counted."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import connections
from django.db.models.functions import Now
from django.utils import timezone

from deployments import ecr_rules
from deployments.config import Configuration
from deployments.errors import registry_error
from deployments.models import (
    Deployment,
    DeploymentStatus,
    Environment,
    Promotion,
    Repository,
    RepositoryStatus,
    SweepTrigger,
    WritesPause,
)
from deployments.reconcile import lifecycle_safety, repositories, targets
from deployments.reconcile.repositories import RepositoryLease
from sandbox import images
from sandbox.control import Sandbox
from tests.support.constants import HOST, OWNER, POLICY
from tests.support.deploys import deploying, ensure, finalize, push
from tests.support.registry import drift, new_calls
from tests.support.sweeps import sweep_all

pytestmark = pytest.mark.django_db(transaction=True)
Configure = Callable[..., Configuration]

DAY = "20260101"
PREVIEWS = ("StartLifecyclePolicyPreview", "GetLifecyclePolicyPreview")


def rule(number: int = 1, *, count: int = 10, action: Any = None, **selection: Any) -> dict[str, Any]:
    chosen = {"tagStatus": "any", "countType": "imageCountMoreThan", "countNumber": count, **selection}
    return {"rulePriority": number, "selection": chosen, "action": action or {"type": "expire"}}


def text(*rules: dict[str, Any]) -> str:
    return json.dumps({"rules": rules or (rule(),)}).ljust(100)


@dataclass(kw_only=True)
class Shop:
    """A repository with a deploy a minute, and the settings about it."""

    configure: Configure
    sandbox: Sandbox
    environment: Environment
    configuration: Configuration
    digests: dict[str, str] = field(default_factory=dict)  # version → digest

    @property
    def row(self) -> Repository:
        return Repository.objects.get()

    @property
    def ecr(self) -> Any:
        return self.sandbox.client("ecr")

    @property
    def lifecycle(self) -> str:
        """The live lifecycle policy."""
        return str(self.ecr.get_lifecycle_policy(repositoryName=self.row.name)["lifecyclePolicyText"])

    def change(self, lifecycle: str | None = None, **more: str) -> Configuration:
        """Change the settings, and return them."""
        given = {"DEPLOY_REGISTRY_ECR_LIFECYCLE_POLICY": lifecycle} if lifecycle else {}
        self.configuration = self.configure(
            DEPLOY_REGISTRY_HOST=HOST, DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY=POLICY, **given, **more
        )
        return self.configuration

    def deploy(self, number: int, environment: Environment | None = None) -> Deployment:
        """Push an image and make its deployment, as if a deploy had."""
        environment, row = environment or self.environment, self.row
        tag = f"{DAY}.{number}.{environment.slug}.{number:08}"
        image = images.build(tag)
        with images.RegistryClient(self.sandbox.url, *self.sandbox.login()) as client:
            client.push(image, row.name, tag)
        self.sandbox.advance(60)
        self.digests[f"{DAY}.{number}"] = image.digest
        return Deployment.objects.create(
            project=environment.project,
            environment=environment,
            repository=row,
            content_hash="c",
            status=DeploymentStatus.DEPLOYED,
            deployed_at=Now(),
            version_day=DAY,
            version_number=number,
            image_ref=f"{HOST}/{row.name}:{tag}",
            image_digest=image.digest,
        )

    def promote(self, number: int, environment: Environment | None = None) -> None:
        environment = environment or self.environment
        deployment = Deployment.objects.get(environment=environment, version_number=number)
        Promotion.objects.update_or_create(environment=environment, defaults={"deployment": deployment})

    def sweep(self, **options: Any) -> dict[str, int]:
        """Sweep, and return the calls that are about lifecycle policies."""
        new_calls(self.sandbox)
        sweep_all(self.configuration, **options)
        return {name: count for name, count in new_calls(self.sandbox).items() if "Lifecycle" in name}

    def left(self) -> set[str]:
        """The versions whose images can be pulled."""
        found = self.ecr.describe_images(repositoryName=self.row.name, filter={"imageStatus": "ACTIVE"})
        there = {each["imageDigest"] for each in found["imageDetails"]}
        return {version for version, digest in self.digests.items() if digest in there}

    def words(self) -> str:
        return " ".join(each.words for each in self.row.differences)

    def versions(self) -> list[str]:
        """The versions that the row names."""
        return [version for version in self.digests if f"version {version} " in self.words()]


@pytest.fixture
def shop(configure: Configure, sandbox: Sandbox, environment: Environment, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """A repository as a deploy makes it. Instead of waiting for a preview, the sandbox's clock is set on."""
    monkeypatch.setattr(lifecycle_safety, "time", SimpleNamespace(sleep=lambda seconds: sandbox.advance(seconds)))
    made = Shop(
        configure=configure,
        sandbox=sandbox,
        environment=environment,
        configuration=configure(DEPLOY_REGISTRY_HOST=HOST, DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY=POLICY),
    )
    ensure(environment.project, made.configuration)
    return made


def with_deploys(shop: Shop, count: int, *, current: int) -> Shop:
    for number in range(1, count + 1):
        shop.deploy(number)
    shop.promote(current)
    return shop


@pytest.mark.costly
def test_thirty_deploys_a_rule_keep_ten_and_the_oldest_current_the_policy_is_not_written_and_the_version_named(
    shop: Shop,
) -> None:
    with_deploys(shop, 30, current=1)
    before = shop.lifecycle
    shop.change(text(rule(count=10)))

    made = shop.sweep()

    assert "PutLifecyclePolicy" not in made
    assert shop.lifecycle == before
    assert shop.versions() == [f"{DAY}.1"]
    assert f"version {DAY}.1 (current in prod, expired by rule 1)" in shop.words()
    assert shop.row.status == RepositoryStatus.DRIFTED
    # At rest: nothing is asked again, and nothing written.
    assert [shop.sweep() for _ in range(3)] == [{}, {}, {}]
    assert shop.versions() == [f"{DAY}.1"]

    assert shop.row.lifecycle_previews
    offered = shop.row.lifecycle_previews["settings"].suggestion
    shop.change(offered)
    assert shop.sweep()["PutLifecyclePolicy"] == 1
    assert shop.row.status == RepositoryStatus.IN_SYNC
    assert shop.sandbox.run_lifecycle(shop.row.name) == 1
    assert shop.left() == {f"{DAY}.1", *(f"{DAY}.{number}" for number in range(21, 31))}


@pytest.mark.costly
def test_roll_back_targets_are_kept_like_the_current_image_and_an_archived_image_is_taken_away_too(shop: Shop) -> None:
    with_deploys(shop, 8, current=4)
    archive = {"type": "transition", "targetStorageClass": "archive"}
    shop.change(text(rule(count=6, action=archive, countType="sinceImagePushed", countUnit="days")))
    shop.sandbox.advance(7 * 24 * 3600)

    shop.sweep()

    assert shop.versions() == [f"{DAY}.{number}" for number in (1, 2, 3, 4)]
    assert f"version {DAY}.3 (a roll-back target in prod, archived by rule 1)" in shop.words()
    assert shop.row.lifecycle_previews
    shop.change(shop.row.lifecycle_previews["settings"].suggestion, ROLLBACK_TARGETS="2")
    assert shop.sweep()["PutLifecyclePolicy"] == 1
    shop.sandbox.run_lifecycle(shop.row.name)
    assert shop.left() == {f"{DAY}.{number}" for number in (1, 2, 3, 4)}


@pytest.mark.costly
def test_a_policy_that_takes_no_kept_image_away_is_written_after_its_preview(shop: Shop) -> None:
    with_deploys(shop, 12, current=12)
    shop.change(text(rule(count=10)))

    made = shop.sweep()

    assert (made["StartLifecyclePolicyPreview"], made["PutLifecyclePolicy"]) == (1, 1)
    asked = [each["operation"] for each in shop.sandbox.journal() if "Lifecycle" in each["operation"]]
    assert asked[asked.index("StartLifecyclePolicyPreview") :][-1] == "PutLifecyclePolicy"
    assert (shop.row.status, shop.row.differences) == (RepositoryStatus.IN_SYNC, [])
    assert not (shop.row.lifecycle_previews or {}).get("settings")


@pytest.mark.costly
def test_a_repository_without_a_promotion_gets_a_changed_policy_without_a_preview(shop: Shop) -> None:
    shop.deploy(1)
    shop.change(text(rule(count=1)))

    made = shop.sweep()

    assert not set(PREVIEWS) & set(made)
    assert made["PutLifecyclePolicy"] == 1


@pytest.mark.costly
@pytest.mark.parametrize("refused", PREVIEWS)
def test_without_the_permission_the_policy_is_not_written_and_the_row_has_the_statement(
    refused: str, shop: Shop
) -> None:
    with_deploys(shop, 2, current=2)
    shop.change(text())
    shop.sandbox.fault("error", f"ecr:{refused}", code="AccessDeniedException")

    assert "PutLifecyclePolicy" not in shop.sweep()

    said = shop.words()
    statement = json.loads(said[said.index("{") : said.rindex("}") + 1])
    assert statement == {
        "Effect": "Allow",
        "Action": [f"ecr:{each}" for each in PREVIEWS],
        "Resource": f"arn:aws:ecr:us-east-1:{OWNER}:repository/trigger/*",
    }
    assert shop.row.status == RepositoryStatus.DRIFTED
    assert [shop.sweep(), shop.sweep()] == [{}, {}]

    shop.sandbox.clear_faults()
    shop.sandbox.advance(5)  # the preview that could not be read has ended
    made = shop.sweep(trigger=SweepTrigger.PERSON, names=[shop.row.name])  # a person's look asks again
    assert made["PutLifecyclePolicy"] == 1


@pytest.mark.costly
def test_a_preview_that_does_not_finish_is_waited_for_once_and_read_by_the_next_sweeps(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle_safety, "PREVIEW_SECONDS", 0.3)
    with_deploys(shop, 2, current=2)
    shop.change(text())
    shop.sandbox.fault("slow_preview", seconds=7200)

    made = shop.sweep()

    assert (made["StartLifecyclePolicyPreview"], "PutLifecyclePolicy" in made) == (1, False)
    assert "AWS has not finished its preview. The next sweep reads it." in shop.words()
    assert [shop.sweep(), shop.sweep()] == [{"GetLifecyclePolicyPreview": 1}] * 2
    shop.sandbox.advance(7300)
    assert shop.sweep() == {"GetLifecyclePolicyPreview": 1, "PutLifecyclePolicy": 1}


@pytest.mark.costly
def test_a_preview_that_failed_or_was_throttled_is_no_yes(shop: Shop) -> None:
    with_deploys(shop, 2, current=2)
    shop.change(text())
    shop.sandbox.fault("throttle", "ecr:StartLifecyclePolicyPreview", rate=0, burst=0)
    assert "PutLifecyclePolicy" not in shop.sweep()
    assert shop.row.status == RepositoryStatus.DRIFTED
    shop.sandbox.clear_faults()
    shop.sandbox.fault("failed_preview", times=1)
    assert "PutLifecyclePolicy" not in shop.sweep()
    assert "AWS's preview failed." in shop.words()

    assert shop.sweep() == {}
    made = shop.sweep(trigger=SweepTrigger.PERSON, names=[shop.row.name])

    assert made["PutLifecyclePolicy"] == 1


@pytest.mark.costly
def test_the_preview_of_somebody_else_is_not_taken_for_ours(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    with_deploys(shop, 12, current=1)
    shop.change(text(rule(count=10)))
    theirs = {"repositoryName": shop.row.name, "lifecyclePolicyText": text(rule(count=100))}
    shop.sandbox.fault("slow_preview", seconds=3600, times=1)
    shop.ecr.start_lifecycle_policy_preview(**theirs)

    assert shop.sweep()["StartLifecyclePolicyPreview"] == 1  # refused: one is running

    assert "AWS makes another preview of this repository now." in shop.words()
    shop.sandbox.advance(3700)
    shop.sweep()
    assert shop.versions() == [f"{DAY}.1"]

    # One that replaces ours while we wait for it.
    shop.promote(2)
    real = shop.sandbox.advance
    sleeps: list[float] = []

    def replaced(seconds: float) -> None:
        real(2)
        if not sleeps:
            shop.ecr.start_lifecycle_policy_preview(**theirs)
        sleeps.append(seconds)

    monkeypatch.setattr(lifecycle_safety, "time", SimpleNamespace(sleep=replaced))
    assert "PutLifecyclePolicy" not in shop.sweep()
    assert "Another preview has replaced ours." in shop.words()


@pytest.mark.costly
def test_an_image_that_becomes_current_during_the_preview_stops_the_write(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_deploys(shop, 12, current=12)
    shop.change(text(rule(count=10)))

    def promoted(seconds: float) -> None:
        shop.promote(1)
        shop.sandbox.advance(seconds)

    monkeypatch.setattr(lifecycle_safety, "time", SimpleNamespace(sleep=promoted))
    assert "PutLifecyclePolicy" not in shop.sweep()
    assert "changed during AWS's preview" in shop.words()
    assert "PutLifecyclePolicy" not in shop.sweep()
    assert shop.versions() == [f"{DAY}.1"]


@pytest.mark.costly
def test_another_current_image_is_another_question(shop: Shop) -> None:
    with_deploys(shop, 12, current=1)
    shop.change(text(rule(count=10)))
    shop.sweep()

    shop.promote(12)

    assert shop.sweep()["PutLifecyclePolicy"] == 1


@pytest.mark.costly
def test_a_deploy_waits_for_no_preview_and_leaves_the_policy_to_the_sweep(shop: Shop) -> None:
    with_deploys(shop, 12, current=1)
    shop.change(text(rule(count=100)))
    new_calls(shop.sandbox)

    ensure(shop.environment.project, shop.configuration, freshness=timedelta(0))

    assert not {*PREVIEWS, "PutLifecyclePolicy"} & set(new_calls(shop.sandbox))
    assert "The next sweep lets AWS preview" in shop.words()
    assert shop.row.status == RepositoryStatus.IN_SYNC
    assert shop.sweep()["PutLifecyclePolicy"] == 1

    shop.change(text(rule(count=10)))
    shop.sweep()
    refused = shop.words()
    ensure(shop.environment.project, shop.configuration, freshness=timedelta(0))
    assert (shop.words(), shop.row.status) == (refused, RepositoryStatus.DRIFTED)
    deployment = deploying(shop.environment, shop.configuration)
    push(shop.sandbox, deployment)
    said = finalize(deployment, shop.configuration)
    assert f"Note: {refused}" in said
    assert said[-1].endswith("is deployed and current.")


@pytest.mark.costly
def test_a_refresh_starts_no_preview_and_keeps_what_an_earlier_one_said(shop: Shop) -> None:
    with_deploys(shop, 12, current=1)
    refresh: dict[str, Any] = {"trigger": SweepTrigger.PERSON, "names": [shop.row.name], "dry_run": True}
    shop.change(text(rule(count=10)))

    assert not {*PREVIEWS, "PutLifecyclePolicy"} & set(shop.sweep(**refresh))
    assert (shop.row.status, shop.words()) == (
        RepositoryStatus.DRIFTED,
        "The lifecycle policy differs from the settings.",
    )

    shop.sweep()
    refused = shop.words()
    assert not {*PREVIEWS, "PutLifecyclePolicy"} & set(shop.sweep(**refresh))
    assert (shop.words(), shop.versions()) == (refused, [f"{DAY}.1"])
    shop.sweep()  # reads every part again, because of the refresh
    assert shop.sweep() == {}


@pytest.mark.costly
@pytest.mark.parametrize("by", ["a refresh", "a deploy"])
def test_a_live_lifecycle_policy_that_a_run_without_previews_sees_first_is_previewed_by_the_next_sweep(
    shop: Shop, by: str
) -> None:
    with_deploys(shop, 12, current=1)
    Repository.objects.update(origin="adopted", management="adopted", lifecycle_is_ours=False)
    shop.sweep()
    shop.ecr.put_lifecycle_policy(repositoryName=shop.row.name, lifecyclePolicyText=text(rule(count=10)))

    new_calls(shop.sandbox)
    if by == "a deploy":
        ensure(shop.environment.project, shop.configuration, freshness=timedelta(0))
    else:
        sweep_all(shop.configuration, trigger=SweepTrigger.PERSON, dry_run=True)
    assert not set(PREVIEWS) & set(new_calls(shop.sandbox))
    assert shop.versions() == []
    shop.sweep()

    assert shop.versions() == [f"{DAY}.1"]
    assert shop.sweep() == {}


@pytest.mark.costly
def test_two_workers_at_once_make_one_preview_and_one_write(shop: Shop) -> None:
    with_deploys(shop, 2, current=2)
    shop.change(text())
    new_calls(shop.sandbox)
    barrier, row = threading.Barrier(2), shop.row
    target = targets.configured(shop.configuration)[0]

    def work() -> None:
        try:
            barrier.wait(10)
            repositories.reconcile(
                row=row,
                ecr=target.ecr(),
                config=target.config,
                desired_digest=shop.configuration.desired_digest,
                cause="sweep",
                enforce=True,
                previews=True,
            )
        finally:
            connections.close_all()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)

    made = new_calls(shop.sandbox)
    assert (made["StartLifecyclePolicyPreview"], made["PutLifecyclePolicy"]) == (1, 1)
    assert shop.row.status == RepositoryStatus.IN_SYNC


@pytest.mark.costly
def test_the_rule_of_somebody_else_on_an_adopted_repository_is_reported_and_not_touched(shop: Shop) -> None:
    with_deploys(shop, 12, current=1)
    Repository.objects.update(origin="adopted", management="adopted", lifecycle_is_ours=False)
    theirs = text(rule(count=10))
    shop.ecr.put_lifecycle_policy(repositoryName=shop.row.name, lifecyclePolicyText=theirs)

    def full_pass() -> dict[str, int]:
        Repository.objects.update(details_checked_at=timezone.now() - timedelta(days=1))
        previews = dict(shop.row.lifecycle_previews or {})
        Repository.objects.update(
            lifecycle_previews={
                name: {**each.as_row(), "at": "2026-01-01T00:00:00+00:00"} for name, each in previews.items()
            }
        )
        return shop.sweep()

    assert shop.sweep() == {}  # the details are not due
    made = full_pass()

    assert made["StartLifecyclePolicyPreview"] == 2  # of their text, and of the offered one
    assert "PutLifecyclePolicy" not in made
    assert (shop.row.status, shop.versions()) == (RepositoryStatus.IN_SYNC, [f"{DAY}.1"])
    assert json.loads(shop.lifecycle) == json.loads(theirs)
    assert [shop.sweep(), shop.sweep()] == [{}, {}]
    assert full_pass()["StartLifecyclePolicyPreview"] == 2
    assert shop.versions() == [f"{DAY}.1"]

    shop.promote(12)
    full_pass()
    assert shop.versions() == []
    assert {each.words for each in shop.row.differences} == {
        "The lifecycle policy differs from the settings; somebody else wrote it."
    }


@pytest.mark.costly
def test_a_live_policy_about_untagged_images_only_is_not_previewed(shop: Shop) -> None:
    with_deploys(shop, 2, current=2)
    Repository.objects.update(details_checked_at=None)
    due: dict[str, Any] = {"config": shop.configuration.v4, "since": timezone.now(), "again": True, "whole": True}
    assert not lifecycle_safety.is_due(shop.row, shop.lifecycle, **due)
    assert lifecycle_safety.is_due(shop.row, text(), **due)

    drift(shop.sandbox, [shop.row.name])  # so that the sweep has something to do there
    assert not set(PREVIEWS) & set(shop.sweep())
    assert shop.row.status == RepositoryStatus.IN_SYNC


@pytest.mark.costly
def test_while_writes_are_paused_nothing_is_previewed_or_written(shop: Shop) -> None:
    with_deploys(shop, 2, current=2)
    shop.change(text())
    WritesPause.objects.create(paused_by="x", reason="y")

    assert not {*PREVIEWS, "PutLifecyclePolicy"} & set(shop.sweep())
    assert shop.row.status == RepositoryStatus.DRIFTED

    shop.ecr.put_lifecycle_policy(repositoryName=shop.row.name, lifecyclePolicyText=text())  # the live one
    Repository.objects.update(details_checked_at=None)
    assert not {*PREVIEWS} & set(shop.sweep())
    assert shop.row.status == RepositoryStatus.IN_SYNC


@pytest.mark.costly
def test_a_pause_that_ends_in_the_middle_of_a_check_lets_nothing_be_written_without_a_preview(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_deploys(shop, 12, current=1)
    shop.change(text())
    real = RepositoryLease.require_writable
    pauses = [True]

    def once(lease: Any) -> None:
        if pauses:
            pauses.clear()
            raise registry_error("WritesPaused", operation="lease", name=lease.row.name, words="For a test.")
        real(lease)

    monkeypatch.setattr(RepositoryLease, "require_writable", once)

    assert "PutLifecyclePolicy" not in shop.sweep()
    assert not pauses


@pytest.mark.costly
def test_a_repository_that_is_deleted_during_the_preview_is_missing(shop: Shop) -> None:
    with_deploys(shop, 2, current=2)
    shop.change(text())
    Repository.objects.update(written_at=timezone.now() - timedelta(minutes=5))
    shop.sandbox.fault(
        "error", "ecr:GetLifecyclePolicyPreview", code="RepositoryNotFoundException", message="The repository is gone"
    )

    assert "PutLifecyclePolicy" not in shop.sweep()

    assert shop.row.status == RepositoryStatus.MISSING
    assert not shop.row.lifecycle_previews


@pytest.mark.costly
def test_a_text_is_offered_only_if_aws_finds_it_safe_or_has_not_said(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_deploys(shop, 12, current=1)
    shop.change(text(rule(count=10)))

    def offered() -> str:
        shop.sweep(trigger=SweepTrigger.PERSON, names=[shop.row.name])
        assert shop.row.lifecycle_previews
        return shop.row.lifecycle_previews["settings"].suggestion

    assert offered()
    assert "AWS's preview of that text takes none away" in shop.words()
    with monkeypatch.context() as patch:
        patch.setattr(lifecycle_safety, "PREVIEW_SECONDS", 1.5)  # for the first preview, not for the second one
        shop.sandbox.fault("slow_preview", seconds=600, skip=1)
        assert offered()
        assert "AWS has not previewed that text" in shop.words()
    shop.sandbox.clear_faults()
    shop.sandbox.advance(700)
    Deployment.objects.filter(version_number=1).update(image_ref=f"{HOST}/{shop.row.name}:gone")
    assert offered() == ""
    assert "Give its rules higher counts" in shop.words()
    assert shop.versions() == [f"{DAY}.1"]


@pytest.mark.costly
def test_more_than_a_hundred_images_are_asked_about_in_two_calls_and_one_without_a_digest_by_its_tag(
    shop: Shop,
) -> None:
    with_deploys(shop, 2, current=1)
    tag = Deployment.objects.get(version_number=1).image_ref.rpartition(":")[2]
    ecr = targets.configured(shop.configuration)[0].ecr()
    assert ecr.start_lifecycle_preview(shop.row.name, text(rule(count=1)))
    shop.sandbox.advance(2)
    new_calls(shop.sandbox)

    absent = [{"imageDigest": f"sha256:{number:064x}"} for number in range(120)]
    preview = ecr.lifecycle_preview(shop.row.name, [*absent, {"imageTag": tag}])

    assert new_calls(shop.sandbox) == {"GetLifecyclePolicyPreview": 2}
    assert preview is not None
    assert [(each.digest, each.tags) for each in preview.images] == [(shop.digests[f"{DAY}.1"], (tag,))]

    Deployment.objects.update(image_digest="")  # the image was never verified
    shop.change(text(rule(count=1)))
    shop.sweep()
    assert shop.versions() == [f"{DAY}.1"]


# ---------------------------------------------------------------------------------------------------- the offered text


def test_the_offered_text_protects_each_tag_before_the_rules_in_their_order() -> None:
    made = lifecycle_safety.protecting(text(rule(7, count=3), rule(2, tagStatus="untagged")), ["a", "b", "a"])

    rules = json.loads(made)["rules"]
    assert [each["rulePriority"] for each in rules] == [1, 2, 3, 4]
    assert [each["selection"].get("tagPatternList") for each in rules] == [["a"], ["b"], None, None]
    assert [each["selection"]["tagStatus"] for each in rules] == ["tagged", "tagged", "untagged", "any"]
    assert ecr_rules.lifecycle_breaches(made) == ()


def test_no_text_is_offered_that_ecr_would_refuse() -> None:
    assert lifecycle_safety.protecting(text(), map(str, range(49)))
    assert lifecycle_safety.protecting(text(), map(str, range(50))) == ""
    assert lifecycle_safety.protecting("no JSON", ["a"]) == ""
