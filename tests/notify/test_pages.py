"""The addresses that messages name are those of the console's pages."""

from __future__ import annotations

import pytest
from django.urls import reverse

from deployments.notify import deliveries, pages


def test_the_dashboard_and_the_health_page_are_at_the_addresses_that_messages_name() -> None:
    assert (reverse("admin:index"), reverse("admin:setup")) == (pages.INDEX, pages.HEALTH)


@pytest.mark.parametrize("model", ["accesskey", "deployment", "environment", "policyversion", "repository"])
def test_the_page_of_a_row_is_at_the_address_that_messages_name(model: str) -> None:
    assert pages.page_of(model, 17) == reverse(f"admin:deployments_{model}_change", args=[17])


@pytest.mark.parametrize("model", sorted({"deployment", "repository", *deliveries._LISTS.values()}))
def test_the_list_of_a_model_is_at_the_address_that_messages_name(model: str) -> None:
    assert pages.list_of(model) == reverse(f"admin:deployments_{model}_changelist")
