"""The rules of the second factor: what counts, what counts once, and what is stored."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pyotp
import pytest
from django.conf import settings as django_settings
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command

from deployments import clock, doctor
from deployments.access import second_factor
from deployments.access.vault import Vault
from deployments.errors import Refusal
from deployments.models import AuditEntry, RecoveryCode, SecondFactor
from tests.support.constants import TRAIL
from tests.support.second_factors import NOON, SoftPasskey, code_of, with_app

ORIGIN = "http://localhost:8000"


@pytest.fixture
def ada(db: None, monkeypatch: pytest.MonkeyPatch) -> User:
    monkeypatch.setattr(clock, "now", lambda: NOON)
    return User.objects.create_superuser("ada", "ada@example.com", "a password")


@pytest.fixture
def kim(ada: User) -> User:
    return User.objects.create_user("kim", password="a password")


def vault() -> Vault:
    return Vault(django_settings.ENCRYPTION_KEYS)


def code_works(person: User, code: str) -> bool:
    try:
        second_factor.accept_code(person=person, code=code, vault=vault())
    except Refusal as refused:
        return refused.code != "second_factor_wrong"
    return True


def refused_with(call: Callable[..., Any], **arguments: Any) -> tuple[str, str]:
    with pytest.raises(Refusal) as refused:
        call(**arguments)
    return refused.value.code, refused.value.sentence


def written() -> str:
    return json.dumps(list(AuditEntry.objects.values_list("actor", "action", "before", "after", "outcome")))


# -------------------------------------------------------------------------------------------------- codes of an app


@pytest.mark.parametrize(
    ("seconds", "code"),
    [  # RFC 6238, appendix B, SHA-1: the last six of eight digits
        (59, "287082"), (1111111109, "081804"), (1111111111, "050471"), (1234567890, "005924"),
        (2000000000, "279037"), (20000000000, "353130"),
    ],
)  # fmt: skip
def test_a_code_is_that_of_rfc_6238(seconds: int, code: str) -> None:
    seed = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"  # 12345678901234567890 in base32

    assert second_factor.step_of(seed, code, datetime.fromtimestamp(seconds, UTC)) == seconds // 30


@pytest.mark.parametrize(("steps", "counts"), [(-2, False), (-1, True), (0, True), (1, False)])
def test_a_code_counts_in_its_thirty_seconds_and_the_next_ones(steps: int, counts: bool) -> None:
    seed = second_factor.new_seed()

    assert (second_factor.step_of(seed, code_of(seed, steps=steps), NOON) is not None) is counts


@pytest.mark.parametrize("code", ["", "12345", "1234567", "12345a", "１２３４５６", "123 456"])
def test_what_is_not_six_digits_is_no_code(code: str) -> None:
    assert second_factor.step_of(second_factor.new_seed(), code, NOON) is None


def test_a_key_has_160_random_bits_and_its_address_names_the_account_and_the_host(ada: User) -> None:
    seed = second_factor.new_seed()

    address = second_factor.seed_address(seed, ada, origin="https://deploy.example.com")

    assert len(pyotp.TOTP(seed).byte_secret()) == 20
    assert seed != second_factor.new_seed()
    read = pyotp.parse_uri(address)
    assert isinstance(read, pyotp.TOTP)
    assert (read.name, read.issuer) == ("ada@example.com", "Registry Admin (deploy.example.com)")
    assert (read.secret, read.digits, read.interval) == (seed, 6, 30)
    assert second_factor.picture(address).startswith("data:image/svg+xml")


def test_a_code_counts_once_and_an_earlier_one_no_more(ada: User) -> None:
    seed, _ = with_app(ada)

    assert code_works(ada, f"{code_of(seed)[:3]} {code_of(seed)[3:]}")
    assert not code_works(ada, code_of(seed))
    assert not code_works(ada, code_of(seed, steps=-1))


def test_the_code_that_confirmed_an_app_does_not_count_again(ada: User) -> None:
    seed, _ = with_app(ada, steps=0)

    assert not code_works(ada, code_of(seed))


def test_a_code_of_another_person_does_not_count(ada: User, kim: User) -> None:
    seed, codes = with_app(kim)
    with_app(ada)

    assert not code_works(ada, code_of(seed))
    assert refused_with(second_factor.accept_recovery_code, person=ada, code=codes[0], trail=TRAIL)[0] == (
        "second_factor_wrong"
    )


def test_each_of_several_apps_works(ada: User) -> None:
    first, codes = with_app(ada)
    second, more = with_app(ada, name="Tablet")

    assert len(codes) == 10
    assert more == []  # the earlier ones still work
    assert code_works(ada, code_of(second))
    assert code_works(ada, code_of(first))


def test_an_app_is_added_only_with_a_code_that_it_shows_now(ada: User) -> None:
    seed = second_factor.new_seed()
    wrong = {"person": ada, "seed": seed, "name": "", "vault": vault(), "trail": TRAIL}

    assert refused_with(second_factor.add_app, code=code_of(seed, steps=5), **wrong)[0] == "second_factor_wrong"

    assert not SecondFactor.objects.exists()
    assert not AuditEntry.objects.exists()


def test_a_person_has_at_most_ten_second_factors(ada: User) -> None:
    for number in range(10):
        with_app(ada, name=str(number))

    with pytest.raises(Refusal, match="at most 10 second factors"):
        with_app(ada)

    assert second_factor.of(ada).count() == 10


# ------------------------------------------------------------------------------------------------ what is stored


def test_no_row_and_no_line_has_the_key_of_an_app_or_a_code(ada: User) -> None:
    seed, codes = with_app(ada)
    second_factor.accept_recovery_code(person=ada, code=codes[0], trail=TRAIL)
    kept = (
        written()
        + json.dumps([*SecondFactor.objects.values_list("secret", "credential")])
        + json.dumps([*RecoveryCode.objects.values_list("digest")])
    )

    assert seed not in kept
    for code in [*codes, code_of(seed, steps=-1)]:
        assert code not in kept
        assert code.replace("-", "") not in kept
    lines = AuditEntry.objects.order_by("pk").values_list("action", "before", "after")
    assert list(lines) == [
        ("make.recovery_codes", None, {"left": 10}),
        ("add.second_factor", None, {"kind": "totp", "name": "Phone"}),
        ("use.recovery_code", {"left": 10}, {"left": 9}),
    ]


def test_the_key_of_an_app_that_somebody_copies_into_another_row_is_not_decrypted(ada: User, kim: User) -> None:
    seed, _ = with_app(kim)
    with_app(ada)
    SecondFactor.objects.filter(user=ada).update(secret=SecondFactor.objects.get(user=kim).secret)

    code, sentence = refused_with(second_factor.accept_code, person=ada, code=code_of(seed), vault=vault())

    assert code == "second_factor_unreadable"
    assert "Use a passkey or a recovery code" in sentence


def test_the_context_that_the_key_of_an_app_is_encrypted_for_keeps_its_name() -> None:
    assert second_factor.encryption_context(SecondFactor(pk=7)) == "second factor 7"


def test_reencrypt_and_the_doctor_know_the_keys_of_apps(ada: User, settings: Any) -> None:
    seed, _ = with_app(ada)
    assert second_factor.can_decrypt(vault())
    earlier = settings.ENCRYPTION_KEYS
    settings.ENCRYPTION_KEYS = ["a new key " * 4, *earlier]
    output = io.StringIO()

    call_command("reencrypt", stdout=output)
    call_command("reencrypt", stdout=output)

    assert output.getvalue().count("Keys of apps that show codes encrypted again: 1.") == 1
    settings.ENCRYPTION_KEYS = settings.ENCRYPTION_KEYS[:1]
    assert code_works(ada, code_of(seed))
    assert {line.what: line.level.name for line in doctor._stored_secrets()} == {"Keys of apps that show codes": "OK"}
    settings.ENCRYPTION_KEYS = ["no key of ours " * 4]
    assert {line.level.name for line in doctor._stored_secrets()} == {"FAIL"}
    with pytest.raises(CommandError, match="Values that no key decrypts: 1"):
        call_command("reencrypt", stdout=output, stderr=output)
    assert "Code from an app “Phone” of ada: no key decrypts its key" in output.getvalue()


def test_the_doctor_has_nothing_to_try_without_an_app(ada: User) -> None:
    assert second_factor.can_decrypt(vault()) is None


# -------------------------------------------------------------------------------------------------- recovery codes


def test_the_first_second_factor_comes_with_ten_codes_of_eighty_bits(ada: User) -> None:
    _, codes = with_app(ada)

    assert len(set(codes)) == 10
    for code in codes:
        assert re.fullmatch("([A-Z2-7]{4}-){3}[A-Z2-7]{4}", code)
    assert second_factor.recovery_codes_left(ada) == 10


def test_a_recovery_code_counts_once_however_it_is_typed(ada: User) -> None:
    _, codes = with_app(ada)

    second_factor.accept_recovery_code(person=ada, code=f" {codes[3].lower().replace('-', ' ')} ", trail=TRAIL)

    assert refused_with(second_factor.accept_recovery_code, person=ada, code=codes[3], trail=TRAIL)[0] == (
        "second_factor_wrong"
    )
    assert second_factor.recovery_codes_left(ada) == 9


def test_new_recovery_codes_replace_all_earlier_ones(ada: User) -> None:
    _, codes = with_app(ada)

    new = second_factor.make_recovery_codes(person=ada, trail=TRAIL)

    assert set(new).isdisjoint(codes)
    assert second_factor.recovery_codes_left(ada) == 10
    refused_with(second_factor.accept_recovery_code, person=ada, code=codes[0], trail=TRAIL)
    second_factor.accept_recovery_code(person=ada, code=new[0], trail=TRAIL)


def test_the_recovery_codes_go_with_the_last_second_factor(ada: User) -> None:
    with_app(ada)
    with_app(ada, name="Tablet")
    first, second = second_factor.of(ada)

    second_factor.remove(factor=first, trail=TRAIL)
    assert second_factor.recovery_codes_left(ada) == 10
    second_factor.remove(factor=second, trail=TRAIL)
    assert not RecoveryCode.objects.exists()
    second_factor.remove(factor=second, trail=TRAIL)  # gone already

    lines = AuditEntry.objects.filter(action="remove.second_factor").values_list("before", flat=True)
    assert sorted(line["name"] for line in lines if line) == ["Phone", "Tablet"]


def test_all_are_removed_at_once_with_a_line_that_names_them(ada: User, kim: User) -> None:
    for person in (ada, kim):
        with_app(person)

    assert second_factor.remove_all(person=ada, trail=TRAIL) == 1
    assert second_factor.remove_all(person=ada, trail=TRAIL) == 0

    assert SecondFactor.objects.get().user == kim
    assert second_factor.recovery_codes_left(kim) == 10
    line = AuditEntry.objects.get(action="remove.second_factor")
    assert line.before == {"second_factors": ["Code from an app “Phone”"]}


# --------------------------------------------------------------------------------------------------------- passkeys


def add_passkey(person: User, passkey: SoftPasskey, **arguments: Any) -> None:
    options, challenge = second_factor.begin_passkey(person=person, origin=ORIGIN)
    values = {"challenge": challenge, "credential": passkey.make(options), "name": "Laptop", **arguments}
    second_factor.add_passkey(person=person, origin=ORIGIN, trail=TRAIL, **values)


def use_passkey(person: User, passkey: SoftPasskey) -> SecondFactor:
    options, challenge = second_factor.ask_for_passkey(person=person, origin=ORIGIN)
    return second_factor.accept_passkey(
        person=person, origin=ORIGIN, challenge=challenge, credential=passkey.use(options)
    )


@pytest.mark.parametrize("counts", [True, False])
def test_a_passkey_is_made_and_used(counts: bool, ada: User) -> None:
    passkey = SoftPasskey(counts=counts)
    add_passkey(ada, passkey)

    for _ in range(2):
        assert use_passkey(ada, passkey).name == "Laptop"

    row = SecondFactor.objects.get()
    assert row.sign_count == (3 if counts else 0)
    assert row.last_used_at is not None


@pytest.mark.parametrize(("counts", "uses"), [(True, 5), (True, 0), (False, 0)])
def test_a_passkey_that_has_counted_no_further_than_before_is_refused(counts: bool, uses: int, ada: User) -> None:
    passkey = SoftPasskey(uses=4)
    add_passkey(ada, passkey)
    use_passkey(ada, passkey)
    passkey.counts, passkey.uses = counts, uses  # each use counts one more

    code, sentence = refused_with(lambda: use_passkey(ada, passkey))

    assert code == "passkey_count_back"
    assert "a copy of it may exist" in sentence
    assert SecondFactor.objects.get().sign_count == 6


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ({"origin": "http://localhost:8001"}, "Invalid origin"),
        ({"origin": "https://evil.example"}, "Invalid origin"),
        ({"host": "evil.example"}, "Wrong RP ID hash"),
    ],
)
def test_a_passkey_of_another_origin_is_refused(place: dict[str, str], reason: str, ada: User) -> None:
    passkey = SoftPasskey()
    add_passkey(ada, passkey)
    for name, value in place.items():
        setattr(passkey, name, value)

    assert refused_with(lambda: use_passkey(ada, passkey))[0] == "passkey_refused"
    code, sentence = refused_with(lambda: add_passkey(ada, SoftPasskey(**place)))  # type: ignore[arg-type]
    assert (code, reason in sentence) == ("passkey_refused", True)
    assert second_factor.of(ada).count() == 1


def test_a_passkey_of_another_person_or_key_is_refused(ada: User, kim: User) -> None:
    mine, of_kim = SoftPasskey(), SoftPasskey()
    add_passkey(ada, mine)
    add_passkey(kim, of_kim)

    assert refused_with(lambda: use_passkey(ada, of_kim))[0] == "passkey_refused"
    forged = SoftPasskey(id=mine.id)
    assert refused_with(lambda: use_passkey(ada, forged)) == (
        "passkey_refused", "The passkey was refused: Invalid signature. Load the page again, and use the passkey again."
    )  # fmt: skip


def test_a_challenge_is_for_five_minutes_and_for_its_own_answer(ada: User) -> None:
    passkey = SoftPasskey()
    add_passkey(ada, passkey)
    options, challenge = second_factor.ask_for_passkey(person=ada, origin=ORIGIN)
    _, another = second_factor.ask_for_passkey(person=ada, origin=ORIGIN)
    sent: dict[str, Any] = {"person": ada, "origin": ORIGIN, "credential": passkey.use(options)}

    def at(seconds: int) -> dict[str, Any]:
        return {**challenge, "at": challenge["at"] + seconds}

    for wrong in (None, another, at(-301), at(+360)):
        assert refused_with(second_factor.accept_passkey, challenge=wrong, **sent)[0] == "passkey_refused"
    second_factor.accept_passkey(challenge=at(+60), **sent)  # of a web process whose clock is ahead


def test_a_passkey_is_registered_once_in_the_whole_installation(ada: User, kim: User) -> None:
    passkey = SoftPasskey()
    add_passkey(ada, passkey)

    code, sentence = refused_with(lambda: add_passkey(kim, passkey))

    assert (code, "registered already" in sentence) == ("passkey_refused", True)
    assert not second_factor.of(kim).exists()
    assert second_factor.recovery_codes_left(kim) == 0


@pytest.mark.parametrize("credential", ["", "null", "[]", "{}", '{"id": 1}', "x" * 20_000, '{"response": {}}', "\0"])
def test_an_answer_that_no_browser_gives_is_refused_in_a_sentence(credential: str, ada: User) -> None:
    add_passkey(ada, SoftPasskey())

    for begin, end in (
        (second_factor.begin_passkey, lambda **values: second_factor.add_passkey(name="", trail=TRAIL, **values)),
        (second_factor.ask_for_passkey, second_factor.accept_passkey),
    ):
        _, challenge = begin(person=ada, origin=ORIGIN)
        found = refused_with(end, person=ada, origin=ORIGIN, challenge=challenge, credential=credential)
        assert found[0] == "passkey_refused"
        assert len(found[1]) < 200


@pytest.mark.parametrize(
    ("origin", "sentence"),
    [
        ("https://deploy.example.com", ""),
        ("http://localhost:8000", ""),
        ("http://deploy.example.com", "only over https"),
        ("https://192.0.2.7", "not for an IP address"),
        ("http://127.0.0.1:8000", "not for an IP address"),
        ("https://[2001:db8::1]", "not for an IP address"),
    ],
)
def test_passkeys_are_offered_where_browsers_make_them(origin: str, sentence: str) -> None:
    found = second_factor.passkey_obstacle(origin)

    assert sentence in found
    assert bool(found) is bool(sentence)


def test_a_person_who_is_deleted_leaves_no_second_factor(ada: User, kim: User) -> None:
    with_app(kim)

    kim.delete()

    assert not SecondFactor.objects.exists()
    assert not RecoveryCode.objects.exists()
