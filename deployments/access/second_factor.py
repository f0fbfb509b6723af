"""The second factor of a log-in with a password: an app's codes (TOTP), passkeys, recovery codes (D-second-factor).

Rules and rows, no HTTP. The only importer of pyotp, fido2 and segno. Everything that may count only once is a
compare-and-set in the database, so it counts once in all processes: the 30 seconds of a code, the count of a passkey, a
recovery code. Each change and its audit line are one transaction. The caller counts wrong second factors and asks the
throttle before (`access.log_in_throttle`), and holds the transaction in which a second factor and its log-in are one.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import json
import re
import secrets
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import pyotp
import segno
from django.contrib.auth.models import User
from django.db.models import QuerySet
from django.db.models.functions import Now
from fido2.server import Fido2Server
from fido2.webauthn import (
    AttestedCredentialData,
    AuthenticationResponse,
    PublicKeyCredentialRpEntity,
    PublicKeyCredentialUserEntity,
    ResidentKeyRequirement,
    UserVerificationRequirement,
)

from deployments import clock
from deployments.access import sessions
from deployments.access.audit import Trail
from deployments.access.vault import Unreadable, Vault
from deployments.errors import refusal
from deployments.models import FactorKind, RecoveryCode, SecondFactor

MAX_FACTORS = 10  # of one person
CODE_DIGITS, CODE_SECONDS = 6, 30  # RFC 6238 with SHA-1: what every app can do
RECOVERY_CODES = 10
RECOVERY_CODE_CHARACTERS = 16  # of base32: 80 random bits, so SHA-256 suffices for the digest
FEW_RECOVERY_CODES = 2  # so many or fewer: the pages warn
CHALLENGE_SECONDS = 5 * 60
MAX_CREDENTIAL_CHARACTERS = 16 * 1024  # of a browser's answer
COUNT_WENT_BACK = "passkey_count_back"


def of(person: Any) -> QuerySet[SecondFactor]:
    """The person's second factors, oldest first."""
    return SecondFactor.objects.filter(user_id=person.pk)


def recovery_codes_left(person: Any) -> int:
    """How many recovery codes of the person were not used."""
    return RecoveryCode.objects.filter(user_id=person.pk, used_at=None).count()


# -------------------------------------------------------------------------------------------- codes of an app (TOTP)


def new_seed() -> str:
    """A new key for an app: 160 random bits in base32."""
    return pyotp.random_base32()


def seed_address(seed: str, person: Any, *, origin: str) -> str:
    """The otpauth:// address that an app reads from the picture."""
    issuer = f"Registry Admin ({urlsplit(origin).hostname})"
    app = pyotp.TOTP(seed, name=person.email or person.get_username(), issuer=issuer)
    return app.provisioning_uri()


def picture(text: str) -> str:
    """A QR code as a data: address of an SVG image, dark on light in every scheme."""
    return str(segno.make(text, error="m").svg_data_uri(scale=5, border=4, dark="#000", light="#fff"))


def step_of(seed: str, code: str, at: datetime) -> int | None:
    """The number of the 30 seconds that the code belongs to: those of the time `at`, or the ones before. Else None.

    So a code counts for 30 to 60 seconds. An app whose clock is ahead has wrong codes in the last seconds of each 30.
    """
    if not re.fullmatch(rf"[0-9]{{{CODE_DIGITS}}}", code):
        return None
    app = pyotp.TOTP(seed, digits=CODE_DIGITS, interval=CODE_SECONDS)
    present = app.timecode(at)
    return next((step for step in (present, present - 1) if hmac.compare_digest(app.generate_otp(step), code)), None)


def add_app(
    *, person: User, seed: str, code: str, name: str, vault: Vault, trail: Trail, as_first: bool = False
) -> list[str]:
    """Add an app that shows this code now. Returns the recovery codes that are new with a first factor.

    `as_first`: only if the person has no second factor. Raises Refusal (second_factor_wrong, second_factors_too_many,
    second_factor_present).
    """
    step = step_of(seed, code.replace(" ", ""), clock.now())
    if step is None:
        raise refusal("second_factor_wrong")
    made = SecondFactor(user=person, kind=FactorKind.TOTP, name=name or "App", last_step=step)
    with trail.change("add.second_factor", person, after=described(made)):
        codes = _add(made, trail=trail, as_first=as_first)
        made.secret = vault.encrypt(seed, context=encryption_context(made))
        made.save(update_fields=["secret"])
    return codes


def accept_code(*, person: Any, code: str, vault: Vault) -> SecondFactor:
    """The app whose code this is. The code counts once.

    Raises Refusal: second_factor_wrong, or second_factor_unreadable if a key of an app cannot be decrypted.
    """
    at, code, unreadable = clock.now(), code.replace(" ", ""), False
    for factor in of(person).filter(kind=FactorKind.TOTP):
        try:
            seed = vault.decrypt(factor.secret, context=encryption_context(factor))
        except Unreadable:
            unreadable = True
            continue
        step = step_of(seed, code, at)
        earlier = SecondFactor.objects.filter(pk=factor.pk, last_step__lt=step or 0)
        if step is not None and earlier.update(last_step=step, last_used_at=Now()):
            return factor
    raise refusal("second_factor_unreadable" if unreadable else "second_factor_wrong")


def encryption_context(factor: SecondFactor) -> str:
    """What the vault encrypts the key of this row's app for."""
    return f"second factor {factor.pk}"


def can_decrypt(vault: Vault) -> bool | None:
    """Whether the vault decrypts the oldest and the newest key of an app; None if there is no app."""
    rows = SecondFactor.objects.exclude(secret="").order_by("pk")
    tried = [row for row in (rows.first(), rows.last()) if row is not None]
    try:
        for row in tried:
            vault.decrypt(row.secret, context=encryption_context(row))
    except Unreadable:
        return False
    return True if tried else None


def reencrypt(*, vault: Vault) -> tuple[int, list[SecondFactor]]:
    """Encrypt the key of every app with the vault's first key.

    Returns how many were encrypted again, and the rows that cannot be decrypted.
    """
    done, unreadable = 0, []
    for row in SecondFactor.objects.exclude(secret="").select_related("user"):
        if vault.is_current(row.secret):
            continue
        context = encryption_context(row)
        try:
            again = vault.encrypt_again(row.secret, context=context)
        except Unreadable:
            unreadable.append(row)
            continue
        done += SecondFactor.objects.filter(pk=row.pk, secret=row.secret).update(secret=again)
    return done, unreadable


# ---------------------------------------------------------------------------------------------------------- passkeys


def passkey_obstacle(origin: str) -> str:
    """Why browsers make no passkey for this origin, in a sentence; empty if they do (WebAuthn, “valid domain”)."""
    parts = urlsplit(origin)
    host = parts.hostname or ""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if parts.scheme == "https" or host == "localhost":
            return ""
        return f"Browsers make passkeys only over https. APP_ORIGIN is {origin}."
    return f"Browsers make passkeys only for a host name, not for an IP address. APP_ORIGIN is {origin}."


def begin_passkey(*, person: Any, origin: str) -> tuple[str, dict[str, Any]]:
    """What the browser needs to make a passkey, as JSON, and the challenge, which the session keeps."""
    options, challenge = _server(origin).register_begin(
        PublicKeyCredentialUserEntity(
            id=f"user {person.pk}".encode(), name=person.get_username(), display_name=person.email or str(person)
        ),
        credentials=_credentials(person),
        resident_key_requirement=ResidentKeyRequirement.PREFERRED,
        user_verification=UserVerificationRequirement.PREFERRED,
    )
    return json.dumps(dict(options)["publicKey"]), {**challenge, "at": time.time()}


def add_passkey(
    *,
    person: User,
    origin: str,
    challenge: Mapping[str, Any] | None,
    credential: str,
    name: str,
    trail: Trail,
    as_first: bool = False,
) -> list[str]:
    """Add the passkey that the browser has made. `challenge`: from the session, which has it no more.

    Returns and raises what `add_app` does, and Refusal (passkey_refused).
    """
    if not _is_open(challenge):
        raise refusal("passkey_refused", reason="It took more than five minutes, or was sent twice")
    try:
        found = _server(origin).register_complete(challenge, _read(credential))
        data = found.credential_data
        if data is None:
            raise ValueError("The browser sent no passkey.")
    except Exception as error:  # of any kind: fido2 parses what the browser sent
        raise refusal("passkey_refused", reason=_reason(error)) from None
    digest = hashlib.sha256(data.credential_id).hexdigest()
    made = SecondFactor(
        user=person, kind=FactorKind.PASSKEY, name=name or "Passkey", credential=_text(data), credential_digest=digest,
        sign_count=found.counter,
    )  # fmt: skip
    with trail.change("add.second_factor", person, after=described(made)):
        if SecondFactor.objects.filter(credential_digest=digest).exists():
            raise refusal("passkey_refused", reason="It is registered already")
        return _add(made, trail=trail, as_first=as_first)


def ask_for_passkey(*, person: Any, origin: str) -> tuple[str, dict[str, Any]]:
    """What the browser needs to use a passkey of the person, as JSON, and the challenge, which the session keeps."""
    options, challenge = _server(origin).authenticate_begin(
        _credentials(person), user_verification=UserVerificationRequirement.PREFERRED
    )
    return json.dumps(dict(options)["publicKey"]), {**challenge, "at": time.time()}


def accept_passkey(*, person: Any, origin: str, challenge: Mapping[str, Any] | None, credential: str) -> SecondFactor:
    """The passkey that has signed the challenge. `challenge`: from the session, which has it no more.

    Raises Refusal: passkey_refused; passkey_count_back if the passkey has counted less than before, so that a copy of
    it may exist.
    """
    if not _is_open(challenge):
        raise refusal("passkey_refused", reason="It took more than five minutes, or was sent twice")
    known = {_credential(row).credential_id: row for row in of(person).filter(kind=FactorKind.PASSKEY)}
    try:
        answer = _read(credential)
        used = _server(origin).authenticate_complete(challenge, [_credential(row) for row in known.values()], answer)
        count = AuthenticationResponse.from_dict(answer).response.authenticator_data.counter
    except Exception as error:  # of any kind: fido2 parses what the browser sent
        raise refusal("passkey_refused", reason=_reason(error)) from None
    factor = known[used.credential_id]
    rows = SecondFactor.objects.filter(pk=factor.pk)
    # A passkey that does not count sends 0 each time.
    as_expected = rows.filter(sign_count__lt=count) if count else rows.filter(sign_count=0)
    if not as_expected.update(sign_count=count, last_used_at=Now()):
        raise refusal(COUNT_WENT_BACK, name=factor.name)
    return factor


def _server(origin: str) -> Fido2Server:
    host = urlsplit(origin).hostname or ""
    party = PublicKeyCredentialRpEntity(id=host, name="Registry Admin")
    return Fido2Server(party, verify_origin=lambda found: found == origin)


def _is_open(challenge: Mapping[str, Any] | None) -> bool:
    return challenge is not None and sessions.is_within(challenge["at"], CHALLENGE_SECONDS)


def _read(credential: str) -> dict[str, Any]:
    if len(credential) > MAX_CREDENTIAL_CHARACTERS:
        raise ValueError("The browser's answer is too long.")
    found: dict[str, Any] = json.loads(credential)
    return found


def _reason(error: Exception) -> str:
    """One of fido2's sentences, which have no value of the browser's; nothing of other errors."""
    return str(error).rstrip(".") if type(error) is ValueError else "The browser's answer cannot be read"


def _credentials(person: Any) -> list[AttestedCredentialData]:
    return [_credential(row) for row in of(person).filter(kind=FactorKind.PASSKEY)]


def _credential(row: SecondFactor) -> AttestedCredentialData:
    return AttestedCredentialData(base64.urlsafe_b64decode(row.credential))


def _text(data: AttestedCredentialData) -> str:
    return base64.urlsafe_b64encode(data).decode("ascii")


# ---------------------------------------------------------------------------------------------------- recovery codes


def make_recovery_codes(*, person: User, trail: Trail) -> list[str]:
    """New recovery codes instead of all earlier ones. They are shown once: only their digests are stored."""
    with trail.change("make.recovery_codes", person) as line:
        _lock(person)
        line.before = {"left": recovery_codes_left(person)}
        line.after = {"left": RECOVERY_CODES}
        return _new_recovery_codes(person)


def accept_recovery_code(*, person: User, code: str, trail: Trail) -> None:
    """Use a recovery code. It counts once. Raises Refusal (second_factor_wrong)."""
    unused = RecoveryCode.objects.filter(user_id=person.pk, digest=_digest(code), used_at=None)
    if not unused.update(used_at=Now()):
        raise refusal("second_factor_wrong")
    left = recovery_codes_left(person)
    trail.record("use.recovery_code", person, before={"left": left + 1}, after={"left": left})


def _new_recovery_codes(person: User) -> list[str]:
    RecoveryCode.objects.filter(user=person).delete()
    random = [base64.b32encode(secrets.token_bytes(RECOVERY_CODE_CHARACTERS * 5 // 8)) for _ in range(RECOVERY_CODES)]
    codes = ["-".join(re.findall("....", each.decode("ascii"))) for each in random]
    RecoveryCode.objects.bulk_create(RecoveryCode(user=person, digest=_digest(each)) for each in codes)
    return codes


def _digest(code: str) -> str:
    return hashlib.sha256(re.sub(r"[\s-]", "", code).upper().encode("utf-8")).hexdigest()


# --------------------------------------------------------------------------------------------------- adding, removing


def _lock(person: User) -> None:
    """Let one transaction at a time change the second factors of this person."""
    User.objects.select_for_update().get(pk=person.pk)


def _add(made: SecondFactor, *, trail: Trail, as_first: bool) -> list[str]:
    """Save the row in the open transaction of its line. Returns the recovery codes that are new with a first factor."""
    _lock(made.user)
    before = of(made.user).count()
    if as_first and before:
        raise refusal("second_factor_present")
    if before >= MAX_FACTORS:
        raise refusal("second_factors_too_many", most=MAX_FACTORS)
    made.save()
    if before:
        return []
    trail.record("make.recovery_codes", made.user, after={"left": RECOVERY_CODES})
    return _new_recovery_codes(made.user)


def remove(*, factor: SecondFactor, trail: Trail) -> None:
    """Remove one second factor; with the last one also the recovery codes. Nothing if it is gone already."""
    person = factor.user
    with trail.change("remove.second_factor", person, before=described(factor)) as line:
        _lock(person)
        if not of(person).filter(pk=factor.pk).delete()[0]:
            line.nothing_changed()
        elif not of(person).exists():
            RecoveryCode.objects.filter(user=person).delete()


def remove_all(*, person: User, trail: Trail) -> int:
    """Remove all second factors and recovery codes of a person. Returns how many factors there were."""
    with trail.change("remove.second_factor", person) as line:
        _lock(person)
        gone = list(of(person))
        line.before = {"second_factors": [str(each) for each in gone]}
        of(person).delete()
        codes, _ = RecoveryCode.objects.filter(user=person).delete()
        if not gone and not codes:
            line.nothing_changed()
    return len(gone)


def described(factor: SecondFactor) -> dict[str, str]:
    """What the audit log has of a second factor."""
    return {"kind": factor.kind, "name": factor.name}
