"""An image that cannot be pulled any more: archived, being restored, or gone. Each has its own sentence and step."""

from __future__ import annotations

import pytest

from deployments import catalogue
from deployments.config import Configuration
from deployments.deploys import image_proof, promotions
from deployments.errors import Refusal
from deployments.models import Deployment, Environment, Promotion
from sandbox import images
from sandbox.control import Sandbox
from tests.support.constants import TRAIL
from tests.support.deploys import delete, deployed, deploying, finalize, move, push


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_proof, "RETRY_PAUSES_SECONDS", (0.0, 0.0))


def roll_back(deployment: Deployment, configuration: Configuration) -> Refusal:
    before = Promotion.objects.get()
    with pytest.raises(Refusal) as caught:
        promotions.promote(
            environment=deployment.environment, version=str(deployment.version), by="", configuration=configuration,
            trail=TRAIL, allow_rollbacks=True,
        )  # fmt: skip
    assert Promotion.objects.get().deployment_id == before.deployment_id
    return caught.value


@pytest.mark.costly
@pytest.mark.parametrize("by_digest", [True, False])
def test_an_archived_image_is_not_promoted_and_the_sentence_says_where_to_restore_it(
    environment: Environment, ecr_configuration: Configuration, sandbox: Sandbox, *, by_digest: bool
) -> None:
    deployment = deploying(environment, ecr_configuration)
    digest = push(sandbox, deployment)
    move(sandbox, deployment, digest)

    with pytest.raises(Refusal) as caught:
        finalize(deployment, ecr_configuration, digest if by_digest else None)

    assert (caught.value.code, caught.value.retryable) == ("image_archived", False)
    assert "Restore it on the page of the repository's images" in caught.value.sentence
    assert (digest if by_digest else "tag ") in caught.value.sentence
    assert not Promotion.objects.exists()


@pytest.mark.costly
def test_a_platform_of_an_index_that_is_archived_is_named(
    environment: Environment, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    deployment, index = deploying(environment, ecr_configuration), images.build_index()
    digest = push(sandbox, deployment, index)
    move(sandbox, deployment, digest)
    move(sandbox, deployment, index.images[0].digest)
    move(sandbox, deployment, digest, "STANDARD")
    sandbox.advance(20 * 60 + 1)

    with pytest.raises(Refusal) as caught:
        finalize(deployment, ecr_configuration, digest)

    assert caught.value.code == "image_archived"
    assert index.images[0].digest in caught.value.sentence


@pytest.mark.costly
def test_a_roll_back_to_an_archived_image_is_refused_until_the_image_is_restored(
    environment: Environment, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    older = deployed(environment, ecr_configuration, sandbox, "one")
    deployed(environment, ecr_configuration, sandbox, "two")
    move(sandbox, older, older.image_digest)

    assert roll_back(older, ecr_configuration).code == "image_archived"
    move(sandbox, older, older.image_digest, "STANDARD")
    restoring = roll_back(older, ecr_configuration)
    assert (restoring.code, restoring.retryable) == ("image_restoring", True)
    sandbox.advance(20 * 60 + 1)

    promotions.promote(
        environment=environment, version=str(older.version), by="", configuration=ecr_configuration, trail=TRAIL,
        allow_rollbacks=True,
    )  # fmt: skip
    assert Promotion.objects.get().deployment_id == older.id


@pytest.mark.costly
def test_a_roll_back_to_an_image_that_is_gone_names_the_next_older_version_with_an_image(
    environment: Environment, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    oldest, archived, gone, wanted, _ = (
        deployed(environment, ecr_configuration, sandbox, text) for text in ("1", "2", "3", "4", "5")
    )
    move(sandbox, archived, archived.image_digest)
    for each in (gone, wanted):
        delete(sandbox, each)
    sandbox.reset_calls()

    refused = roll_back(wanted, ecr_configuration)

    assert refused.code == "image_not_found"
    assert refused.sentence.startswith(f"Version {wanted.version} cannot be promoted, because its image was deleted")
    assert refused.sentence.endswith(f"Version {oldest.version} is the next older one whose image exists.")
    assert "pushed" not in refused.sentence
    assert sandbox.calls()["ecr:DescribeImages"] == 4  # of the wanted image, and of three older ones


@pytest.mark.costly
def test_where_no_older_version_has_an_image_the_sentence_asks_to_deploy_again(
    environment: Environment, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    older, wanted = (deployed(environment, ecr_configuration, sandbox, text) for text in ("1", "2"))
    deployed(environment, ecr_configuration, sandbox, "3")
    delete(sandbox, older)
    delete(sandbox, wanted)

    assert roll_back(wanted, ecr_configuration).sentence.endswith("was found: deploy again.")
    sandbox.fault("error", "ecr:DescribeImages", code="AccessDeniedException")
    assert "was not seen" in roll_back(wanted, ecr_configuration).sentence


@pytest.mark.costly
def test_at_most_five_older_versions_are_asked_for(
    environment: Environment, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    rows = [deployed(environment, ecr_configuration, sandbox, str(number)) for number in range(8)]
    for each in rows[1:7]:
        delete(sandbox, each)
    sandbox.reset_calls()

    assert roll_back(rows[6], ecr_configuration).sentence.endswith("deploy again.")
    assert sandbox.calls()["ecr:DescribeImages"] == 6


@pytest.mark.costly
def test_an_image_that_was_never_verified_keeps_the_sentence_of_a_push(
    environment: Environment, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    older = deployed(environment, ecr_configuration, sandbox, "1")
    deployed(environment, ecr_configuration, sandbox, "2")
    delete(sandbox, older)
    Deployment.objects.filter(pk=older.pk).update(receipt=image_proof.unproved("It was not tried."))

    assert "Check that the image was pushed." in roll_back(older, ecr_configuration).sentence


def test_the_advice_about_what_cannot_be_downloaded_is_to_restore_it() -> None:
    for code in ("ImageInaccessible", "LayerInaccessibleException"):
        entry = catalogue.find(code)
        assert entry is not None
        assert entry.todo.startswith("Restore the image if it is archived")
