"""The pages of a repository's images: who may, what they show of AWS and of the rows, and that AWS may refuse."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.contrib.auth.models import User
from django.test import Client

from deployments.config import Configuration
from deployments.deploys import image_proof
from deployments.models import AuditEntry, Deployment, Environment, Repository
from deployments.reconcile import bulkhead
from sandbox import images
from sandbox.control import Sandbox
from tests.support.constants import HOST
from tests.support.deploys import delete, deployed, move

SEES, RESTORES = "view_repository", "restore_image_repository"
UNKNOWN = "sha256:" + "0" * 64


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_proof, "RETRY_PAUSES_SECONDS", (0.0, 0.0))


@pytest.fixture
def two(environment: Environment, ecr_configuration: Configuration, sandbox: Sandbox) -> list[Deployment]:
    """A roll-back target and the current deployment."""
    found = [deployed(environment, ecr_configuration, sandbox, text) for text in ("one", "two")]
    sandbox.reset_calls()
    return found


def address() -> str:
    return f"/admin/deployments/repository/{Repository.objects.get().pk}/images/"


def text_of(browser: Client, query: str = "") -> str:
    response = browser.get(address() + query)
    assert response.status_code == 200
    return str(response.content.decode())


@pytest.mark.costly
def test_the_page_of_a_repository_leads_to_its_images_and_asks_aws_for_nothing(
    two: list[Deployment], operator: Client, sandbox: Sandbox
) -> None:
    page = operator.get(address().replace("images/", "change/")).content.decode()

    assert f'href="{address()}"' in page
    assert sandbox.calls() == {}


@pytest.mark.costly
def test_the_list_has_what_aws_and_the_rows_know(two: list[Deployment], operator: Client, sandbox: Sandbox) -> None:
    text = text_of(operator)

    assert sandbox.calls() == {"ecr:DescribeImages": 1}
    for deployment in two:
        assert deployment.image_ref.rpartition(":")[2] in text
        assert deployment.image_digest in text
        assert f"/admin/deployments/deployment/{deployment.pk}/change/" in text
    assert text.count(">current<") == text.count(">roll-back target<") == 1
    assert text.count(">Active<") == 2
    assert text.count("linux/amd64") == 2
    assert "Page 1 of 1" in text
    assert "AWS listed 2 images" in text
    assert "the newest push first" in text
    assert "Restore…" not in text


@pytest.mark.costly
def test_every_address_asks_aws_once_whatever_the_query(
    two: list[Deployment], operator: Client, sandbox: Sandbox
) -> None:
    for query in (
        "?p=2",
        "?p=x",
        "?p=%C2%B2",
        "?p=999999999999",
        "?only=tagged",
        "?only=nothing",
        "?p=-1&only=archived",
    ):
        sandbox.reset_calls()
        text_of(operator, query)
        assert sandbox.calls() == {"ecr:DescribeImages": 1}


@pytest.mark.costly
def test_a_wrong_part_is_a_sentence_and_not_a_fault(two: list[Deployment], operator: Client) -> None:
    for part in ("nonsense", "x" * 5_000, "<script>"):
        text = text_of(operator, f"?part={part}")
        assert "The images could not be read" in text
        assert "<script>" not in text.partition("</head>")[2]


@pytest.mark.costly
def test_where_aws_refuses_the_page_has_the_reason_and_the_statement_to_add(
    two: list[Deployment], operator: Client, sandbox: Sandbox
) -> None:
    sandbox.fault("error", "ecr:DescribeImages", code="AccessDeniedException")

    text = text_of(operator)

    assert "The images could not be read" in text
    assert "AccessDeniedException" in text
    assert "The statement to add to the IAM policy" in text
    assert "arn:aws:ecr:us-east-1:111111111111:repository/trigger/*" in text


@pytest.mark.costly
def test_where_aws_has_a_fault_the_page_has_a_sentence(
    two: list[Deployment], operator: Client, sandbox: Sandbox
) -> None:
    sandbox.fault("error", "ecr:DescribeImages", code="ServerException", status=500)

    text = text_of(operator)

    assert "The images could not be read" in text
    assert "The statement to add" not in text
    assert sandbox.calls() == {"ecr:DescribeImages": 1}


@pytest.mark.costly
def test_while_too_many_requests_wait_for_aws_the_page_says_so(
    two: list[Deployment], operator: Client, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulkhead, "_threads", 2)
    monkeypatch.setattr(bulkhead, "_held", 1)

    assert "The images could not be read" in text_of(operator)
    assert sandbox.calls() == {}


@pytest.mark.costly
def test_of_a_repository_of_another_registry_aws_is_not_asked(
    two: list[Deployment], operator: Client, sandbox: Sandbox
) -> None:
    Repository.objects.update(region="eu-west-1")

    assert "The settings name another registry now" in text_of(operator)
    restore = operator.get(f"{address()}{two[0].image_digest}/restore/").content.decode()
    assert "The settings name another registry now" in restore
    assert "Restore it</button>" not in restore
    assert "/images/" not in operator.get(address().replace("images/", "change/")).content.decode()
    assert sandbox.calls() == {}


@pytest.mark.costly
def test_images_in_use_that_cannot_be_pulled_stand_first(
    two: list[Deployment], operator: Client, sandbox: Sandbox
) -> None:
    move(sandbox, two[0], two[0].image_digest)
    delete(sandbox, two[1])

    text = text_of(operator)

    assert "In use, and cannot be pulled" in text
    assert '<span class="badge bad">Missing</span>' in text
    assert '<span class="badge bad">Archived</span>' in text
    assert f"Version {two[1].version} of prod" in text


@pytest.mark.costly
def test_parts_of_an_index_and_referrers_are_called_so(
    two: list[Deployment], operator: Client, sandbox: Sandbox
) -> None:
    name = Repository.objects.get().name
    images.push(images.build_index(), sandbox.url, *sandbox.login(), name, "index", registry=HOST)

    text = text_of(operator)

    assert text.count("Index of images") == 1
    assert text.count("No tag: an image of an index") == 2
    assert text.count("not seen") == 3


@pytest.mark.costly
def test_who_may_see_repositories_sees_their_images_and_restores_none(
    two: list[Deployment], person: Callable[..., Client], sandbox: Sandbox
) -> None:
    move(sandbox, two[0], two[0].image_digest)
    restore = f"{address()}{two[0].image_digest}/restore/"
    viewer = person(SEES)

    text = text_of(viewer)
    sandbox.reset_calls()

    assert ">Archived</span>" in text
    assert "Restore…" not in text
    assert "/admin/deployments/deployment/" not in text
    assert str(two[0].version) in text
    for browser in (viewer, person("view_deployment"), person(RESTORES)):
        assert browser.get(restore).status_code == 403
        assert browser.post(restore).status_code == 403
    assert person("view_project").get(address()).status_code == 403
    assert sandbox.calls() == {}


@pytest.mark.costly
def test_the_confirmation_says_what_a_restore_is_and_only_its_button_writes(
    two: list[Deployment], person: Callable[..., Client], sandbox: Sandbox
) -> None:
    digest = two[0].image_digest
    move(sandbox, two[0], digest)
    browser, restore = person(SEES, RESTORES), f"{address()}{digest}/restore/"
    sandbox.reset_calls()

    assert f'href="{restore}"' in text_of(browser)
    text = browser.get(restore).content.decode()

    assert sandbox.calls() == {"ecr:DescribeImages": 2}
    for words in ("up to 20 minutes", "charges the restore by size", "90 days", "Restore it</button>", digest):
        assert words in text
    response = browser.post(restore, follow=True)
    assert "AWS is restoring the image" in response.content.decode()
    assert ">Restoring<" in response.content.decode()
    assert AuditEntry.objects.filter(action="restore_image.repository", outcome="done").count() == 1


@pytest.mark.costly
def test_of_an_image_that_is_not_archived_there_is_nothing_to_confirm(
    two: list[Deployment], operator: Client, sandbox: Sandbox
) -> None:
    text = operator.get(f"{address()}{two[0].image_digest}/restore/").content.decode()
    assert "The image is not archived" in text
    assert "Restore it</button>" not in text
    assert "AWS has no image with this digest" in operator.get(f"{address()}{UNKNOWN}/restore/").content.decode()
    assert "AWS has no image with this digest" in operator.get(f"{address()}latest/restore/").content.decode()
    sandbox.fault("error", "ecr:DescribeImages", code="AccessDeniedException")
    refused = operator.get(f"{address()}{two[0].image_digest}/restore/")
    assert refused.status_code == 200
    assert "AccessDeniedException" in refused.content.decode()


@pytest.mark.costly
def test_a_refused_restore_is_a_message_on_the_list(two: list[Deployment], operator: Client, sandbox: Sandbox) -> None:
    move(sandbox, two[0], two[0].image_digest)
    sandbox.fault("error", "ecr:UpdateImageStorageClass", code="AccessDeniedException")

    response = operator.post(f"{address()}{two[0].image_digest}/restore/", follow=True)

    assert response.redirect_chain == [(address(), 302)]
    assert "ecr:UpdateImageStorageClass" in response.content.decode()


@pytest.mark.costly
def test_a_post_from_another_site_restores_nothing(two: list[Deployment], sandbox: Sandbox) -> None:
    move(sandbox, two[0], two[0].image_digest)
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(User.objects.create(username="x", is_staff=True, is_superuser=True))
    sandbox.reset_calls()

    assert browser.post(f"{address()}{two[0].image_digest}/restore/").status_code == 403
    assert browser.post(address()).status_code in (403, 405)

    assert sandbox.calls() == {}


@pytest.mark.costly
def test_a_repository_that_does_not_exist_has_no_images(two: list[Deployment], operator: Client) -> None:
    beside = f"/admin/deployments/repository/{Repository.objects.get().pk + 1}/images/"

    assert operator.get(beside).status_code == 404
    assert operator.post(f"{beside}{two[0].image_digest}/restore/").status_code == 404
    assert operator.put(address()).status_code == 405
    assert Client().get(address())["Location"].startswith("/admin/login/")


@pytest.mark.costly
def test_an_image_of_a_repository_that_is_not_managed_has_no_button(
    two: list[Deployment], operator: Client, sandbox: Sandbox
) -> None:
    move(sandbox, two[0], two[0].image_digest)
    Repository.objects.update(management="unmanaged", status="unmanaged")

    assert "Restore…" not in text_of(operator)
