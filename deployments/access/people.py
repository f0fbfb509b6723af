"""Who may change whom: nobody changes a person or a group that has more rights than they have (D-no-climbing).

A superuser may do everything. Others may change, delete and set the password of a person, and change and delete a
group, only if they hold each right of the person or group; they may give only such rights and groups. So nobody gets a
right through another person's account, a group, or a password that is sent by mail.

Rights are sets of primary keys of `Permission`. An inactive person's rights count: the account can be activated.
"""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import Group, Permission, User
from django.db.models import Q, QuerySet

from deployments.access.groups import ADMIN, GROUPS


def held(user: User | Any) -> set[int]:
    """The rights that the user has, by themselves and through groups."""
    return set(Permission.objects.filter(Q(user=user) | Q(group__user=user)).values_list("pk", flat=True))


def may_change_person(actor: User | Any, person: User) -> bool:
    """Whether the actor may change this person, set their password and delete them."""
    if actor.is_superuser:
        return True
    if person.is_superuser:
        return False
    rights = held(person).union(*(_of_name(group.name) for group in person.groups.all()))
    return rights <= held(actor)


def may_change_group(actor: User | Any, group: Group) -> bool:
    """Whether the actor may change and delete this group, and put people into it."""
    return bool(actor.is_superuser) or _of_group(group) <= held(actor)


def may_name_group(actor: User | Any, name: str) -> bool:
    """Whether the actor may give a group this name: `migrate` gives rights to the groups with the names of GROUPS."""
    return bool(actor.is_superuser) or _of_name(name) <= held(actor)


def givable_rights(actor: User | Any, rights: QuerySet[Permission]) -> QuerySet[Permission]:
    """Those of the rights that the actor may give."""
    return rights if actor.is_superuser else rights.filter(pk__in=held(actor))


def givable_groups(actor: User | Any) -> QuerySet[Group]:
    """The groups that the actor may put people into."""
    groups = Group.objects.order_by("name")
    if actor.is_superuser:
        return groups
    own = held(actor)
    return groups.filter(pk__in=[group.pk for group in groups.all() if _of_group(group) <= own])


def _of_group(group: Group) -> set[int]:
    return set(group.permissions.values_list("pk", flat=True)) | _of_name(group.name)


def _of_name(name: str) -> set[int]:
    """The rights that `migrate` gives to the group with this name."""
    if name != ADMIN and name not in GROUPS:
        return set()
    rights = Permission.objects.filter(content_type__app_label__in=("auth", "deployments"))
    if name != ADMIN:
        rights = rights.filter(codename__in=GROUPS[name])
    return set(rights.values_list("pk", flat=True))
