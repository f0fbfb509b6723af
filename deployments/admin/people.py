"""Users and groups: Django's own pages, with nouns as titles."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, User
from django.http import HttpRequest

from deployments.admin.console import Nouns


class _Nouns:
    show_facets = admin.ShowFacets.ALWAYS

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return Nouns


# Importing Django's module registered its own pages, without our titles.
admin.site.unregister((User, Group))


@admin.register(User)
class PeopleAdmin(_Nouns, UserAdmin):  # type: ignore[type-arg]
    search_help_text = "Name or e-mail address"
    readonly_fields = ("last_login", "date_joined")  # what happened is not for editing


@admin.register(Group)
class GroupsAdmin(_Nouns, GroupAdmin):
    search_help_text = "Name"
