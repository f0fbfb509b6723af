"""What is current stays runnable, or is said not to be: from a deploy over the loss of its image to the news of it."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from deployments import clock
from deployments.access import keys
from deployments.access.audit import Actor, Trail
from deployments.aws.sqs import EventQueue
from deployments.config import Access, Configuration
from deployments.deploys import image_proof, promotions
from deployments.metrics import samples
from deployments.models import Deployment, Environment, ImageState, ImageStateChange
from deployments.notify import news
from deployments.reconcile import change_events, change_feed
from deployments.row_values import ProvedPull
from sandbox import images
from sandbox.control import Sandbox
from tests.support.change_events import consuming, event, message
from tests.support.constants import CLUSTER, HOST, POLICY
from tests.support.deploys import deploying, finalize, push
from tests.support.registry import calls, delete_repository
from tests.support.sweeps import sweep_all

pytestmark = pytest.mark.django_db(transaction=True)
TERRAFORM = Path(__file__).resolve().parents[2] / "deploy" / "terraform"
CURRENT = "/api/v1/deployments/current"


@pytest.fixture
def configuration(configure: Callable[..., Configuration], sandbox: Sandbox) -> Configuration:
    return configure(
        DEPLOY_REGISTRY_HOST=HOST,
        DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY=POLICY,
        DEPLOY_REGISTRY_ECR_CONSUMER_ACCOUNTS=CLUSTER,
        RECONCILE_CALLS_PER_SECOND="5000",
    )


@pytest.fixture
def versions(environment: Environment, configuration: Configuration, sandbox: Sandbox) -> list[Deployment]:
    """Two deployed versions, of which the second is current; a sweep has looked at both."""
    made = []
    for number in (1, 2):
        deployment = deploying(environment, configuration)
        digest = push(sandbox, deployment, images.build(f"version {number}\n"))
        finalize(deployment, configuration, digest)
        deployment.refresh_from_db()
        made.append(deployment)
    sweep_all(configuration)
    return made


@pytest.fixture
def cluster(environment: Environment, client: Client) -> Client:
    """Polls for the current deployment."""
    return Client(headers={"Authorization": f"Bearer {keys.make_environment_key(environment)[1]}"})


def delete(sandbox: Sandbox, deployment: Deployment) -> None:
    name = image_proof.ImageLocation.of(deployment.image_ref).name
    ids = [{"imageDigest": deployment.image_digest}]
    assert not sandbox.client("ecr").batch_delete_image(repositoryName=name, imageIds=ids)["failures"]


def archive(sandbox: Sandbox, deployment: Deployment, storage: str) -> None:
    name = image_proof.ImageLocation.of(deployment.image_ref).name
    image = {"imageDigest": deployment.image_digest}
    sandbox.client("ecr").update_image_storage_class(repositoryName=name, imageId=image, targetStorageClass=storage)


def told() -> list[news.News]:
    return [each for each in news.current_news(clock.now()) if each.event.startswith("image.")]


def environments() -> dict[str, float]:
    found = [sample for sample in samples() if sample.name == "environments"]
    return {sample.labels["image_state"]: sample.value for sample in found if sample.value}


@pytest.mark.costly
def test_a_deleted_current_image_is_news_a_metric_and_a_header(
    versions: list[Deployment], configuration: Configuration, cluster: Client, sandbox: Sandbox
) -> None:
    first, second = versions
    assert environments() == {"runnable": 1}
    before = cluster.get(CURRENT)
    assert (before.status_code, before["X-Image-State"]) == (200, "runnable")
    delete(sandbox, second)

    sweep = sweep_all(configuration)

    assert sweep.chunks.get().in_sync == 1, "the repository itself is in sync"
    [one] = told()
    assert one.event == "image.not_runnable"
    assert str(second.version) in one.subject
    assert f"last good version is {first.version}" in one.text
    assert (one.data["image_state"], one.data["last_good"]) == ("missing", str(first.version))
    assert environments() == {"missing": 1}
    after = cluster.get(CURRENT)
    assert (after.status_code, after["X-Image-State"]) == (200, "missing")
    assert after["ETag"] == before["ETag"], "the state is no part of the ETag"
    unchanged = cluster.get(CURRENT, headers={"If-None-Match": before["ETag"]})
    assert (unchanged.status_code, unchanged["X-Image-State"], unchanged.content) == (304, "missing", b"")
    sweep_all(configuration)
    assert told() == [one]


@pytest.mark.costly
def test_the_looks_of_a_sweep_and_of_an_event_move_no_pull_time(
    versions: list[Deployment], configuration: Configuration, sandbox: Sandbox
) -> None:
    name = image_proof.ImageLocation.of(versions[0].image_ref).name

    def pulled() -> list[Any]:
        found = sandbox.client("ecr").describe_images(repositoryName=name)["imageDetails"]
        return [each["lastRecordedPullTime"] for each in found]

    before = pulled()  # by the proof before the promotion
    sandbox.advance(60)
    sandbox.reset_calls()
    sweep_all(configuration)
    body = event("BatchDeleteImage", name, requestParameters={"repositoryName": name, "imageIds": [{"imageTag": "v"}]})
    change_events.handle(configuration=configuration, messages=[message(body)])

    assert calls(sandbox)["DescribeImages"] == 2
    assert pulled() == before
    assert "BatchGetImage" not in calls(sandbox)


@pytest.mark.costly
def test_without_a_version_to_go_back_to_the_news_says_to_deploy_again(
    versions: list[Deployment], configuration: Configuration, sandbox: Sandbox
) -> None:
    for each in versions:
        delete(sandbox, each)

    sweep_all(configuration)

    found = {each.event: each for each in told()}
    assert found.keys() == {"image.not_runnable", "image.rollback_lost"}
    assert found["image.not_runnable"].data["last_good"] is None
    assert "deploy again" in found["image.not_runnable"].text


@pytest.mark.costly
def test_without_roll_back_targets_the_news_says_nothing_about_the_images_of_older_versions(
    versions: list[Deployment], configure: Callable[..., Configuration], sandbox: Sandbox
) -> None:
    configuration = configure(
        DEPLOY_REGISTRY_HOST=HOST,
        DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY=POLICY,
        DEPLOY_REGISTRY_ECR_CONSUMER_ACCOUNTS=CLUSTER,
        ROLLBACK_TARGETS="0",
    )
    delete(sandbox, versions[1])

    sweep_all(configuration)

    [one] = told()
    assert one.data["last_good"] is None
    assert "No roll-back target is known whose image can be pulled" in one.text, (
        "the image of the first version is there"
    )


@pytest.mark.costly
def test_an_image_that_can_be_pulled_again_is_news_once(
    versions: list[Deployment], configuration: Configuration, sandbox: Sandbox
) -> None:
    archive(sandbox, versions[1], "ARCHIVE")
    sweep_all(configuration)
    archive(sandbox, versions[1], "STANDARD")
    sandbox.advance(20 * 60 + 1)
    for _ in range(2):
        sweep_all(configuration)

    assert [each.event for each in reversed(told())] == ["image.not_runnable", "image.runnable"]
    assert environments() == {"runnable": 1}


@pytest.mark.costly
def test_the_proof_before_a_promotion_is_the_first_look(
    environment: Environment, configuration: Configuration, cluster: Client, sandbox: Sandbox
) -> None:
    deployment = deploying(environment, configuration)
    finalize(deployment, configuration, push(sandbox, deployment))
    deployment.refresh_from_db()

    row = ImageState.objects.get()
    assert (row.state, row.image, row.known) == ("runnable", "active", "runnable")
    assert deployment.receipt is not None
    assert abs(row.looked_at - datetime.fromisoformat(deployment.receipt.at)) < timedelta(milliseconds=2)
    assert cluster.get(CURRENT)["X-Image-State"] == "runnable"

    sweep_all(configuration)
    assert ImageState.objects.get().looked_at > row.looked_at
    assert ImageStateChange.objects.count() == 0


@pytest.mark.costly
def test_a_promotion_does_not_change_the_state_that_a_look_has_found(
    versions: list[Deployment], configuration: Configuration, environment: Environment, sandbox: Sandbox
) -> None:
    archive(sandbox, versions[1], "ARCHIVE")
    sweep_all(configuration)
    found = ImageState.objects.get(pk=versions[1].pk)

    promotions._note_proof(versions[1], versions[1].receipt)

    assert ImageState.objects.get(pk=versions[1].pk).state == found.state == "archived"


@pytest.mark.costly
@pytest.mark.parametrize("changed", ["unproved", "unseen"])
def test_a_promotion_without_a_proof_is_no_look(versions: list[Deployment], changed: str) -> None:
    ImageState.objects.all().delete()
    receipt = versions[1].receipt
    assert receipt is not None
    unseen = {CLUSTER: ProvedPull(how="policy", words="The registry policy was not read.", verdict="unknown")}
    versions[1].receipt = (
        replace(receipt, unproved="Off.") if changed == "unproved" else replace(receipt, pullers=unseen)
    )
    versions[1].save()

    promotions._note_proof(versions[1], versions[1].receipt)

    assert not ImageState.objects.exists()


def promote(deployment: Deployment, configuration: Configuration) -> None:
    promotions.promote(
        environment=deployment.environment,
        version=str(deployment.version),
        by="ann",
        configuration=configuration,
        trail=Trail(actor=Actor.command("ann")),
        allow_rollbacks=True,
    )


@pytest.mark.costly
def test_after_a_roll_back_to_an_image_that_was_restored_the_header_says_runnable(
    versions: list[Deployment], configuration: Configuration, cluster: Client, sandbox: Sandbox
) -> None:
    archive(sandbox, versions[0], "ARCHIVE")
    sweep_all(configuration)
    assert state(versions[0]) == "archived"
    archive(sandbox, versions[0], "STANDARD")
    sandbox.advance(20 * 60 + 1)

    promote(versions[0], configuration)

    assert cluster.get(CURRENT)["X-Image-State"] == "runnable"
    sweep_all(configuration)
    assert [each.event for each in told()] == ["image.rollback_lost"]


@pytest.mark.costly
def test_a_roll_back_while_aws_does_not_answer_is_no_look_at_the_image(
    versions: list[Deployment], configuration: Configuration, cluster: Client, sandbox: Sandbox
) -> None:
    ImageState.objects.all().delete()  # as of a version that was no roll-back target
    sandbox.fault("error", "ecr:*", code="ServerException", status=500)

    promote(versions[0], configuration)

    assert cluster.get(CURRENT)["X-Image-State"] == "unknown"


@pytest.mark.costly
def test_a_version_that_was_rolled_back_is_no_roll_back_target(
    versions: list[Deployment], configuration: Configuration
) -> None:
    promote(versions[0], configuration)

    assert [row.deployment for row in ImageState.objects.all()] == [versions[0]]


@pytest.mark.costly
def test_a_lost_roll_back_target_that_becomes_current_is_news_of_the_environment(
    versions: list[Deployment], configuration: Configuration, cluster: Client, sandbox: Sandbox
) -> None:
    delete(sandbox, versions[0])
    sweep_all(configuration)
    assert [each.event for each in told()] == ["image.rollback_lost"]
    sandbox.fault("error", "ecr:*", code="ServerException", status=500)
    promote(versions[0], configuration)  # AWS does not answer, and the image was verified once
    sandbox.clear_faults()
    assert cluster.get(CURRENT)["X-Image-State"] == "missing"

    for _ in range(2):
        sweep_all(configuration)

    assert [each.event for each in reversed(told())] == ["image.rollback_lost", "image.not_runnable"]
    assert cluster.get(CURRENT)["X-Image-State"] == "missing"


@pytest.mark.costly
def test_a_deployment_that_was_not_looked_at_yet_is_unknown(
    versions: list[Deployment], configuration: Configuration, cluster: Client, sandbox: Sandbox
) -> None:
    ImageState.objects.all().delete()

    assert cluster.get(CURRENT)["X-Image-State"] == "unknown"
    assert environments() == {"unknown": 1}


# ------------------------------------------------------------------------------------------------------------- events


@pytest.fixture
def queue(sandbox: Sandbox, versions: list[Deployment]) -> EventQueue:
    """A queue that gets the events from now on."""
    return EventQueue(url=sandbox.events_to("registry-admin"), region="us-east-1", access=Access(), seconds=1)


@pytest.fixture
def consumer(configuration: Configuration, queue: EventQueue) -> Iterator[None]:
    with consuming(configuration, queue):
        yield


def within_five_seconds(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def state(deployment: Deployment) -> str:
    return ImageState.objects.get(pk=deployment.pk).state


@pytest.mark.costly
def test_a_deleted_archived_or_expired_image_is_known_within_five_seconds(
    versions: list[Deployment], consumer: None, sandbox: Sandbox
) -> None:
    first, second = versions
    archive(sandbox, first, "ARCHIVE")
    within_five_seconds(lambda: state(first) == "archived")

    delete(sandbox, second)
    within_five_seconds(lambda: state(second) == "missing")

    assert [each.event for each in reversed(told())] == ["image.rollback_lost", "image.not_runnable"]


@pytest.mark.costly
def test_a_registry_policy_that_denies_the_consumer_is_known_within_five_seconds_and_no_image_is_looked_at(
    versions: list[Deployment], consumer: None, sandbox: Sandbox
) -> None:
    statement = {"Sid": "No", "Effect": "Deny", "Principal": {"AWS": CLUSTER}, "Action": "ecr:*", "Resource": "*"}
    looked_at = ImageState.objects.get(pk=versions[1].pk).looked_at
    sandbox.reset_calls()

    text = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    sandbox.client("ecr").put_registry_policy(policyText=text)
    within_five_seconds(lambda: state(versions[1]) == "not_pullable")

    assert "DescribeImages" not in calls(sandbox)
    row = ImageState.objects.get(pk=versions[1].pk)
    assert row.looked_at == looked_at
    assert row.since > looked_at
    sandbox.client("ecr").delete_registry_policy()
    within_five_seconds(lambda: state(versions[1]) == "runnable")
    assert ImageStateChange.objects.filter(is_current=True).count() == 2


@pytest.mark.costly
def test_the_rules_in_terraform_let_every_event_pass_that_is_handled(
    versions: list[Deployment], sandbox: Sandbox
) -> None:
    sqs, events = sandbox.client("sqs"), sandbox.client("events")
    url = sqs.create_queue(QueueName="by-rules")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    patterns = [json.loads((TERRAFORM / f"{each}-events.json").read_text()) for each in ("change", "image")]
    [state] = re.findall(r'state += "(\w+)"', (TERRAFORM / "events.tf").read_text())
    for number, pattern in enumerate(patterns):
        events.put_rule(Name=f"rule-{number}", EventPattern=json.dumps(pattern), State=state)
        events.put_targets(Rule=f"rule-{number}", Targets=[{"Id": "queue", "Arn": arn}])
    archive(sandbox, versions[0], "ARCHIVE")
    delete(sandbox, versions[1])
    sandbox.advance(25 * 3600)  # the lifecycle policy runs

    messages = received(EventQueue(url=url, region="us-east-1", access=Access(), seconds=1))

    found = {change.operation for each in messages if (change := change_events.parse(each.body)) is not None}
    assert found >= {"BatchDeleteImage", "UpdateImageStorageClass", "DELETE", "UPDATE_STORAGE_CLASS"}
    with contextlib.suppress(sandbox.client("ecr").exceptions.RegistryPolicyNotFoundException):
        sandbox.client("ecr").get_registry_policy()
    [proof] = received(EventQueue(url=url, region="us-east-1", access=Access(), seconds=1))
    change = change_events.parse(proof.body)
    assert change is not None
    assert (change.operation, change.name) == (change_feed.PROOF, "")
    named = patterns[0]["detail"]["eventName"]
    handled = (
        *change_events.CHANGE_OPERATIONS, *change_events.REGISTRY_OPERATIONS, *change_events.IMAGE_OPERATIONS,
        change_feed.PROOF,
    )  # fmt: skip
    assert sorted(named) == sorted(handled)
    assert sorted(patterns[1]["detail"]["action-type"]) == sorted(change_events.IMAGE_ACTIONS)


def received(queue: EventQueue) -> list[Any]:
    """The messages about one action, which come at once in the sandbox."""
    found = queue.receive()
    return found + queue.receive()


@pytest.mark.costly
def test_images_that_need_not_stay_cost_no_call(
    versions: list[Deployment], queue: EventQueue, configuration: Configuration, sandbox: Sandbox
) -> None:
    name = image_proof.ImageLocation.of(versions[0].image_ref).name
    other = images.push(images.build("other\n"), sandbox.url, *sandbox.login(), name, "other", registry=HOST)
    sandbox.client("ecr").batch_delete_image(repositoryName=name, imageIds=[{"imageDigest": other}])
    messages = received(queue)
    assert len(messages) >= 3
    sandbox.reset_calls()

    assert change_events.handle(configuration=configuration, messages=messages) == messages

    assert calls(sandbox) == {}


@pytest.mark.costly
def test_a_message_stays_while_aws_does_not_answer_and_the_image_is_unknown_meanwhile(
    versions: list[Deployment], queue: EventQueue, configuration: Configuration, sandbox: Sandbox
) -> None:
    delete(sandbox, versions[1])
    messages = received(queue)
    sandbox.fault("error", "ecr:DescribeImages", code="ServerException")

    assert change_events.handle(configuration=configuration, messages=messages) == []
    assert state(versions[1]) == "unknown"

    sandbox.clear_faults()
    assert change_events.handle(configuration=configuration, messages=messages) == messages
    assert state(versions[1]) == "missing"


@pytest.mark.costly
def test_a_run_of_a_lifecycle_policy_names_the_images_that_it_took(
    versions: list[Deployment], queue: EventQueue, configuration: Configuration, sandbox: Sandbox
) -> None:
    name = image_proof.ImageLocation.of(versions[0].image_ref).name
    rule = {
        "rulePriority": 1,
        "selection": {"tagStatus": "any", "countType": "imageCountMoreThan", "countNumber": 1},
        "action": {"type": "expire"},
    }
    sandbox.client("ecr").put_lifecycle_policy(repositoryName=name, lifecyclePolicyText=json.dumps({"rules": [rule]}))
    received(queue)
    sandbox.run_lifecycle(name)
    [run] = [each for each in received(queue) if "PolicyExecutionEvent" in each.body]

    change = change_events.parse(run.body)

    assert change is not None
    assert change.images == frozenset({versions[0].image_digest})
    assert change_events.handle(configuration=configuration, messages=[run]) == [run]
    assert (state(versions[0]), state(versions[1])) == ("missing", "runnable")


@pytest.mark.costly
def test_an_image_that_is_named_by_its_tag_may_be_any_image(
    versions: list[Deployment], queue: EventQueue, configuration: Configuration, sandbox: Sandbox
) -> None:
    place = image_proof.ImageLocation.of(versions[1].image_ref)
    sandbox.client("ecr").batch_delete_image(repositoryName=place.name, imageIds=[{"imageTag": place.tag}])
    messages = [each for each in received(queue) if "BatchDeleteImage" in each.body]
    assert messages

    change_events.handle(configuration=configuration, messages=messages)

    assert state(versions[1]) == "missing"


@pytest.mark.costly
def test_an_event_from_before_the_last_look_costs_no_call(
    versions: list[Deployment], queue: EventQueue, configuration: Configuration, sandbox: Sandbox
) -> None:
    delete(sandbox, versions[1])
    messages = received(queue)
    ImageState.objects.update(looked_at=clock.now() + change_events.OWN_WRITE_TOLERANCE * 2)
    sandbox.reset_calls()

    assert change_events.handle(configuration=configuration, messages=messages) == messages

    assert calls(sandbox) == {}


@pytest.mark.costly
def test_a_deleted_repository_takes_its_images_along(
    versions: list[Deployment], queue: EventQueue, configuration: Configuration, sandbox: Sandbox
) -> None:
    delete_repository(sandbox, image_proof.ImageLocation.of(versions[0].image_ref).name)

    change_events.handle(configuration=configuration, messages=received(queue))

    assert (state(versions[0]), state(versions[1])) == ("missing", "missing")
