"""Access keys: the list with owner and last use; making, rotating and revoking a key.

A new key is shown once, in the answer to the POST that made it. There is no redirect to a result page, because the key
would have to be stored for it (in a session or a cache).
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.auth import get_user_model
from django.core.exceptions import PermissionDenied
from django.db.models import Case, Exists, OuterRef, Q, QuerySet, Value, When
from django.db.models.functions import Now
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.urls import path, reverse
from django.utils.html import format_html

from deployments import clock
from deployments.access import keys
from deployments.access.audit import Trail
from deployments.admin.display import ago, badge, two_lines, until
from deployments.admin.pages import Alarm, Audited, Button, ReadOnly, audit_of, may, menu, require
from deployments.errors import Refusal
from deployments.models import AccessKey, Environment, KeyClient, KeyKind

STATES = {
    "live": "Live",
    "replaced": "Replaced, still works",
    "unseen": "Log-in needed",
    "expired": "Expired",
    "revoked": "Revoked",
}
USES = {"never": "Never", "long_ago": "Not for 30 days", "lately": "In the last 30 days"}
ENDS = {"soon": "Within 7 days", "later": "Later", "never": "Never"}
MAX_CLIENTS_SHOWN = 20


class Environments(forms.ModelChoiceField):  # type: ignore[type-arg]
    """A choice of environments, each with its project's name."""

    def label_from_instance(self, obj: Environment) -> str:
        return f"{obj.project} / {obj}"


#: A personal access token for the management API only.
MANAGEMENT = "management"
#: What a person can make a key for: the kind, its name, and a sentence to choose by.
KINDS: tuple[tuple[str, str, str], ...] = (
    (KeyKind.ENVIRONMENT, "Environment key", "For one environment, in CI and in the deployed code."),
    (KeyKind.USER, "Personal access token", "For the CLI of a person, with all projects."),
    (
        MANAGEMENT,
        "Management token",
        "For Terraform and scripts: projects, environments and keys, but no deploys.",
    ),
)
#: Field → the kinds of key that have it. A form has only the fields of its kind.
FIELDS: dict[str, set[str]] = {
    "environment": {KeyKind.ENVIRONMENT},
    "scopes": {KeyKind.ENVIRONMENT},
    "user": {KeyKind.USER, MANAGEMENT},
}
#: Kind → the variable that a program reads such a key from.
VARIABLES: dict[str, str] = {
    KeyKind.ENVIRONMENT: "TRIGGER_SECRET_KEY",
    KeyKind.USER: "TRIGGER_ACCESS_TOKEN",
    MANAGEMENT: "REGISTRY_ADMIN_TOKEN",
}


class NewKeyForm(forms.Form):
    """The form of a new key of one kind. A token acts as its user: only a superuser makes one for another."""

    environment = Environments(
        queryset=Environment.objects.none(),
        error_messages={"required": "Choose the environment that the key is for."},
    )
    user = forms.ModelChoiceField(
        queryset=get_user_model()._default_manager.none(),
        error_messages={"required": "Choose the user that the key is for."},
    )
    name = forms.CharField(required=False, max_length=200, help_text="Where the key will be used, to tell keys apart.")
    scopes = forms.MultipleChoiceField(
        required=False,
        choices=list(keys.SCOPES.items()),
        widget=forms.CheckboxSelectMultiple,
        help_text="Leave empty for full access.",
    )
    days = forms.TypedChoiceField(
        label="Expires",
        required=False,
        coerce=int,
        empty_value=None,
        choices=[("", "never"), (7, "in 7 days"), (30, "in 30 days"), (90, "in 90 days"), (365, "in a year")],
    )

    def __init__(self, *args: Any, request: HttpRequest, kind: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.kind = kind
        users = get_user_model()._default_manager.filter(is_active=True)
        if not request.user.is_superuser:
            users = users.filter(pk=request.user.pk or 0)
        self.fields["user"].queryset = users  # type: ignore[attr-defined]
        self.fields["user"].initial = request.user.pk
        # Without branches, of which a project has hundreds. The page of a branch leads here with the branch.
        chosen = str(self.data.get("environment") or self.initial.get("environment") or "")
        shown = Q(parent=None) | Q(pk=int(chosen) if chosen.isascii() and chosen.isdecimal() else 0)
        self.fields["environment"].queryset = Environment.objects.filter(  # type: ignore[attr-defined]
            shown, archived_at=None, project__archived_at=None
        ).select_related("project")
        for field, of_kinds in FIELDS.items():
            if kind not in of_kinds:
                del self.fields[field]

    def make(self) -> tuple[AccessKey, str]:
        """Make the key that a valid form asks for. Returns the row and the key's text, which is not stored."""
        data = self.cleaned_data
        end = clock.now() + timedelta(days=data["days"]) if data["days"] else None
        if self.kind in FIELDS["user"]:
            management = self.kind == MANAGEMENT
            return keys.make_user_token(data["user"], data["name"], for_management=management, expires_at=end)
        return keys.make_environment_key(data["environment"], data["name"], scopes=data["scopes"], expires_at=end)


class RotateForm(forms.Form):
    """How long the old key works after a rotation."""

    hours = forms.TypedChoiceField(
        label="Old key",
        coerce=int,
        initial=24,
        choices=[(0, "revoke now"), (1, "keep for 1 hour"), (24, "keep for 1 day"), (168, "keep for 7 days")],
    )  # fmt: skip


@admin.register(AccessKey)
class AccessKeyAdmin(Audited, ReadOnly):
    noun = "key"
    page_template = "registry_admin/key.html"
    nothing_yet = "No keys yet. Make one here; trigger.dev login makes a personal access token."
    list_display = ("prefix_cell", "state_cell", "kind_cell", "owner", "last_used", "expires", "created")
    list_filter = (
        menu("State", "state", words=STATES),
        menu("Kind", "kind", words=dict(KeyKind.choices)),
        menu("Used", "use", words=USES),
        menu("Expires", "end", words=ENDS),
    )
    search_fields = ("prefix",)  # Django shows the search box; `get_search_results` searches
    search_help_text = "Prefix, name, owner or client"
    sortable_by = ("created", "last_used", "expires")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[AccessKey], search_term: str
    ) -> tuple[QuerySet[AccessKey], bool]:
        """Each word in a text of the key, its owner or its project. Owners and projects are few: they are searched once
        for each query, and not once for each of their keys.
        """
        for word in search_term.split():
            owners = get_user_model().objects.filter(Q(username__icontains=word) | Q(email__icontains=word))
            environments = Environment.objects.filter(project__name__icontains=word)
            ours = Q(prefix__istartswith=word) | Q(name__icontains=word) | Q(last_used_by__icontains=word)
            theirs = Q(user__in=owners.values("pk")) | Q(environment__in=environments.values("pk"))
            queryset = queryset.filter(ours | theirs)
        return queryset, False

    def get_queryset(self, request: HttpRequest) -> QuerySet[AccessKey]:
        state = Case(
            When(revoked_at__isnull=False, then=Value("revoked")),
            When(expires_at__lte=Now(), then=Value("expired")),
            When(keys.unseen(), then=Value("unseen")),
            When(Exists(AccessKey.objects.filter(replaces=OuterRef("pk"))), then=Value("replaced")),
            default=Value("live"),
        )
        use = Case(
            When(last_used_at=None, then=Value("never")),
            When(last_used_at__lt=Now() - timedelta(days=30), then=Value("long_ago")),
            default=Value("lately"),
        )
        end = Case(
            When(expires_at=None, then=Value("never")),
            When(expires_at__lte=Now() + timedelta(days=7), then=Value("soon")),
            default=Value("later"),
        )
        own = Q() if request.user.is_superuser else ~Q(kind=KeyKind.USER) | Q(user=request.user.pk)
        rotates = own & Q(state="live") & ~Q(kind=KeyKind.DEPLOY) if may(request, "rotate_accesskey") else Q(pk=None)
        rows = AccessKey.objects.select_related("user", "environment__project", "replaces")
        rows = rows.annotate(state=state, use=use, end=end).defer("digest", "replaces__digest")
        return rows.annotate(may_rotate=Case(When(rotates, then=Value(value=True)), default=Value(value=False)))

    def get_urls(self) -> list[Any]:
        wrap = self.admin_site.admin_view
        return [
            path("<int:pk>/revoke/", wrap(self.revoke_view), name="deployments_accesskey_revoke"),
            path("<int:pk>/rotate/", wrap(self.rotate_view), name="deployments_accesskey_rotate"),
            *super().get_urls(),
        ]

    # Making a key is an action and not Django's form, but it needs Django's permission to add keys.
    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return bool(request.user.has_perm("deployments.add_accesskey"))

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        acts = may(request, "revoke_accesskey") or may(request, "rotate_accesskey")
        return super().has_view_permission(request, obj) or acts

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Only a revoked or expired key can be deleted, so that a deletion never takes away access."""
        dead = obj is not None and not AccessKey.objects.filter(keys.not_ended(), pk=obj.pk).exists()
        return dead and bool(request.user.has_perm("deployments.delete_accesskey"))

    def described(self, row: AccessKey) -> dict[str, Any]:
        return {"kind": row.kind, "owner": owner_of(row)}

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Without a kind, the kinds to choose from; with one (`kind`, or an `environment`), the form of such a key."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        environment = request.GET.get("environment")
        kind = request.POST.get("kind", request.GET.get("kind", KeyKind.ENVIRONMENT if environment else ""))
        words = {each: word for each, word, _ in KINDS}
        back = reverse("admin:deployments_accesskey_changelist")
        context: dict[str, Any]
        if kind not in words:
            context = {"title": "New key", "question": "What is the key for?", "kinds": KINDS, "back": back}
            return self.render_page(request, "registry_admin/kinds.html", None, context)
        form = NewKeyForm(request.POST or None, request=request, kind=kind, initial={"environment": environment})
        if request.method == "POST" and form.is_valid():
            with Trail.of(request).change("make.key") as line:
                key, text = form.make()
                line.target = key
                line.after = {"kind": key.kind, "owner": owner_of(key), "scopes": key.scopes}
            return self._shown_once(request, key, text)
        context = {"title": f"New {words[kind].lower()}", "form": form, "back": back}
        return self.render_page(request, "registry_admin/key_new.html", None, context)

    def revoke_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """GET shows what will stop working, POST revokes the key."""
        require(request, "revoke_accesskey")
        key = get_object_or_404(self.get_queryset(request), pk=pk)
        if request.method == "POST":
            before = {"owner": owner_of(key), "last_used_by": key.last_used_by}
            with Trail.of(request).change("revoke.key", key, before=before) as line:
                if not keys.revoke(key):
                    line.nothing_changed()
            self.message_user(request, f"The key {key} no longer works.")
            return HttpResponseRedirect(reverse("admin:deployments_accesskey_change", args=[key.pk]))
        context = {"title": f"Revoke {key}?", "revocable": revocable(key), "works": key.is_live}
        return self.render_page(request, "registry_admin/key_revoke.html", key, context)

    def rotate_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """GET asks how long the old key stays valid; POST makes the new key and shows it once.

        A personal token acts as its user, so only this user and superusers may rotate it.
        """
        require(request, "rotate_accesskey")
        key = get_object_or_404(self.get_queryset(request), pk=pk)
        if not _may_hold(request, key):
            raise PermissionDenied
        form = RotateForm(request.POST or None)
        if request.method == "POST" and form.is_valid():
            hours = form.cleaned_data["hours"]
            try:
                with Trail.of(request).change("rotate.key", key) as line:
                    new, text = keys.rotate(key, grace=timedelta(hours=hours))
                    line.after = {"successor": str(new), "hours": hours}
            except Refusal as refusal:
                self.message_user(request, refusal.sentence, messages.ERROR)
                return HttpResponseRedirect(reverse("admin:deployments_accesskey_change", args=[key.pk]))
            return self._shown_once(request, new, text)
        alarm = None if rotates(key) else Alarm(title="This key cannot be rotated", words=OBSTACLE, tone="idle")
        context = {"title": f"Rotate {key}?", "form": form, "alarm": alarm}
        return self.render_page(request, "registry_admin/key_rotate.html", key, context)

    def _shown_once(self, request: HttpRequest, key: AccessKey, text: str) -> HttpResponse:
        """The page with the new key.

        Like all pages of the console it is never cached; a test checks it for this page.
        """
        name = VARIABLES[MANAGEMENT if keys.ADMIN in key.scopes else key.kind]
        lines = f"export TRIGGER_API_URL={settings.CONFIGURATION.api_origin}\nexport {name}={text}"
        context = {"title": "A new key", "text": text, "lines": lines}
        return self.render_page(request, "registry_admin/key_made.html", key, context)

    def page(self, request: HttpRequest, row: AccessKey) -> dict[str, Any]:
        successor, predecessor = row.replaced_by.defer("digest").first(), row.replaces
        return {
            "live": False,  # it renews itself slowly: the time of the last use, and by whom
            "buttons": list(_buttons(request, row)),
            "works": getattr(row, "state", "") in ("live", "replaced"),
            "successor": successor,
            "used_since": _clients(row, since=successor),
            "predecessor": predecessor,
            "predecessor_used_since": _clients(predecessor, since=row),
            "clients": _clients(row),
            "clients_left_out": max(0, row.clients.count() - MAX_CLIENTS_SHOWN),
            "audit": audit_of(request, row),
            "alarm": self._alarm(row),
        }

    def _alarm(self, row: AccessKey) -> Alarm | None:
        if getattr(row, "state", "") == "unseen":
            return UNSEEN
        if not row.is_live:
            return None
        if keys.ADMIN in row.scopes:
            return None if keys.owner_may(row, keys.READ) else WITHOUT_OWNER
        return None if keys.owner_may(row, keys.DEPLOY) else WORTH_LESS

    @admin.display(description="Key", ordering="prefix")
    def prefix_cell(self, row: AccessKey) -> str:
        return format_html('<code><b>{}</b></code><span class="under">{}</span>', row, row.name)

    @admin.display(description="State")
    def state_cell(self, row: AccessKey) -> str:
        return badge(row)

    @admin.display(description="Kind")
    def kind_cell(self, row: AccessKey) -> str:
        return two_lines(row.get_kind_display(), ", ".join(row.scopes)) if row.scopes else row.get_kind_display()

    @admin.display(description="Owner")
    def owner(self, row: AccessKey) -> str:
        if row.environment is None:
            return str(row.user)
        return two_lines(row.environment.project, row.environment)

    @admin.display(description="Last used", ordering="last_used_at")
    def last_used(self, row: AccessKey) -> str:
        return two_lines(ago(row.last_used_at, "never"), row.last_used_by)

    @admin.display(description="Expires", ordering="expires_at")
    def expires(self, row: Any) -> str:
        """The end of a key; below it the way to replace it, where this user may."""
        end = until(row.expires_at, "never")
        if not row.may_rotate:
            return end
        address = reverse("admin:deployments_accesskey_rotate", args=[row.pk])
        return two_lines(
            end, format_html('<a href="{}">Rotate…<span class="visually-hidden"> {}</span></a>', address, row)
        )

    @admin.display(description="Created", ordering="created_at")
    def created(self, row: AccessKey) -> str:
        return ago(row.created_at)


#: The alarm on the page of a key whose user has not used single sign-on for SSO_TOKEN_DAYS.
UNSEEN = Alarm(
    title="This key does not work until its owner logs in",
    words="Its owner logs in by single sign-on, and has not done so within SSO_TOKEN_DAYS days. Only such a log-in "
    "shows that its owner still has access.",
    then="Its owner logs in to the console, or you revoke the key.",
    tone="warn",
)
#: The alarm on the page of a live key whose user may not deploy.
WORTH_LESS = Alarm(
    title="Nobody can deploy with this key now",
    words="A key allows only what its owner may do: the owner is not active, or lacks the staff status or the right "
    "“Can add access key”.",
    then="Give its owner the right, or revoke the key.",
    tone="warn",
)
#: The alarm on the page of a live management token whose user may not even see projects.
WITHOUT_OWNER = Alarm(
    title="This token can do nothing now",
    words="A management token allows only what its owner may do: the owner is not active, or lacks the staff status or "
    "the right “Can view project”.",
    then="Give its owner the right, or revoke the token.",
    tone="warn",
)
OBSTACLE = "A deploy key, a revoked or expired key, and a key that was already rotated cannot be rotated."


def _buttons(request: HttpRequest, key: AccessKey) -> Iterator[Button]:
    if may(request, "rotate_accesskey") and _may_hold(request, key) and rotates(key):
        yield Button(word="Rotate…", address=reverse("admin:deployments_accesskey_rotate", args=[key.pk]))
    if may(request, "revoke_accesskey") and revocable(key):
        address = reverse("admin:deployments_accesskey_revoke", args=[key.pk])
        yield Button(word="Revoke…", address=address, style="button danger")


def _may_hold(request: HttpRequest, key: AccessKey) -> bool:
    """Whether this user may see a new key of the same owner: a personal token acts as its user."""
    return key.kind != KeyKind.USER or key.user_id == request.user.pk or bool(request.user.is_superuser)


def _clients(key: AccessKey | None, *, since: AccessKey | None = None) -> list[KeyClient]:
    """The newest clients of a key; with `since`, those that used it after that key was made.

    Version 0.1.0 stores only the last use, on the row of the key: it counts too.
    """
    if key is None:
        return []
    found = list(key.clients.all()[:MAX_CLIENTS_SHOWN])
    if key.last_used_at is not None and key.last_used_by not in {each.client for each in found}:
        found.insert(0, KeyClient(key=key, client=key.last_used_by, last_seen_at=key.last_used_at))
    return [each for each in found if since is None or each.last_seen_at > since.created_at]


def revocable(key: AccessKey) -> bool:
    """Whether the key can be revoked.

    An expired personal token can, because this also revokes its user's deploy keys.
    """
    return key.revoked_at is None


def rotates(key: AccessKey) -> bool:
    """Whether the key can be rotated: it is valid, is not a deploy key, and has no successor yet."""
    return key.is_live and key.kind != KeyKind.DEPLOY and not key.replaced_by.exists()


def owner_of(key: AccessKey) -> str:
    """`PROJECT / ENVIRONMENT`, or the user."""
    return f"{key.environment.project} / {key.environment}" if key.environment else str(key.user)
