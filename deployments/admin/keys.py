"""Access keys: who holds which, when one was last used and by what; making one, and withdrawing one.

The text of a key exists once: in the answer to the request that made it. That answer is never stored, not in a
session and not in a cache, so it is rendered where it is made instead of being redirected to.
"""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.auth import get_user_model
from django.core.exceptions import PermissionDenied
from django.db.models import Case, QuerySet, Value, When
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.urls import path, reverse
from django.utils import timezone
from django.utils.cache import add_never_cache_headers
from django.utils.html import format_html

from deployments import keys
from deployments.admin.console import ReadOnly, menu
from deployments.admin.display import ago, badge, two_lines, until
from deployments.models import AccessKey, Environment, KeyKind

STATES = {"live": "Live", "expired": "Expired", "revoked": "Revoked"}


class Environments(forms.ModelChoiceField):  # type: ignore[type-arg]
    def label_from_instance(self, obj: Environment) -> str:
        return f"{obj.project} / {obj}"


class NewKeyForm(forms.Form):
    """What the key is for. A personal token acts as its user, so only a superuser makes one for somebody else."""

    kind = forms.ChoiceField(
        label="Kind",
        choices=[
            (KeyKind.ENVIRONMENT, "Environment key: for one environment, in CI and in the deployed code"),
            (KeyKind.USER, "Personal access token: for a person's CLI, all projects"),
        ],
        initial=KeyKind.ENVIRONMENT,
        widget=forms.RadioSelect,
    )
    environment = Environments(
        queryset=Environment.objects.none(),
        required=False,
        help_text="Of an environment key.",
    )
    user = forms.ModelChoiceField(
        queryset=get_user_model()._default_manager.none(), required=False, help_text="Of a personal access token."
    )
    name = forms.CharField(required=False, max_length=200, help_text="Where it will be used, to tell it from others.")

    def __init__(self, *args: Any, request: HttpRequest, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        users = get_user_model()._default_manager.filter(is_active=True)
        if not request.user.is_superuser:
            users = users.filter(pk=request.user.pk or 0)
        self.fields["user"].queryset = users  # type: ignore[attr-defined]
        self.fields["user"].initial = request.user.pk
        self.fields["environment"].queryset = Environment.objects.filter(  # type: ignore[attr-defined]
            archived_at=None
        ).select_related("project")

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        owner = "user" if data.get("kind") == KeyKind.USER else "environment"
        if data.get("kind") and not data.get(owner) and owner not in self.errors:
            self.add_error(owner, f"Choose the {owner} that the key is for.")
        return data

    def make(self) -> tuple[AccessKey, str]:
        data = self.cleaned_data
        if data["kind"] == KeyKind.USER:
            return keys.make_user_token(data["user"], data["name"])
        return keys.make_environment_key(data["environment"], data["name"])


@admin.register(AccessKey)
class AccessKeyAdmin(ReadOnly):
    page_template = "registry_admin/key.html"
    nothing_yet = "No keys yet. Make one here; trigger.dev login makes a personal access token."
    list_display = ("prefix_cell", "state_cell", "kind_cell", "owner", "last_used", "expires", "created")
    list_filter = (menu("State", "state", words=STATES), menu("Kind", "kind", words=dict(KeyKind.choices)))
    search_fields = ("^prefix", "name", "user__username", "user__email", "environment__project__name", "last_used_by")
    search_help_text = "Prefix, name, owner or client"
    sortable_by = ("created", "last_used", "expires")

    def get_queryset(self, request: HttpRequest) -> QuerySet[AccessKey]:
        state = Case(
            When(revoked_at__isnull=False, then=Value("revoked")),
            When(expires_at__lte=timezone.now(), then=Value("expired")),
            default=Value("live"),
        )
        return AccessKey.objects.select_related("user", "environment__project").annotate(state=state).defer("digest")

    def get_urls(self) -> list[Any]:
        revoke = self.admin_site.admin_view(self.revoke_view)
        return [path("<int:pk>/revoke/", revoke, name="deployments_accesskey_revoke"), *super().get_urls()]

    # Making one is not adding a row, and revoking one not changing it: each is an action, behind Django's permission.
    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return bool(request.user.has_perm("deployments.add_accesskey"))

    def may_revoke(self, request: HttpRequest) -> bool:
        return bool(request.user.has_perm("deployments.change_accesskey"))

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_view_permission(request, obj) or self.may_revoke(request)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Only a key that no longer works, so that whoever deletes it cannot cut anybody off by it."""
        dead = obj is not None and not obj.is_live
        return dead and bool(request.user.has_perm("deployments.delete_accesskey"))

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        if not self.has_add_permission(request):
            raise PermissionDenied
        initial = {"environment": request.GET.get("environment")}
        form = NewKeyForm(request.POST or None, request=request, initial=initial)
        if request.method == "POST" and form.is_valid():
            key, text = form.make()
            self.log_addition(request, key, f"Made {key} ({key.get_kind_display()}).")
            response = self.render_page(
                request, "registry_admin/key_made.html", key, {"title": "A new key", "text": text}
            )
            add_never_cache_headers(response)
            return response
        return self.render_page(request, "registry_admin/key_new.html", None, {"title": "New key", "form": form})

    def revoke_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """GET says what will stop working, POST withdraws the key."""
        if not self.may_revoke(request):
            raise PermissionDenied
        key = get_object_or_404(self.get_queryset(request), pk=pk)
        if request.method == "POST":
            if keys.revoke(key):
                self.log_change(request, key, "Revoked.")
            self.message_user(request, f"{key} no longer works.")
            return HttpResponseRedirect(reverse("admin:deployments_accesskey_change", args=[key.pk]))
        return self.render_page(request, "registry_admin/key_revoke.html", key, {"title": f"Revoke {key}?"})

    def page(self, request: HttpRequest, row: AccessKey) -> dict[str, Any]:
        return {"may_revoke": row.is_live and self.may_revoke(request)}

    @admin.display(description="Key", ordering="prefix")
    def prefix_cell(self, row: AccessKey) -> str:
        return format_html('<code><b>{}</b></code><span class="under">{}</span>', row, row.name)

    @admin.display(description="State")
    def state_cell(self, row: AccessKey) -> str:
        return badge(row)

    @admin.display(description="Kind")
    def kind_cell(self, row: AccessKey) -> str:
        return row.get_kind_display()

    @admin.display(description="Owner")
    def owner(self, row: AccessKey) -> str:
        if row.environment is None:
            return str(row.user)
        return two_lines(row.environment.project, row.environment)

    @admin.display(description="Last used", ordering="last_used_at")
    def last_used(self, row: AccessKey) -> str:
        return two_lines(ago(row.last_used_at, "never"), row.last_used_by)

    @admin.display(description="Expires", ordering="expires_at")
    def expires(self, row: AccessKey) -> str:
        return until(row.expires_at, "never")

    @admin.display(description="Created", ordering="created_at")
    def created(self, row: AccessKey) -> str:
        return ago(row.created_at)
