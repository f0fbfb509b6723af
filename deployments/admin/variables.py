"""The variables on an environment's page: show, set and delete. A secret value is never shown again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import path, reverse

from deployments.access.audit import Trail
from deployments.access.vault import Vault
from deployments.admin.pages import ReadOnly, may, require, who
from deployments.deploys import environment_variables
from deployments.errors import Refusal
from deployments.models import Environment, EnvironmentVariable

VARIABLES_SHOWN = 200


class VariableForm(forms.Form):
    """One variable."""

    name = forms.CharField(max_length=environment_variables.MAX_NAME_CHARACTERS)
    value = forms.CharField(
        required=False,
        strip=False,
        widget=forms.Textarea(attrs={"rows": 4, "spellcheck": "false", "autocomplete": "off"}),
    )
    is_secret = forms.BooleanField(
        required=False,
        label="Secret: never shown again",
        help_text="The build and the indexer get it; people do not.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A variable as this user may see it. `inherited`: it is the parent environment's."""

    row: EnvironmentVariable
    value: str
    inherited: bool
    may_set: bool
    may_delete: bool


def shown(environment: Environment, *, may_set: bool, may_delete: bool) -> list[Shown]:
    """The variables that the environment's code sees, by name: its own, and for a preview branch those of its parent.

    A variable of the parent can be changed only on the parent's page.
    """
    rows = {}
    owners = [environment.parent_id, environment.pk] if environment.parent_id else [environment.pk]
    for row in EnvironmentVariable.objects.filter(environment__in=owners).order_by("name"):
        if row.name not in rows or row.environment_id == environment.pk:
            rows[row.name] = row
    vault = Vault(settings.ENCRYPTION_KEYS)
    return [
        Shown(
            row=row,
            value=_value(row, vault),
            inherited=not own,
            may_set=own and may_set,
            may_delete=own and may_delete,
        )
        for _, row in sorted(rows.items())[:VARIABLES_SHOWN]
        for own in [row.environment_id == environment.pk]
    ]


def _value(row: EnvironmentVariable, vault: Vault) -> str:
    if row.is_secret:
        return ""
    try:
        return environment_variables.reveal(row, vault)
    except Refusal as refusal:
        return refusal.sentence


class VariablePages(ReadOnly):
    """Adds the pages for variables to the environments."""

    def get_urls(self) -> list[Any]:
        wrap = self.admin_site.admin_view
        return [
            path("<int:pk>/variable/", wrap(self.variable_view), name="deployments_environment_variable"),
            path(
                "<int:pk>/variable/delete/",
                wrap(self.delete_variable_view),
                name="deployments_environment_variable_delete",
            ),
            *super().get_urls(),
        ]

    def variables_of(self, request: HttpRequest, environment: Environment) -> dict[str, Any]:
        """The template context about variables; the variables only for a user who may see them."""
        sees = may(request, "view_environmentvariable")
        sets = may(request, "change_environmentvariable") and environment.archived_at is None
        deletes = may(request, "delete_environmentvariable")
        return {
            "sees_variables": sees,
            "variables": shown(environment, may_set=sets, may_delete=deletes) if sees else [],
            "may_set": sets,
        }

    def variable_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """The form for one variable. The URL's parameter `name` names an existing variable."""
        require(request, "change_environmentvariable")
        environment: Environment = self.one(request, pk)
        if environment.archived_at is not None:
            self.message_user(request, f"{environment} is archived, so no deploy reads its variables.", messages.ERROR)
            return HttpResponseRedirect(_page(environment))
        known = environment.variables.filter(name=request.GET.get("name", "")).first()
        initial = {"name": known.name, "is_secret": known.is_secret} if known else {}
        if known is not None:
            initial["value"] = _value(known, Vault(settings.ENCRYPTION_KEYS))
        form = VariableForm(request.POST or None, initial=initial)
        if request.method == "POST" and form.is_valid():
            name, secret = form.cleaned_data["name"], form.cleaned_data["is_secret"]
            # Browsers send line ends as CR LF; the value keeps only the LF.
            value = form.cleaned_data["value"].replace("\r\n", "\n")
            try:
                with Trail.of(request).change("set.variable", environment, after={"name": name}) as line:
                    change = environment_variables.store(
                        environment=environment,
                        variables={name: value},
                        vault=Vault(settings.ENCRYPTION_KEYS),
                        is_secret=secret,
                        override=True,
                        by=who(request),
                    )
                    line.after = {"name": name, "is_secret": secret}
            except Refusal as refusal:
                form.add_error(None, refusal.sentence)
            else:
                words = "is unchanged" if not change else "was set"
                self.message_user(request, f"{name} {words}.", messages.SUCCESS)
                return HttpResponseRedirect(_page(environment))
        title = f"{known.name}" if known else "New variable"
        return self.render_page(
            request, "registry_admin/variable.html", environment, {"title": title, "form": form, "known": known}
        )

    def delete_variable_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """GET asks, POST deletes the variable that the URL's parameter `name` names."""
        require(request, "delete_environmentvariable")
        environment: Environment = self.one(request, pk)
        row = environment.variables.filter(name=request.GET.get("name", "")).first()
        if row is None:
            raise Http404
        if request.method == "POST":
            before = {"name": row.name, "is_secret": row.is_secret}
            with Trail.of(request).change("delete.variable", environment, before=before) as line:
                if not environment_variables.remove(environment=environment, name=row.name):
                    line.nothing_changed()
            self.message_user(request, f"{row.name} was deleted.", messages.SUCCESS)
            return HttpResponseRedirect(_page(environment))
        return self.render_page(
            request,
            "registry_admin/variable_delete.html",
            environment,
            {"title": f"Delete {row.name}?", "row": row},
        )


def _page(environment: Environment) -> str:
    return reverse("admin:deployments_environment_change", args=[environment.pk])
