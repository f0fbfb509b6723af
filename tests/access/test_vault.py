"""Stored secrets: an encrypted value can be decrypted with its key and its context only."""

from __future__ import annotations

import pytest

from deployments.access.vault import Unreadable, Vault
from deployments.deploys import environment_variables
from deployments.models import NotificationChannel
from deployments.notify import channels

OLD, NEW = "the-old-key-0123456789-0123456789", "the-new-key-0123456789-0123456789"


@pytest.mark.parametrize("text", ["", "postgres://ada:pass@db/app", "ü👍🏽\n\t", "x" * 100_000])
def test_an_encrypted_text_is_decrypted(text: str) -> None:
    vault = Vault([NEW])
    encrypted = vault.encrypt(text, context="here")

    assert vault.decrypt(encrypted, context="here") == text
    assert encrypted.isascii()
    assert not text or text not in encrypted


def test_the_same_text_is_encrypted_differently_each_time() -> None:
    vault = Vault([NEW])

    assert vault.encrypt("a", context="here") != vault.encrypt("a", context="here")


def test_a_value_that_was_copied_to_another_row_cannot_be_decrypted() -> None:
    vault = Vault([NEW])

    with pytest.raises(Unreadable):
        vault.decrypt(vault.encrypt("a", context="here"), context="there")


def test_an_older_key_still_decrypts_and_does_not_encrypt() -> None:
    encrypted = Vault([OLD]).encrypt("a", context="here")
    vault = Vault([NEW, OLD])

    assert vault.decrypt(encrypted, context="here") == "a"
    assert not vault.is_current(encrypted)
    assert vault.is_current(vault.encrypt("a", context="here"))
    assert Vault([NEW]).decrypt(vault.encrypt("a", context="here"), context="here") == "a"


def test_without_its_key_a_value_cannot_be_decrypted() -> None:
    encrypted = Vault([OLD]).encrypt("hunter2", context="here")

    with pytest.raises(Unreadable) as refusal:
        Vault([NEW]).decrypt(encrypted, context="here")
    assert "hunter2" not in str(refusal.value)


def test_no_stored_text_is_strange_enough_for_another_error() -> None:
    vault = Vault([NEW])
    encrypted = vault.encrypt("a", context="here")
    name = encrypted.split(".")[1]

    beginnings = ("", "a", "v1", "v1.", f"v2.{encrypted[3:]}", f"v1.{name}.", f"v1.{name}.A", f"v1.{name}.AA==")
    for stored in (*beginnings, f"v1.{name}.ü", encrypted[:-5], encrypted[:-6] + "AAAAAA"):
        with pytest.raises(Unreadable):
            vault.decrypt(stored, context="here")


def test_a_vault_shows_neither_keys_nor_texts() -> None:
    assert OLD not in repr(Vault([OLD]))
    with pytest.raises(ValueError, match="at least one"):
        Vault([])


#: Encrypted by version 0.1.0. Each later version must decrypt these values, like every stored variable and secret.
STORED = {
    "environment 7 variable DATABASE_URL": (
        "v1.ifeFHGPo.-7tz9rgf7o3FQRpoIxiyjFtwFMqHX5MPa9Bqk4uZAwqRq1wZM61-ANABENqTp26twnPsIF49",
        "postgres://ada:pass@db/app",
    ),
    "channel 1": ("v1.ifeFHGPo.OEr5ObBgSgZlgA1qF1OrifZ_NJp2b-ZoRPrMXnFO", "ü"),
}


@pytest.mark.parametrize("context", STORED)
def test_this_version_decrypts_what_an_earlier_release_encrypted(context: str) -> None:
    encrypted, text = STORED[context]

    assert Vault([NEW, OLD]).decrypt(encrypted, context=context) == text


def test_the_contexts_that_secrets_are_encrypted_for_keep_their_names() -> None:
    # A stored secret is decrypted with exactly this context; another context makes all stored secrets unreadable.
    assert environment_variables._encryption_context(7, "DATABASE_URL") == "environment 7 variable DATABASE_URL"
    assert channels.encryption_context(NotificationChannel(pk=1)) == "notification channel 1"
    assert channels._address_context(NotificationChannel(pk=1)) == "address of notification channel 1"


def test_of_two_keys_with_the_same_secret_the_first_encrypts_and_both_are_current() -> None:
    vault = Vault([NEW, OLD, NEW])

    assert vault.is_current(Vault([NEW]).encrypt("a", context="here"))
    assert not vault.is_current(Vault([OLD]).encrypt("a", context="here"))
