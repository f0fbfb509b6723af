"""Users and groups: Django's own pages, with nouns as titles and rights as boxes to tick.

Django's two-list picker needs a script, and names controls in a way that screen readers may not be told. A list of
boxes needs neither, once the rights of tables without a page (sessions, the queue, content types) are left out.
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
    def label_from_instance(self, obj: Permission) -> str:
        return obj.name


def rights() -> QuerySet[Permission]:
    """The rights that somebody asks for: Django makes four for every table, also for those that only we write."""
    idle = set()
    for name in ("auth", "deployments"):
        for model in apps.get_app_config(name).get_models():
            page = admin.site._registry.get(model)
            written_by_us = page is None or type(page).has_add_permission is ReadOnly.has_add_permission
            actions = ("add", "change", "delete", *(("view",) if page is None else ()))
            idle |= {f"{action}_{model._meta.model_name}" for action in actions if written_by_us}
    # Variables have no list of their own, but stand on their environment's page; a key is revoked, not changed.
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


# Importing Django's module registered its own pages, without our titles.
admin.site.unregister((User, Group))


@admin.register(User)
class PeopleAdmin(_People, UserAdmin):  # type: ignore[type-arg]
    noun = "user"
    filter_horizontal = ()
    search_help_text = "Name or e-mail address"
    readonly_fields = ("last_login", "date_joined")  # what happened is not for editing

    def described(self, row: User) -> dict[str, Any]:
        return {
            "username": row.username,
            "active": row.is_active,
            "staff": row.is_staff,
            "superuser": row.is_superuser,
            "groups": sorted(row.groups.values_list("name", flat=True)) if row.pk else [],
            "rights": sorted(row.user_permissions.values_list("codename", flat=True)) if row.pk else [],
        }

    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> HttpResponse:
        with transaction.atomic():  # Django has none open here
            return super().user_change_password(request, id, form_url)


@admin.register(Group)
class GroupsAdmin(_People, GroupAdmin):
    noun = "group"
    filter_horizontal = ()
    search_help_text = "Name"

    def described(self, row: Group) -> dict[str, Any]:
        rights = row.permissions.values_list("codename", flat=True) if row.pk else []
        return {"name": row.name, "rights": sorted(rights)}
