"""Nobody gets a right that they do not have: role × act, on people and groups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.db.models import Q
from django.test import Client

from deployments.access.groups import ensure_groups

PASSWORD = "a-long-enough-1"
#: The rights of a person who looks after accounts.
KEEPS = [f"{verb}_{noun}" for verb in ("view", "add", "change", "delete") for noun in ("user", "group")]


@dataclass(kw_only=True)
class People:
    """The actor, and everybody whom the actor may act on."""

    client: Client
    actor: User
    chief: User  # a superuser
    strong: User  # has a right that the keeper does not have
    dormant: User  # the same, through a group, and not active
    peer: User  # has a right that every role has
    strong_group: Group
    own_group: Group  # the actor's, with no right of its own

    def post(self, path: str, **data: Any) -> Any:
        return self.client.post(f"/admin/auth/{path}", data)

    def change(self, user: User, **data: Any) -> Any:
        """The form of a person as the browser sends it, with these fields changed; None: not sent."""
        sent: dict[str, Any] = {"username": user.username, "email": user.email}
        sent |= {name: "on" for name in ("is_active", "is_staff", "is_superuser") if getattr(user, name)}
        sent |= {"groups": [group.pk for group in user.groups.all()]}
        sent |= {"user_permissions": [right.pk for right in user.user_permissions.all()]}
        sent = {name: value for name, value in (sent | data).items() if value is not None}
        return self.post(f"user/{user.pk}/change/", **sent)

    def password(self, user: User, button: str = "set-password") -> Any:
        data = {"usable_password": str(button == "set-password").lower(), "password1": PASSWORD, "password2": PASSWORD}
        return self.post(f"user/{user.pk}/password/", **data, **{button: "1"})

    def delete(self, kind: str, *rows: Any) -> Any:
        chosen = [str(row.pk) for row in rows]
        return self.post(f"{kind}/", action="delete_selected", _selected_action=chosen, post="yes")


def right(codename: str) -> Permission:
    return Permission.objects.get(codename=codename)


@pytest.fixture
def people(db: None) -> Callable[[str], People]:
    def make(role: str) -> People:
        ensure_groups()
        actor = User.objects.create_user("actor", "actor@example.com", is_staff=True)
        if role == "keeper":
            actor.user_permissions.set(Permission.objects.filter(codename__in=KEEPS))
        elif role == "admin":
            actor.groups.add(Group.objects.get(name="admin"))
        elif role == "changer":
            actor.user_permissions.set([right("view_user"), right("change_user")])
        else:
            User.objects.update(is_superuser=True)
        strong_group, own_group = Group.objects.create(name="Strong"), Group.objects.create(name="Own")
        strong_group.permissions.add(right("pause_writes"))
        actor.groups.add(own_group)
        strong, peer = (User.objects.create_user(name, f"{name}@example.com") for name in ("strong", "peer"))
        strong.user_permissions.add(right("pause_writes"))
        peer.user_permissions.add(right("view_user"))
        dormant = User.objects.create_user("dormant", is_active=False)
        dormant.groups.add(strong_group)
        client = Client()
        client.force_login(User.objects.get(pk=actor.pk))
        return People(
            client=client, actor=actor, peer=peer, strong=strong, dormant=dormant, strong_group=strong_group,
            own_group=own_group, chief=User.objects.create_superuser("chief", "chief@example.com", PASSWORD),
        )  # fmt: skip

    return make


def state() -> list[Any]:
    """Everybody, every group, and who has what."""
    users = list(User.objects.order_by("pk").values_list())
    groups = list(Group.objects.order_by("pk").values_list("pk", "name"))
    has = Permission.objects.filter(Q(user__isnull=False) | Q(group__isnull=False)).order_by("pk", "user", "group")
    members = list(User.objects.order_by("pk", "groups").values_list("pk", "groups"))
    return [users, groups, list(has.values_list("pk", "user", "group")), members]


def _add_a_superuser(p: People) -> None:
    p.post("user/add/", username="new", usable_password="true", password1=PASSWORD, password2=PASSWORD)
    p.change(User.objects.filter(username="new").first() or p.actor, is_superuser="on")
    User.objects.filter(username="new", is_superuser=False).delete()


Act = Callable[[People], Any]
#: About superusers: refused to every role but a superuser.
CHIEF: dict[str, Act] = {
    "become a superuser": lambda p: p.change(p.actor, is_superuser="on"),
    "make another a superuser": lambda p: p.change(p.peer, is_superuser="on"),
    "add a superuser": _add_a_superuser,
    "take a superuser's mark": lambda p: p.change(p.chief, is_superuser=None),
    "take a superuser's log-in to the console": lambda p: p.change(p.chief, is_staff=None),
    "deactivate a superuser": lambda p: p.change(p.chief, is_active=None),
    "change a superuser's address": lambda p: p.change(p.chief, email="mine@example.com"),
    "rename a superuser": lambda p: p.change(p.chief, username="mine"),
    "take a superuser's groups": lambda p: p.change(p.chief, groups=[p.own_group.pk]),
    "set a superuser's password": lambda p: p.password(p.chief),
    "take a superuser's password": lambda p: p.password(p.chief, "unset-password"),
    "delete a superuser": lambda p: p.post(f"user/{p.chief.pk}/delete/", post="yes"),
    "delete a superuser among others": lambda p: p.delete("user", p.peer, p.chief),
}
#: About rights that the keeper and the changer do not have. A member of the group admin has them.
STRONG: dict[str, Act] = {
    "give oneself a right": lambda p: p.change(p.actor, user_permissions=[right("pause_writes").pk]),
    "give another a right": lambda p: p.change(p.peer, user_permissions=[right("pause_writes").pk]),
    "join a group": lambda p: p.change(p.actor, groups=[p.strong_group.pk]),
    "join the group admin": lambda p: p.change(p.actor, groups=[Group.objects.get(name="admin").pk]),
    "put another into a group": lambda p: p.change(p.peer, groups=[p.strong_group.pk]),
    "give one's own group a right": lambda p: p.post(
        f"group/{p.own_group.pk}/change/", name="Own", permissions=[right("pause_writes").pk]),
    "make a group with a right": lambda p: p.post(
        "group/add/", name="Made", permissions=[right("pause_writes").pk]),
    "rename a group with a right": lambda p: p.post(
        f"group/{p.strong_group.pk}/change/", name="Weak", permissions=[right("pause_writes").pk]),
    "take a right from a group": lambda p: p.post(f"group/{p.strong_group.pk}/change/", name="Strong"),
    "delete a group with a right": lambda p: p.post(f"group/{p.strong_group.pk}/delete/", post="yes"),
    "delete a group with a right among others": lambda p: p.delete("group", p.own_group, p.strong_group),
    "change the address of a person with a right": lambda p: p.change(p.strong, email="mine@example.com"),
    "let a person with a right into the console": lambda p: p.change(p.strong, is_staff="on"),
    "set the password of a person with a right": lambda p: p.password(p.strong),
    "delete a person with a right": lambda p: p.post(f"user/{p.strong.pk}/delete/", post="yes"),
    "activate a person with a right": lambda p: p.change(p.dormant, is_active="on"),
    "set the password of an inactive person with a right": lambda p: p.password(p.dormant),
}  # fmt: skip


@pytest.mark.wide
@pytest.mark.parametrize("role", ["changer", "keeper", "admin"])
@pytest.mark.parametrize("act", CHIEF)
def test_who_is_no_superuser_neither_becomes_nor_touches_one(
    role: str, act: str, people: Callable[[str], People]
) -> None:
    p = people(role)
    before = state()

    CHIEF[act](p)

    assert state() == before


@pytest.mark.wide
@pytest.mark.parametrize("role", ["changer", "keeper"])
@pytest.mark.parametrize("act", STRONG)
def test_nobody_gives_or_takes_over_a_right_that_they_do_not_have(
    role: str, act: str, people: Callable[[str], People]
) -> None:
    p = people(role)
    before = state()

    STRONG[act](p)

    assert state() == before


@pytest.mark.wide
@pytest.mark.parametrize("act", sorted({**CHIEF, **STRONG}.keys() - {"become a superuser"}))
def test_a_superuser_does_each_of_these_acts(act: str, people: Callable[[str], People]) -> None:
    p = people("superuser")
    before = state()

    {**CHIEF, **STRONG}[act](p)

    assert state() != before


@pytest.mark.wide
@pytest.mark.parametrize("act", sorted(STRONG.keys() - {"join the group admin"}))
def test_a_member_of_the_group_admin_does_what_is_not_about_superusers(
    act: str, people: Callable[[str], People]
) -> None:
    p = people("admin")
    before = state()

    STRONG[act](p)

    assert state() != before


@pytest.mark.parametrize("act", ["add", "rename"])
def test_nobody_names_a_group_so_that_an_upgrade_gives_them_its_rights(
    act: str, people: Callable[[str], People]
) -> None:
    p = people("keeper")
    Group.objects.filter(name="admin").update(name="admin-of-old")
    path = "group/add/" if act == "add" else f"group/{p.own_group.pk}/change/"

    answer = p.post(path, name="admin")

    assert "An upgrade gives the group of this name rights" in answer.content.decode()
    assert not Group.objects.filter(name="admin").exists()


@pytest.mark.costly
def test_a_group_that_an_upgrade_fills_again_is_not_joined_while_it_is_empty(people: Callable[[str], People]) -> None:
    p = people("keeper")
    operators = Group.objects.get(name="operator")
    operators.permissions.clear()

    p.change(p.actor, groups=[operators.pk])

    assert list(p.actor.groups.all()) == [p.own_group]


@pytest.mark.costly
def test_who_looks_after_accounts_changes_those_who_have_no_more_rights(people: Callable[[str], People]) -> None:
    p = people("keeper")

    p.change(p.peer, email="p@example.com", user_permissions=[right("change_user").pk], groups=[p.own_group.pk])
    p.password(p.peer)
    p.post("group/add/", name="Made", permissions=[right("view_user").pk])

    p.peer.refresh_from_db()
    assert (p.peer.email, p.peer.check_password(PASSWORD)) == ("p@example.com", True)
    assert [each.codename for each in p.peer.user_permissions.all()] == ["change_user"]
    assert list(p.peer.groups.all()) == [p.own_group]
    assert [each.codename for each in Group.objects.get(name="Made").permissions.all()] == ["view_user"]
    p.delete("user", p.peer)
    assert not User.objects.filter(pk=p.peer.pk).exists()


@pytest.mark.costly
@pytest.mark.parametrize("field", ["username", "email"])
@pytest.mark.parametrize("name", ["chief@example.com", "CHIEF"])
def test_nobody_takes_the_name_under_which_the_audit_log_knows_another(
    field: str, name: str, people: Callable[[str], People]
) -> None:
    p = people("superuser")
    before = state()
    if field == "email" and "@" not in name:
        User.objects.filter(pk=p.chief.pk).update(username="chief@two.example")
        name, before = "Chief@two.example", state()

    p.change(p.actor, **{field: name})
    if field == "username":
        p.post("user/add/", username=name, usable_password="true", password1=PASSWORD, password2=PASSWORD)

    assert state() == before


@pytest.mark.costly
def test_a_page_that_one_can_only_look_at_says_why(people: Callable[[str], People]) -> None:
    p = people("keeper")

    for path in (f"user/{p.chief.pk}", f"user/{p.strong.pk}", f"group/{p.strong_group.pk}"):
        page = p.client.get(f"/admin/auth/{path}/change/").content.decode()
        assert "You can view this page, but not change it" in page
        assert 'name="_save"' not in page
        assert "password/" not in page.partition("<main")[2]
        assert "salt" not in page
    assert "You can view this page" not in p.client.get(f"/admin/auth/user/{p.peer.pk}/change/").content.decode()


@pytest.mark.costly
def test_the_page_of_a_person_has_roles_first_and_single_permissions_folded(people: Callable[[str], People]) -> None:
    p = people("superuser")
    p.strong.set_password(PASSWORD)
    p.strong.save()

    page = p.client.get(f"/admin/auth/user/{p.strong.pk}/change/").content.decode().partition("<main")[2]

    before, _, folded = page.partition("<details>")
    roles = [before.index(f"{role}: ") for role in ("viewer", "operator", "admin")]
    assert roles == sorted(roles)
    assert roles[-1] < before.index("Strong")
    assert 'name="user_permissions"' not in before
    assert 'name="user_permissions"' in folded
    assert 'name="is_superuser"' in folded
    for unwanted in ("pbkdf2", "hash", "salt", "icon-no", "icon-yes", "addlink", "_addanother"):
        assert unwanted not in page
    assert f"/admin/auth/user/{p.strong.pk}/password/" in page


def test_a_page_that_one_can_only_look_at_has_words_and_no_icons(people: Callable[[str], People]) -> None:
    p = people("keeper")

    page = p.client.get(f"/admin/auth/user/{p.chief.pk}/change/").content.decode().partition("<main")[2]

    assert "<img" not in page
    assert "Superuser" in page


@pytest.mark.costly
def test_a_new_person_gets_a_role_that_the_maker_may_give(people: Callable[[str], People]) -> None:
    p = people("keeper")
    password = {"usable_password": "true", "password1": PASSWORD, "password2": PASSWORD}

    p.post("user/add/", username="one", groups=[p.own_group.pk], is_staff="on", email="one@example.com", **password)
    p.post("user/add/", username="two", groups=[p.strong_group.pk], is_staff="on", **password)

    one = User.objects.get(username="one")
    assert (list(one.groups.all()), one.is_staff, one.email) == ([p.own_group], True, "one@example.com")
    assert not User.objects.filter(username="two").exists()


@pytest.mark.costly
def test_the_list_of_people_has_roles_and_states_as_words(people: Callable[[str], People]) -> None:
    p = people("superuser")

    page = p.client.get("/admin/auth/user/").content.decode().partition("<main")[2]

    assert "<img" not in page
    assert "Not active" in page
    assert "Strong" in page
    assert "Superuser" in page
