"""Users and groups: Django's pages with our titles, and permissions as checkboxes.

Django's widget with two lists needs a script, and its controls have labels that screen readers may not announce.
Checkboxes need no script. Permissions on tables without a page (sessions, the queue, content types) are left out, so
the list is short.
"""

from __future__ import annotations

from typing import Any

from django import forms
from django.apps import apps
from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, Permission, User
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse

from deployments.admin.pages import Audited, Nouns, ReadOnly


class Rights(forms.ModelMultipleChoiceField):  # type: ignore[type-arg]
    """A choice of permissions, each with its name only."""

    def label_from_instance(self, obj: Permission) -> str:
        return obj.name


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


class _People(Audited):
    show_facets = admin.ShowFacets.ALWAYS

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return Nouns

    def formfield_for_manytomany(self, db_field: Any, request: HttpRequest | None = None, **kwargs: Any) -> Any:
        kwargs["widget"] = forms.CheckboxSelectMultiple
        if db_field.related_model is Permission:
            kwargs["form_class"] = Rights
            kwargs["queryset"] = rights()
        return db_field.formfield(**kwargs)


# The import of Django's module has registered its own pages, which lack our titles.
admin.site.unregister((User, Group))


@admin.register(User)
class PeopleAdmin(_People, UserAdmin):  # type: ignore[type-arg]
    noun = "user"
    filter_horizontal = ()
    search_help_text = "Name or e-mail address"
    readonly_fields = ("last_login", "date_joined")  # the program writes these

    def described(self, row: User) -> dict[str, Any]:
        return {
            "username": row.username,
            "email": row.email,
            "has_password": row.has_usable_password(),
            "active": row.is_active,
            "staff": row.is_staff,
            "superuser": row.is_superuser,
            "groups": sorted(row.groups.values_list("name", flat=True)) if row.pk else [],
            "rights": sorted(row.user_permissions.values_list("codename", flat=True)) if row.pk else [],
        }

    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> HttpResponse:
        with transaction.atomic():  # Django opens no transaction here
            return super().user_change_password(request, id, form_url)


@admin.register(Group)
class GroupsAdmin(_People, GroupAdmin):
    noun = "group"
    filter_horizontal = ()
    search_help_text = "Name"

    def described(self, row: Group) -> dict[str, Any]:
        rights = row.permissions.values_list("codename", flat=True) if row.pk else []
        return {"name": row.name, "rights": sorted(rights)}
