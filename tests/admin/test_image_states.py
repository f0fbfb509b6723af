"""The states of images that must stay, on the pages: never without the time of the look."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from deployments.admin import dashboard, image_states
from deployments.models import Deployment, Environment, ImageState, Promotion, Repository
from tests.admin.installation import Installation


@pytest.fixture
def current(installation: Installation) -> Deployment:
    """A current deployment with a repository, whose image is missing."""
    promotion = Promotion.objects.filter(label="current", deployment__repository__isnull=False)[0]
    repository, now = promotion.deployment.repository, timezone.now()
    assert repository is not None
    ImageState.objects.all().delete()
    ImageState.objects.create(
        deployment=promotion.deployment, repository=repository, image="missing", state="missing",
        words="AWS has no such image.", since=now - timedelta(hours=3), looked_at=now - timedelta(minutes=7),
        known="missing", known_at=now,
    )  # fmt: skip
    return promotion.deployment


def panel(client: Client, row: Environment | Repository) -> str:
    address = reverse(f"admin:deployments_{row._meta.model_name}_change", args=[row.pk])
    text = client.get(address).content.decode().partition('id="images-title"')[2].partition("</section>")[0]
    return " ".join(re.sub(r"<[^>]+>", " ", text).split())


@pytest.mark.costly
@pytest.mark.parametrize("place", ["environment", "repository"])
def test_a_page_says_which_image_is_missing_since_when_and_when_it_was_looked_at(
    current: Deployment, operator: Client, place: str
) -> None:
    words = panel(operator, getattr(current, place))

    assert f"{current.version} current" in words
    assert "Missing AWS has no such image." in words
    assert "3 hours ago" in words
    assert "7 minutes ago" in words


def test_an_image_that_aws_does_not_show_has_the_time_at_which_it_was_last_seen(
    current: Deployment, operator: Client
) -> None:
    ImageState.objects.update(
        state="unknown", known="runnable", known_at=timezone.now() - timedelta(hours=5), words="AWS said nothing."
    )

    assert re.search(
        r"Unknown AWS said nothing. Last seen 5 hours ago : runnable", panel(operator, current.environment)
    )


@pytest.mark.costly
def test_before_the_first_look_the_page_says_so(installation: Installation, operator: Client) -> None:
    ImageState.objects.all().delete()
    assert "Not checked yet." in panel(operator, Environment.objects.all()[0])


@pytest.mark.costly
def test_the_dashboard_names_environments_whose_current_image_cannot_be_pulled(
    current: Deployment, operator: Client
) -> None:
    named = f"the current image, of version {current.version}"
    shown = operator.get("/admin/").content.decode()
    assert named in shown
    assert "7\xa0minutes ago" in shown

    ImageState.objects.update(state="runnable")
    assert named not in operator.get("/admin/").content.decode()

    ImageState.objects.update(state="missing")
    Promotion.objects.filter(deployment=current).delete()
    assert named not in operator.get("/admin/").content.decode(), "a roll-back target is no current image"


@pytest.mark.costly
def test_the_dashboard_says_that_it_names_not_all_broken_images(
    installation: Installation, operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    ImageState.objects.update(state="missing")
    words = "More current images cannot be pulled: the page of each project says which."
    for number, more in ((1, True), (1_000, False)):
        for module in (image_states, dashboard):
            monkeypatch.setattr(module, "BROKEN_SHOWN", number)

        response = operator.get("/admin/")

        assert (words in response.content.decode()) is more
        assert 1 <= len(response.context["broken_images"]) <= number
