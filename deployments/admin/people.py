"""Users and groups: Django's pages with our titles, and permissions as checkboxes.

Django's widget with two lists needs a script, and its controls have labels that screen readers may not announce.
Checkboxes need no script. Permissions on tables without a page (sessions, the queue, content types) are left out, so
the list is short. Who may change whom: `access.people`.
"""

from __future__ import annotations

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, ClassVar

from django import forms
from django.apps import apps
from django.conf import settings
from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.contrib.admin.views.main import ChangeList
from django.contrib.admin.widgets import RelatedFieldWidgetWrapper
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.forms import AdminPasswordChangeForm, AdminUserCreationForm, UserChangeForm
from django.contrib.auth.models import AnonymousUser, Group, Permission, User
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import Case, Exists, OuterRef, Q, QuerySet, When
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils.html import format_html_join

from deployments.access import keys, people, second_factor, sessions, single_sign_on
from deployments.access.audit import Trail
from deployments.access.groups import ADMIN, OPERATOR, VIEWER
from deployments.admin.display import ago, mark, two_lines
from deployments.admin.pages import Alarm, Audited, Button, Nouns, ReadOnly, Several, may, menu, require
from deployments.admin.second_factor import recent
from deployments.models import AccessKey, SecondFactor


class Rights(forms.ModelMultipleChoiceField):  # type: ignore[type-arg]
    """A choice of permissions, each with its name only."""

    def label_from_instance(self, obj: Permission) -> str:
        return obj.name


class SetPasswordForm(AdminPasswordChangeForm):  # type: ignore[type-arg]
    """The password of another person. Which button was pressed says whether there is to be one, not a field."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields.pop("usable_password", None)

    def clean(self) -> Any:
        if "unset-password" in self.data and self.user.has_usable_password():
            self.cleaned_data["usable_password"] = "false"  # noqa: S105  (`validate_passwords` reads this word)
        return super().clean()


class GroupMenu(Several):
    title = "Group"
    parameter_name = "group"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(str(pk), name) for pk, name in Group.objects.order_by("name").values_list("pk", "name")]

    def where(self, value: str) -> Q:
        return Q(pk__in=User.objects.filter(groups=int(value)).values("pk"))


#: Role → what it may do, for the form of a person. The roles are the groups that `migrate` fills.
ROLES = {
    VIEWER: "sees deployments, repositories, sweeps, projects and keys; changes nothing",
    OPERATOR: "also sees variables and the audit log, and acts on deployments, repositories and sweeps",
    ADMIN: "has every permission",
}


class Roles(forms.ModelMultipleChoiceField):  # type: ignore[type-arg]
    """A choice of groups, each role with what it may do."""

    def label_from_instance(self, obj: Group) -> str:
        return f"{obj.name}: {ROLES[obj.name]}" if obj.name in ROLES else obj.name


def rights() -> QuerySet[Permission]:
    """The permissions that a view checks.

    Django makes four for every table, also for tables that only the program writes.
    """
    idle = set()
    for name in ("auth", "deployments"):
        for model in apps.get_app_config(name).get_models():
            page = admin.site._registry.get(model)
            written_by_us = page is None or type(page).has_add_permission is ReadOnly.has_add_permission
            actions = ("add", "change", "delete", *(("view",) if page is None else ()))
            idle |= {f"{action}_{model._meta.model_name}" for action in actions if written_by_us}
    # Variables have no list; their environment's page shows them. A key is revoked, not changed.
    idle -= {f"{action}_environmentvariable" for action in ("view", "change", "delete")}
    idle.add("change_accesskey")
    offered = Permission.objects.filter(content_type__app_label__in=("auth", "deployments"))
    return offered.exclude(codename__in=idle).select_related("content_type")


class _Names(forms.ModelForm):  # type: ignore[type-arg]
    """Refuses the name or address of another person: the audit log names people by it."""

    def clean(self) -> dict[str, Any]:
        data: dict[str, Any] = super().clean() or self.cleaned_data
        others = User.objects.exclude(pk=self.instance.pk)
        for field in ("username", "email"):
            name = data.get(field)
            known = Q(username__iexact=name) | Q(email__iexact=name)
            if name and field in self.changed_data and others.filter(known).exists():
                self.add_error(field, "Another person has this name or address.")
        return data


class PersonForm(_Names, UserChangeForm):  # type: ignore[type-arg]
    password = None  # type: ignore[assignment]  # Django's field shows parts of the hash; a button leads to the form of a new password


class NewPersonForm(_Names, AdminUserCreationForm):  # type: ignore[type-arg]
    usable_password = AdminUserCreationForm.create_usable_password_field(
        "Without a password, the person logs in by single sign-on, or by a link that an administrator makes."
    )


class GroupForm(forms.ModelForm):  # type: ignore[type-arg]
    #: The user of the form; `GroupsAdmin.get_form` sets it.
    actor: ClassVar[Any]

    def clean_name(self) -> str:
        name: str = self.cleaned_data["name"]
        if not people.may_name_group(self.actor, name):
            raise forms.ValidationError("An upgrade gives the group of this name rights that you do not have.")
        return name


#: The alarm on the page of a person or group that the user may only see.
ONLY_SEEN = Alarm(
    title="You can view this page, but not change it",
    words="The person or group is a superuser or has rights that you do not have.",
    then="Ask an administrator who has them.",
    tone="idle",
)


def live_keys(person: User) -> QuerySet[AccessKey]:
    """The person's personal tokens and deploy keys that work."""
    return AccessKey.objects.filter(keys.live(), user=person).defer("digest")


#: Field of a person → its label and its help text, instead of Django's.
LABELS = {
    "username": "Log-in name",
    "email": "E-mail address",
    "is_active": "Active: may log in",
    "is_staff": "May use the console",
    "is_superuser": "Superuser: has every permission, and may change other superusers",
    "user_permissions": "Single permissions",
}
HELP = {
    "username": "At most 150 characters: letters, digits and @ . + - _",
    "email": "A link for a forgotten password goes to this address.",
    "is_active": "Clear this instead of deleting the account.",
    "is_staff": "",
    "is_superuser": "",
}
#: Field → the words in its place, for who may not change it.
WORDS = {"is_active": "active", "is_staff": "uses_console", "is_superuser": "superuser"}


class _People(Audited):
    show_facets = admin.ShowFacets.ALWAYS

    def may_change(self, request: HttpRequest, row: Any) -> bool:
        """Whether the user may change and delete this row, if they may change and delete rows of this kind."""
        raise NotImplementedError

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_change_permission(request, obj) and (obj is None or self.may_change(request, obj))

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_delete_permission(request, obj) and (obj is None or self.may_change(request, obj))

    def change_view(self, request: HttpRequest, object_id: str, *args: Any, **kwargs: Any) -> HttpResponse:
        row = self.get_object(request, unquote(object_id))
        if row is not None:
            alarm = None if self.may_change(request, row) else ONLY_SEEN
            more = {"alarm": alarm, "buttons": list(self.buttons(request, row))}
            kwargs["extra_context"] = {**(kwargs.get("extra_context") or {}), **more}
        return super().change_view(request, object_id, *args, **kwargs)

    def buttons(self, request: HttpRequest, row: Any) -> Iterator[Button]:
        """The buttons beside the title of a row's page."""
        yield from ()

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return Nouns

    def formfield_for_dbfield(self, db_field: Any, request: Any, **kwargs: Any) -> Any:
        """Without the links of Django's widget to add a group: they open another window by a script."""
        field = super().formfield_for_dbfield(db_field, request, **kwargs)
        if field is not None and isinstance(field.widget, RelatedFieldWidgetWrapper):
            field.widget = field.widget.widget
        if field is not None:
            field.label = LABELS.get(db_field.name, field.label)
            field.help_text = HELP.get(db_field.name, field.help_text)
        return field

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """One button to save."""
        context |= {"show_save_and_add_another": False, "show_save_and_continue": False}
        return super().render_change_form(request, context, *args, **kwargs)

    def formfield_for_manytomany(self, db_field: Any, request: HttpRequest | None = None, **kwargs: Any) -> Any:
        kwargs["widget"] = forms.CheckboxSelectMultiple
        actor = request.user if request is not None else AnonymousUser()
        if db_field.related_model is Permission:
            kwargs["form_class"] = Rights
            kwargs["queryset"] = people.givable_rights(actor, rights())
        else:
            place = Case(*(When(name=role, then=number) for number, role in enumerate(ROLES)), default=len(ROLES))
            kwargs["queryset"] = people.givable_groups(actor).order_by(place, "name")
            kwargs |= {"form_class": Roles, "label": "Role", "help_text": "Each group adds its permissions."}
        if not actor.is_superuser:
            kwargs["help_text"] = "Only what you have yourself is listed."
        return db_field.formfield(**kwargs)


# The import of Django's module has registered its own pages, which lack our titles.
admin.site.unregister((User, Group))


@admin.register(User)
class PeopleAdmin(_People, UserAdmin):  # type: ignore[type-arg]
    noun = "user"
    form = PersonForm
    add_form = NewPersonForm
    add_form_template = None
    change_password_form = SetPasswordForm
    change_user_password_template = "registry_admin/set_password.html"  # noqa: S105  (a template)
    filter_horizontal = ()
    search_help_text = "Name or e-mail address"
    list_display = ("person", "roles", "state", "last_log_in", "factors")
    list_filter = (
        GroupMenu,
        menu("Account", "is_active", words={"True": "Active", "False": "Not active"}),
        menu("Superuser", "is_superuser", words={"True": "Yes", "False": "No"}),
    )
    sortable_by = ("person", "last_log_in")
    fieldsets = (
        (None, {"fields": ("username", "email", "first_name", "last_name")}),
        ("Access", {"fields": ("groups", "is_active", "is_staff")}),
        ("Log-in", {"fields": ("last_log_in", "joined", "password_state", "second_factors", "keys")}),
        (
            "Superuser and single permissions",
            {"classes": ("collapse",), "fields": ("is_superuser", "user_permissions")},
        ),
    )
    add_fieldsets = (
        (None, {"fields": ("username", "email", "first_name", "last_name")}),
        ("Access", {"fields": ("groups", "is_staff")}),
        ("Password", {"fields": ("usable_password", "password1", "password2")}),
    )
    readonly_fields = ("last_log_in", "joined", "password_state", "second_factors", "keys", *WORDS.values())

    def may_change(self, request: HttpRequest, row: User) -> bool:
        return people.may_change_person(request.user, row)

    def get_urls(self) -> list[Any]:
        wrap = self.admin_site.admin_view
        return [
            path("<int:pk>/revoke-keys/", wrap(self.revoke_keys_view), name="auth_user_revoke_keys"),
            path("<int:pk>/second-factors/", wrap(recent(self.second_factors_view)), name="auth_user_second_factors"),
            *super().get_urls(),
        ]

    def get_queryset(self, request: HttpRequest) -> QuerySet[User]:
        factor = Exists(SecondFactor.objects.filter(user=OuterRef("pk")))
        rows: QuerySet[User] = super().get_queryset(request).annotate(has_factor=factor)
        return rows.prefetch_related("groups")

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        return {"is_staff": True, **super().get_changeform_initial_data(request)}

    def buttons(self, request: HttpRequest, row: User) -> Iterator[Button]:
        if self.has_change_permission(request, row):
            yield Button(
                word="Set a password…",
                address=reverse("admin:auth_user_password_change", args=[row.pk]),
                style="historylink",
            )
        if may(request, "revoke_accesskey") and live_keys(row).exists():
            address = reverse("admin:auth_user_revoke_keys", args=[row.pk])
            yield Button(word="Revoke their keys…", address=address, style="button danger")
        shown = single_sign_on.is_on(settings.CONFIGURATION) or row.identities.exists()
        if shown and self.has_change_permission(request, row):
            yield Button(word="Single sign-on…", address=reverse("admin:single_sign_on_links", args=[row.pk]))
        if self.has_change_permission(request, row) and second_factor.of(row).exists():
            address = reverse("admin:auth_user_second_factors", args=[row.pk])
            yield Button(word="Remove their second factors…", address=address, style="button danger")

    def revoke_keys_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """GET shows the keys of a person, POST revokes them. It needs no right to change people: it gives nothing."""
        require(request, "revoke_accesskey")
        person = get_object_or_404(User, pk=pk)
        back = reverse("admin:auth_user_change", args=[pk])
        if request.method == "POST":
            with transaction.atomic():
                revoked = keys.revoke_all(person)
                for key in revoked:
                    Trail.of(request).record("revoke.key", key, before={"owner": str(person)})
            self.message_user(request, f"{len(revoked)} keys of {person} no longer work.")
            return HttpResponseRedirect(back if self.has_view_permission(request) else reverse("admin:index"))
        context = {
            **self.admin_site.each_context(request), "opts": self.opts, "original": person,
            "title": f"Revoke the keys of {person}?", "keys": live_keys(person), "back": back,
        }  # fmt: skip
        return TemplateResponse(request, "registry_admin/person_keys.html", context)

    def second_factors_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """GET shows the second factors of a person, POST removes them all: the person has lost them."""
        person = get_object_or_404(User, pk=pk)
        if not self.has_change_permission(request, person):
            raise PermissionDenied
        back = reverse("admin:auth_user_change", args=[pk])
        if request.method == "POST":
            removed = second_factor.remove_all(person=person, trail=Trail.of(request))
            self.message_user(request, f"Removed second factors of {person}: {removed}.")
            return HttpResponseRedirect(back)
        context = {
            **self.admin_site.each_context(request), "opts": self.opts, "original": person, "back": back,
            "title": f"Remove the second factors of {person}?", "factors": second_factor.of(person),
            "required": settings.CONFIGURATION.second_factor_required,
        }  # fmt: skip
        return TemplateResponse(request, "registry_admin/person_second_factors.html", context)

    @admin.display(description="Second factors")
    def second_factors(self, row: User) -> str:
        found = ((each, ago(each.last_used_at, "never")) for each in second_factor.of(row))
        return format_html_join("; ", "{}, last used {}", found) or "none"

    @admin.display(description="Person", ordering="username")
    def person(self, row: User) -> str:
        others = (row.get_full_name(), row.email if row.email != row.username else "")
        return two_lines(row.username, " · ".join(filter(None, others)))

    @admin.display(description="Role")
    def roles(self, row: User) -> str:
        return ", ".join(sorted(group.name for group in row.groups.all())) or "none"

    @admin.display(description="State")
    def state(self, row: User) -> str:
        if not row.is_active:
            return mark("idle", "Not active")
        return mark("warn", "Superuser") if row.is_superuser else mark("ok", "Active")

    @admin.display(description="Last log-in", ordering="last_login")
    def last_log_in(self, row: User) -> str:
        return ago(row.last_login, "never")

    @admin.display(description="Second factor")
    def factors(self, row: User) -> str:
        return "yes" if getattr(row, "has_factor", False) else "no"

    @admin.display(description="Account made")
    def joined(self, row: User) -> str:
        return ago(row.date_joined)

    @admin.display(description="Password")
    def password_state(self, row: User) -> str:
        return "set" if row.has_usable_password() else "none: cannot log in with a password"

    @admin.display(description="Keys that work")
    def keys(self, row: User) -> str:
        return str(live_keys(row).count())

    @admin.display(description="Active")
    def active(self, row: User) -> str:
        return "yes" if row.is_active else "no"

    @admin.display(description="May use the console")
    def uses_console(self, row: User) -> str:
        return "yes" if row.is_staff else "no"

    @admin.display(description="Superuser")
    def superuser(self, row: User) -> str:
        return "yes" if row.is_superuser else "no"

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """Fields that the user may not change stand as words, and are no fields of the form."""
        found: Any = super().get_fieldsets(request, obj)
        words = WORDS
        if obj is None or self.has_change_permission(request, obj):
            words = {} if request.user.is_superuser else {"is_superuser": WORDS["is_superuser"]}
        return [
            (title, {**options, "fields": [words.get(field, field) for field in options["fields"]]})
            for title, options in found
        ]

    def described(self, row: User) -> dict[str, Any]:
        return {
            "username": row.username,
            "email": row.email,
            "has_password": row.has_usable_password(),
            "single_sign_on": [str(identity) for identity in row.identities.order_by("pk")] if row.pk else [],
            "second_factors": second_factor.of(row).count() if row.pk else 0,
            "active": row.is_active,
            "staff": row.is_staff,
            "superuser": row.is_superuser,
            "groups": sorted(row.groups.values_list("name", flat=True)) if row.pk else [],
            "rights": sorted(row.user_permissions.values_list("codename", flat=True)) if row.pk else [],
        }

    def save_model(self, request: HttpRequest, obj: User, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        if "is_active" in form.changed_data:
            single_sign_on.activity_was_set(obj)

    def log_change(self, request: HttpRequest, obj: User, message: Any) -> Any:
        """An account that may not use the console has no session that would work again when it may."""
        entry = super().log_change(request, obj, message)
        if not (obj.is_active and obj.is_staff):
            sessions.end_others(obj, Trail.of(request))
        return entry

    def change_view(self, request: HttpRequest, object_id: str, *args: Any, **kwargs: Any) -> HttpResponse:
        """A new address needs a recent log-in, because a link for a new password goes to it."""
        row, view = self.get_object(request, unquote(object_id)), super().change_view
        if row is not None and request.POST.get("email", row.email) != row.email:
            view = recent(view)
        return view(request, object_id, *args, **kwargs)

    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> HttpResponse:
        """Like everything that decides who logs in as a person, it needs a recent log-in."""
        return recent(self._set_password)(request, id, form_url)

    def _set_password(self, request: HttpRequest, id: str, form_url: str) -> HttpResponse:
        with transaction.atomic():  # Django opens no transaction here
            response: HttpResponse = super().user_change_password(request, id, form_url)
            if request.method == "POST" and response.status_code == HTTPStatus.FOUND:
                sessions.end_others(get_object_or_404(User, pk=unquote(id)), Trail.of(request))
            return response


@admin.register(Group)
class GroupsAdmin(_People, GroupAdmin):
    noun = "group"
    form = GroupForm
    filter_horizontal = ()
    search_help_text = "Name"

    def may_change(self, request: HttpRequest, row: Group) -> bool:
        return people.may_change_group(request.user, row)

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        form: Any = super().get_form(request, obj, change, **kwargs)  # a new class for each request
        form.actor = request.user
        return form

    def described(self, row: Group) -> dict[str, Any]:
        rights = row.permissions.values_list("codename", flat=True) if row.pk else []
        return {"name": row.name, "rights": sorted(rights)}
