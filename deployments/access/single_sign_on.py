"""Single sign-on: which account a person of the OpenID provider has, and what the person may do (D-single-sign-on).

A person is (issuer, subject), never a name or an e-mail address, which the provider may let people choose. An account
that exists is linked by its owner while logged in, or by an administrator. Without one, an account is made; if an
account has the name or address already, nothing is made and the sentence says who can link it.

Groups are read at every log-in. Those that SSO_GROUPS names are given and taken by the claim alone; other groups and
rights, which an administrator gave, stay. A log-in without one of them ends the access: the account becomes inactive,
so its sessions and keys no longer work. Nobody but the provider knows that a person has left, so a personal token ends
SSO_TOKEN_DAYS after the person's last log-in (`access.keys`).
"""

from __future__ import annotations

import re
from typing import Any

from django.contrib.auth.models import Group, User
from django.db import IntegrityError, transaction
from django.db.models import F, Q
from django.db.models.functions import Now
from django.http import HttpRequest

from deployments.access import keys, sessions
from deployments.access.audit import Actor, Trail
from deployments.access.groups import ADMIN
from deployments.access.openid import Person
from deployments.config import Configuration
from deployments.errors import Refusal, refusal
from deployments.log import get_logger
from deployments.models import AccessKey, ActorKind, Identity

log = get_logger(__name__)

BY = "single sign-on"
_GROUPS_KEPT = 200  # of the claim, on the identity's row


def is_on(configuration: Configuration) -> bool:
    """Whether people can log in by single sign-on."""
    return bool(configuration.sso_issuer and configuration.sso_client_id)


def passwords_are_off(configuration: Configuration) -> bool:
    """Whether log-ins with a password are refused: PASSWORD_LOG_IN=0, and an administrator has logged in by the single
    sign-on of these settings. Else a mistake in the settings would lock out everybody.
    """
    return not configuration.password_log_in and is_on(configuration) and has_worked(configuration)


def has_worked(configuration: Configuration) -> bool:
    """Whether an administrator has logged in by single sign-on at the issuer of these settings, and is still linked."""
    return Identity.objects.filter(issuer=issuer_of(configuration), administrator_at__isnull=False).exists()


def issuer_of(configuration: Configuration) -> str:
    """The issuer as rows have it: without a slash at the end."""
    return (configuration.sso_issuer or "").rstrip("/")


def identity_of(user: Any, configuration: Configuration) -> Identity | None:
    """The person that the account is linked to, at the issuer of these settings."""
    return Identity.objects.filter(user_id=user.pk, issuer=issuer_of(configuration)).first()


def groups_for(person: Person, configuration: Configuration) -> set[str]:
    """The names of our groups that the person's groups give."""
    return {ours for theirs, ours in configuration.sso_groups if theirs in person.groups}


def log_in(person: Person, *, configuration: Configuration, request: HttpRequest) -> User:
    """Log the person in, with the rights that the person's groups give now. Raises Refusal (sso_…).

    The account, its groups, the session and their lines are one transaction.
    """
    try:
        try:
            user = _log_in(person, configuration, request)
        except IntegrityError:  # two first log-ins at once: the account exists now
            user = _log_in(person, configuration, request)
        if user is None:
            missing = "" if person.groups_sent else f" (it sent no claim {configuration.sso_groups_claim})"
            if absent := groups_for(person, configuration):
                missing = f" (SSO_GROUPS names {', '.join(sorted(absent))}, and there is no such group here)"
            raise refusal("sso_no_group", missing=missing)
    except Refusal as refused:
        _record_refusal(person, refused, request)
        raise
    return user


def _log_in(person: Person, configuration: Configuration, request: HttpRequest) -> User | None:
    """None if no group gives access; the account, if there is one, is inactive then."""
    with transaction.atomic():
        wanted = _existing(groups_for(person, configuration))
        known = _identity(person)
        if known is None and not wanted:
            return None
        identity = known or _make_account(person)
        user: User = identity.user
        trail = Trail(actor=Actor(kind=ActorKind.PERSON, name=user.email or user.username), request=request)
        if not wanted:
            _end_access(identity, person, trail)
            return None
        before = _rights(user)
        _give_access(identity, person, wanted, configuration)
        after = _rights(user)
        if known is None:
            trail.record("add.user", user, after={"username": user.username, **after, **_described(identity)})
        elif after != before:
            trail.record("change.user", user, before=before, after={**after, "by": BY})
        sessions.begin(request, user, by=BY)
        return user


def _identity(person: Person) -> Identity | None:
    """The row and its account, locked (on PostgreSQL): two log-ins of one person are one after the other, and a log-in
    does not overwrite what an administrator changes meanwhile.
    """
    rows = Identity.objects.select_for_update(of=("self", "user")).select_related("user")
    return rows.filter(issuer=person.issuer, subject=person.subject).first()


def _existing(names: set[str]) -> list[Group]:
    groups = list(Group.objects.filter(name__in=names).order_by("name"))
    if missing := names - {group.name for group in groups}:
        log.warning("sso.group_missing", groups=sorted(missing))
    return groups


def _make_account(person: Person) -> Identity:
    name = re.sub(r"[^\w.@+-]", "-", person.username or person.email or person.subject)[:150]
    for each in filter(None, (name, person.email)):
        if _is_taken(each):
            raise refusal("sso_account_exists", name=each, subject=person.subject)
    user = User(username=name, email=person.email, first_name=person.first_name, last_name=person.last_name)
    user.set_unusable_password()
    user.is_staff = True
    user.save()
    return Identity.objects.create(user=user, issuer=person.issuer, subject=person.subject, made_by=BY)


def _is_taken(name: str, *, but: User | None = None) -> bool:
    """Whether another account has this name or address. The audit log names people by either."""
    others = User.objects.exclude(pk=but.pk) if but is not None else User.objects.all()
    return others.filter(Q(username__iexact=name) | Q(email__iexact=name)).exists()


def _give_access(identity: Identity, person: Person, wanted: list[Group], configuration: Configuration) -> None:
    user: User = identity.user
    if not user.is_active and identity.access_ended_at is None:
        raise refusal("sso_inactive")
    managed = {ours for _, ours in configuration.sso_groups}
    user.groups.remove(*user.groups.filter(name__in=managed - {group.name for group in wanted}))
    user.groups.add(*wanted)
    user.is_active = user.is_staff = True
    user.first_name, user.last_name = person.first_name or user.first_name, person.last_name or user.last_name
    if person.email and person.email != user.email and not _is_taken(person.email, but=user):
        user.email = person.email
    user.save(update_fields=["is_active", "is_staff", "first_name", "last_name", "email"])
    administers = user.is_superuser or ADMIN in {group.name for group in wanted}
    Identity.objects.filter(pk=identity.pk).update(
        seen_at=Now(),
        log_ins=F("log_ins") + 1,
        groups=list(person.groups[:_GROUPS_KEPT]),
        access_ended_at=None,
        **({"administrator_at": Now()} if administers else {}),
    )


def _end_access(identity: Identity, person: Person, trail: Trail) -> None:
    """Make the account inactive. An account that an administrator made inactive stays so at the next log-in."""
    user: User = identity.user
    Identity.objects.filter(pk=identity.pk).update(groups=list(person.groups[:_GROUPS_KEPT]))
    if not user.is_active:
        return
    Identity.objects.filter(pk=identity.pk).update(access_ended_at=Now())
    User.objects.filter(pk=user.pk).update(is_active=False)
    before = _rights(user)
    after = {**before, "active": False, "by": BY, "groups_of_the_provider": list(person.groups[:20])}
    trail.record("change.user", user, before=before, after=after)
    # Or they would work again when the account is active again: also the session of this browser.
    sessions.end_others(user, trail, also_mine=True)
    transaction.on_commit(lambda: log.warning("sso.access_ended", user=user.pk))


def activity_was_set(user: User) -> None:
    """Somebody here has set whether the account is active, so no log-in makes it active again by itself."""
    user.identities.update(access_ended_at=None)


def _rights(user: User) -> dict[str, Any]:
    groups = sorted(user.groups.values_list("name", flat=True))
    return {"active": user.is_active, "staff": user.is_staff, "email": user.email, "groups": groups}


def _record_refusal(person: Person, refused: Refusal, request: HttpRequest) -> None:
    user = User.objects.filter(identities__issuer=person.issuer, identities__subject=person.subject).first()
    after = {"by": BY, "issuer": person.issuer, "subject": person.subject, "code": refused.code}
    sessions.record_failed(user, request=request, after=after, outcome=refused.sentence)


# ------------------------------------------------------------------------------------------------------------- links


def link(user: User, *, issuer: str, subject: str, trail: Trail) -> Identity:
    """Link an account to a person at the issuer. Raises Refusal (sso_linked) if either is linked."""
    with trail.change("link.identity", user, after={"issuer": issuer, "subject": subject}):
        try:
            with transaction.atomic():
                return Identity.objects.create(
                    user=user, issuer=issuer.rstrip("/"), subject=subject, made_by=trail.actor.name[:200]
                )
        except IntegrityError:
            raise refusal("sso_linked") from None


def unlink(identity: Identity, *, trail: Trail) -> bool:
    """Remove a link, end the account's other sessions, and revoke its keys that wait for a log-in by single sign-on:
    without the link they would work again. The account and its other keys stay. False if the link was removed before.
    """
    user: User = identity.user
    with trail.change("unlink.identity", user, before=_described(identity)) as line:
        waiting = list(AccessKey.objects.filter(keys.not_ended(), keys.unseen(), user=user))
        removed, _ = Identity.objects.filter(pk=identity.pk).delete()
        if not removed:
            line.nothing_changed()
            return False
        for key in waiting:
            keys.revoke(key)
            trail.record("revoke.key", key, before={"owner": str(user)})
        sessions.end_others(user, trail)
    return True


def _described(identity: Identity) -> dict[str, Any]:
    return {"issuer": identity.issuer, "subject": identity.subject}
