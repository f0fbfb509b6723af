"""Secrets at rest: what was sealed opens with the right key, in the right place, and nowhere else."""

from __future__ import annotations

import pytest

from deployments.access.vault import Unreadable, Vault
from deployments.deploys import environment_variables
from deployments.models import NotificationChannel
from deployments.notify import channels

OLD, NEW = "the-old-key-0123456789-0123456789", "the-new-key-0123456789-0123456789"


@pytest.mark.parametrize("text", ["", "postgres://ada:pass@db/app", "ü👍🏽\n\t", "x" * 100_000])
def test_what_was_sealed_is_opened(text: str) -> None:
    vault = Vault([NEW])
    sealed = vault.seal(text, context="here")

    assert vault.open(sealed, context="here") == text
    assert sealed.isascii()
    assert not text or text not in sealed


def test_the_same_text_is_never_sealed_twice_the_same() -> None:
    vault = Vault([NEW])

    assert vault.seal("a", context="here") != vault.seal("a", context="here")


def test_a_value_that_was_copied_to_another_place_does_not_open_there() -> None:
    vault = Vault([NEW])

    with pytest.raises(Unreadable):
        vault.open(vault.seal("a", context="here"), context="there")


def test_a_key_that_was_replaced_still_opens_and_no_longer_seals() -> None:
    sealed = Vault([OLD]).seal("a", context="here")
    vault = Vault([NEW, OLD])

    assert vault.open(sealed, context="here") == "a"
    assert not vault.is_current(sealed)
    assert vault.is_current(vault.seal("a", context="here"))
    assert Vault([NEW]).open(vault.seal("a", context="here"), context="here") == "a"


def test_without_its_key_nothing_opens() -> None:
    sealed = Vault([OLD]).seal("hunter2", context="here")

    with pytest.raises(Unreadable) as refusal:
        Vault([NEW]).open(sealed, context="here")
    assert "hunter2" not in str(refusal.value)


def test_no_stored_text_is_strange_enough_for_another_error() -> None:
    vault = Vault([NEW])
    sealed = vault.seal("a", context="here")
    name = sealed.split(".")[1]

    beginnings = ("", "a", "v1", "v1.", f"v2.{sealed[3:]}", f"v1.{name}.", f"v1.{name}.A", f"v1.{name}.AA==")
    for stored in (*beginnings, f"v1.{name}.ü", sealed[:-5], sealed[:-6] + "AAAAAA"):
        with pytest.raises(Unreadable):
            vault.open(stored, context="here")


def test_a_vault_shows_neither_keys_nor_texts() -> None:
    assert OLD not in repr(Vault([OLD]))
    with pytest.raises(ValueError, match="at least one"):
        Vault([])


#: Sealed by version 0.1.0. Whatever changes, these must open: they stand for every variable and secret that is stored.
STORED = {
    "environment 7 variable DATABASE_URL": (
        "v1.ifeFHGPo.-7tz9rgf7o3FQRpoIxiyjFtwFMqHX5MPa9Bqk4uZAwqRq1wZM61-ANABENqTp26twnPsIF49",
        "postgres://ada:pass@db/app",
    ),
    "channel 1": ("v1.ifeFHGPo.OEr5ObBgSgZlgA1qF1OrifZ_NJp2b-ZoRPrMXnFO", "ü"),
}


@pytest.mark.parametrize("context", STORED)
def test_what_an_earlier_release_sealed_is_opened_by_this_one(context: str) -> None:
    sealed, text = STORED[context]

    assert Vault([NEW, OLD]).open(sealed, context=context) == text


def test_the_places_that_secrets_are_sealed_to_keep_their_names() -> None:
    # A stored secret opens under exactly this text; another name of the place makes all of them unreadable.
    assert environment_variables._place(7, "DATABASE_URL") == "environment 7 variable DATABASE_URL"
    assert channels.place(NotificationChannel(pk=1)) == "notification channel 1"


def test_of_two_keys_with_the_same_text_one_seals_and_both_are_current() -> None:
    vault = Vault([NEW, OLD, NEW])

    assert vault.is_current(Vault([NEW]).seal("a", context="here"))
    assert not vault.is_current(Vault([OLD]).seal("a", context="here"))
