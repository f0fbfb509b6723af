"""Trust policies: whose tokens are exchanged for a key of one deployment. The list, a policy's page, and its form."""

from __future__ import annotations

from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.urls import path, reverse
from django.utils.html import format_html

from deployments.access import trust
from deployments.access.audit import Trail
from deployments.admin.ci_files import ci_file
from deployments.admin.display import ago, mark, two_lines
from deployments.admin.keys import Environments
from deployments.admin.pages import Alarm, Button, ReadOnly, audit_of, may, menu, require, who
from deployments.errors import NotFound, Refusal
from deployments.models import AccessKey, Environment, EnvironmentType, TrustKind, TrustPolicy

KIND = "admin:deployments_trustpolicy"
LIST, PAGE = f"{KIND}_changelist", f"{KIND}_change"
KEYS_SHOWN = 10
#: Kind → a sentence to choose by.
KINDS: dict[str, str] = {
    TrustKind.GITHUB: "A workflow of a repository on GitHub, or on GitHub Enterprise Server.",
    TrustKind.GITLAB: "A pipeline of a project on gitlab.com, or on a GitLab of your own.",
    TrustKind.KUBERNETES: "A pod that runs with a service account of a cluster.",
    TrustKind.OTHER: "Any issuer of OpenID Connect tokens: Buildkite, CircleCI, Bitbucket, a cloud.",
}
_REF = "Empty: each branch and tag. An asterisk stands for characters without a slash."
#: Kind → (claim, its label, how to find its value): the fields of the form.
FIELDS: dict[str, tuple[tuple[str, str, str], ...]] = {
    TrustKind.GITHUB: (
        ("repository_id", "Repository id", "A number: gh api repos/OWNER/NAME --jq .id"),
        ("repository_owner_id", "Owner id", "A number: gh api repos/OWNER/NAME --jq .owner.id"),
        ("ref", "Branch or tag", f"As in refs/heads/main. {_REF}"),
    ),
    TrustKind.GITLAB: (
        ("project_id", "Project id", "A number, shown on the page of the project in GitLab."),
        ("ref", "Branch or tag", f"As in main. {_REF}"),
        ("ref_type", "Which of both", "branch or tag, because a tag can have the name of a branch."),
    ),
    TrustKind.KUBERNETES: (
        ("kubernetes.io/namespace", "Namespace", ""),
        ("kubernetes.io/serviceaccount/name", "Service account", ""),
        (
            "kubernetes.io/serviceaccount/uid",
            "Its uid",
            "With its uid, a service account that was deleted and recreated is not trusted: "
            "kubectl get serviceaccount NAME -o yaml",
        ),
    ),
    TrustKind.OTHER: (("sub", "Subject", "The claim sub of the tokens, exactly."),),
}
PRIVATE = ("allow_private", "ca", "jwks")


class PolicyForm(forms.Form):
    """The form of a policy of one kind: a field for each claim of the preset, and the other claims as text."""

    environment = Environments(
        queryset=Environment.objects.none(), error_messages={"required": "Choose the environment to deploy to."}
    )
    name = forms.CharField(
        max_length=trust.MAX_NAME_CHARACTERS, help_text="To tell policies apart, such as main branch."
    )
    issuer = forms.CharField(max_length=500, help_text="The claim iss of the tokens, exactly.")
    more = forms.CharField(
        label="Other claims",
        required=False,
        widget=forms.Textarea(attrs={"rows": 4, "spellcheck": "false"}),
        help_text="Claims that must be equal too, each on its own line: NAME = VALUE. Write a nested claim "
        "with slashes.",
    )
    branch_claim = forms.CharField(
        label="Claim with the branch",
        required=False,
        max_length=100,
        help_text="Only for preview, where a key deploys to the branch of its token.",
    )
    enabled = forms.BooleanField(required=False, initial=True)
    allow_private = forms.BooleanField(
        label="The issuer may have a private address",
        required=False,
        help_text="This server then fetches the keys of the issuer from an address in its own network.",
    )
    ca = forms.CharField(
        label="CA of the issuer",
        required=False,
        widget=forms.Textarea(attrs={"rows": 3, "spellcheck": "false"}),
        help_text="PEM. Only this CA is trusted for the issuer. Empty: the CAs that this server trusts.",
    )
    jwks = forms.CharField(
        label="Keys of the issuer",
        required=False,
        widget=forms.Textarea(attrs={"rows": 3, "spellcheck": "false"}),
        help_text="A key set as JSON; the issuer is then never called. For a cluster: kubectl get "
        "--raw /openid/v1/jwks",
    )

    def __init__(
        self,
        *args: Any,
        request: HttpRequest,
        kind: str,
        policy: TrustPolicy | None,
        environment: str = "",
        **more: Any,
    ) -> None:
        super().__init__(*args, **more)
        self.kind, self.policy = kind, policy
        preset = trust.PRESETS[kind]
        self.claims = {f"claim_{number}": claim for number, (claim, _, _) in enumerate(FIELDS[kind])}
        for name, (claim, label, words) in zip(self.claims, FIELDS[kind], strict=True):
            must = (claim,) in preset.required or kind == TrustKind.OTHER
            self.fields[name] = forms.CharField(label=label, required=False, max_length=500, help_text=words)
            self.fields[name].widget.attrs |= {"aria-required": "true"} if must else {}
        if kind == TrustKind.KUBERNETES:
            del self.fields["branch_claim"]
        else:
            self.fields["branch_claim"].help_text += f" Empty: {preset.branch_claim}."
        if not may(request, "trust_private_issuer"):
            for name in PRIVATE:
                del self.fields[name]
        self.order_fields(["environment", "name", "issuer", *self.claims, "more"])
        if policy is not None:
            del self.fields["environment"]
            known = set(self.claims.values())
            rest = {claim: value for claim, value in policy.claims.items() if claim not in known}
            self.initial = {
                **{name: getattr(policy, name) for name in ("name", "issuer", "branch_claim", "enabled", *PRIVATE)},
                **{name: policy.claims.get(claim, "") for name, claim in self.claims.items()},
                "more": trust.as_lines(rest),
            }
            return
        rows = Environment.objects.select_related("project").filter(
            parent=None, archived_at=None, project__archived_at=None
        )
        if kind == TrustKind.KUBERNETES:
            rows = rows.exclude(type=EnvironmentType.PREVIEW)
        self.fields["environment"].queryset = rows  # type: ignore[attr-defined]
        self.initial = {"environment": environment, "issuer": preset.issuer}

    def clean_more(self) -> str:
        try:
            trust.from_lines(text := str(self.cleaned_data["more"]))
        except ValueError as error:
            raise forms.ValidationError(str(error)) from None
        return text

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        if self.errors:
            return data
        given = {claim: data[name] for name, claim in self.claims.items() if data[name]}
        others = trust.from_lines(data["more"])
        if twice := sorted(given.keys() & others.keys()):
            self.add_error("more", f"The claim {twice[0]} has a field of its own.")
        data["claims"] = given | others
        return data

    def values(self) -> dict[str, Any]:
        """What `trust.create` and `trust.change` take."""
        names = ("name", "issuer", "claims", "branch_claim", "enabled", *PRIVATE)
        return {name: self.cleaned_data[name] for name in names if name in self.cleaned_data}


@admin.register(TrustPolicy)
class TrustPolicyAdmin(ReadOnly):
    page_template = "registry_admin/trust.html"
    nothing_yet = "No trust policies yet. With one, a CI job or a pod deploys without a stored key."
    list_display = ("name_cell", "state_cell", "environment_cell", "last_used", "last_refusal")
    list_filter = (
        menu("Project", "environment__project__ref", label="environment__project__name", name="project"),
        menu("Kind", "kind", words=dict(TrustKind.choices)),
    )
    search_fields = ("name", "issuer", "environment__project__name")
    search_help_text = "Name, issuer or project"
    sortable_by = ("name_cell", "last_used", "last_refusal")

    def get_queryset(self, request: HttpRequest) -> QuerySet[TrustPolicy]:
        return trust.list_policies().defer("ca", "jwks")

    def get_urls(self) -> list[Any]:
        wrap = self.admin_site.admin_view
        return [
            path("<int:pk>/edit/", wrap(self.edit_view), name="deployments_trustpolicy_edit"),
            path("<int:pk>/switch/", wrap(self.switch_view), name="deployments_trustpolicy_switch"),
            *super().get_urls(),
        ]

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return may(request, "add_trustpolicy")

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_view_permission(request, obj) or may(request, "change_trustpolicy")

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Without a kind, the kinds to choose from; with one (`kind`), the form of a policy of this kind."""
        require(request, "add_trustpolicy")
        kind = request.POST.get("kind", request.GET.get("kind", ""))
        environment = request.GET.get("environment", "")
        environment = environment if environment.isdecimal() else ""
        if kind not in TrustKind.values:
            context = {
                "title": "New trust policy", "question": "Who signs the tokens?", "back": reverse(LIST),
                "kinds": [(each, each.label, KINDS[each]) for each in TrustKind], "environment": environment,
            }  # fmt: skip
            return self.render_page(request, "registry_admin/kinds.html", None, context)
        form = PolicyForm(request.POST or None, request=request, kind=kind, policy=None, environment=environment)
        return self._form(request, form, f"New trust policy: {TrustKind(kind).label}", reverse(LIST))

    def edit_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """The form to change a policy."""
        require(request, "change_trustpolicy")
        policy = self.one(request, pk)
        form = PolicyForm(request.POST or None, request=request, kind=policy.kind, policy=policy)
        return self._form(request, form, f"Change {policy}", reverse(PAGE, args=[policy.pk]))

    def _form(self, request: HttpRequest, form: PolicyForm, title: str, back: str) -> HttpResponse:
        if request.method == "POST" and form.is_valid():
            rights: dict[str, Any] = {
                "trail": Trail.of(request),
                "may_trust_private": may(request, "trust_private_issuer"),
            }
            try:
                if form.policy is None:
                    environment = form.cleaned_data["environment"]
                    saved = trust.create(
                        environment=environment, kind=form.kind, by=who(request), **form.values(), **rights
                    )
                else:
                    saved = trust.change(policy=form.policy, **form.values(), **rights)
            except NotFound as gone:
                return self._gone(request, gone)
            except Refusal as refused:
                form.add_error(None, refused.sentence)
            else:
                self.message_user(request, f"{saved} is saved. Its page has the file for the CI job.")
                return HttpResponseRedirect(reverse(PAGE, args=[saved.pk]))
        context = {"title": title, "form": form, "back": back, "kind": form.kind, "is_new": form.policy is None}
        return self.render_page(request, "registry_admin/trust_form.html", form.policy, context)

    def switch_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """POST: switch a policy off, or on again."""
        require(request, "change_trustpolicy")
        if request.method != "POST":
            return HttpResponseNotAllowed(("POST",))
        policy = self.one(request, pk)
        wanted = request.GET.get("on") == "1"
        try:
            trust.change(policy=policy, enabled=wanted, trail=Trail.of(request))
        except NotFound as gone:
            return self._gone(request, gone)
        except Refusal as refused:
            self.message_user(request, refused.sentence, messages.ERROR)
        else:
            words = "is on" if wanted else "is off, and its keys are revoked"
            self.message_user(request, f"{policy} {words}.")
        return HttpResponseRedirect(reverse(PAGE, args=[policy.pk]))

    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """GET shows what ends with the policy, POST deletes it."""
        require(request, "delete_trustpolicy")
        policy = self.one(request, object_id if object_id.isdecimal() else 0)
        if request.method == "POST":
            try:
                trust.delete(policy=policy, trail=Trail.of(request))
            except NotFound as gone:
                return self._gone(request, gone)
            self.message_user(request, f"{policy} is deleted.")
            return HttpResponseRedirect(reverse(LIST))
        context = {"title": f"Delete {policy}?"}
        return self.render_page(request, "registry_admin/trust_delete.html", policy, context)

    def _gone(self, request: HttpRequest, gone: NotFound) -> HttpResponse:
        """The answer if another person has deleted the policy meanwhile."""
        self.message_user(request, gone.sentence, messages.ERROR)
        return HttpResponseRedirect(reverse(LIST))

    def page(self, request: HttpRequest, row: TrustPolicy) -> dict[str, Any]:
        configuration, environment = settings.CONFIGURATION, row.environment
        keys = self.admin_site.get_model_admin(AccessKey)
        context: dict[str, Any] = {
            "alarm": _alarm(row),
            "is_refusing": row.enabled and is_refusing(row),
            "audience": configuration.app_origin,
            "claims": row.claims.items(),
            "file": ci_file(
                row.kind,
                server=configuration.app_origin,
                api=configuration.api_origin,
                ref=environment.project.ref,
                environment=environment.slug,
                claims=row.claims,
            ),
            "buttons": list(_buttons(request, row)),
            "audit": audit_of(request, row),
        }
        if keys.has_view_permission(request):
            context["keys"] = keys.get_queryset(request).filter(trust_policy=row)[:KEYS_SHOWN]
        return context

    @admin.display(description="Trust policy", ordering="name")
    def name_cell(self, row: TrustPolicy) -> str:
        return format_html('<b>{}</b><span class="under">{}</span>', row, row.get_kind_display())

    @admin.display(description="State")
    def state_cell(self, row: TrustPolicy) -> str:
        return state(row)

    @admin.display(description="Deploys to")
    def environment_cell(self, row: TrustPolicy) -> str:
        return two_lines(row.environment.project, row.environment)

    @admin.display(description="Last used", ordering="last_used_at")
    def last_used(self, row: TrustPolicy) -> str:
        return ago(row.last_used_at, "never")

    @admin.display(description="Last refusal", ordering="last_error_at")
    def last_refusal(self, row: TrustPolicy) -> str:
        return two_lines(ago(row.last_error_at), row.last_error) if row.last_error else ago(None, "none")


def is_refusing(policy: TrustPolicy) -> bool:
    """Whether the last token that was meant for the policy was refused."""
    refused, used = policy.last_error_at, policy.last_used_at
    return refused is not None and (used is None or refused > used)


def state(policy: TrustPolicy) -> str:
    """The badge of a policy."""
    if not policy.enabled:
        return mark("idle", "Off")
    return mark("warn", "Last token refused") if is_refusing(policy) else mark("ok", "On")


def _alarm(policy: TrustPolicy) -> Alarm | None:
    if policy.environment.project.archived_at is not None:
        return Alarm(title="The project is archived", words="No token is exchanged for a key of it.", tone="idle")
    if not policy.enabled:
        return Alarm(title="This policy is off", words="No token is exchanged under this policy.", tone="idle")
    if is_refusing(policy):
        return Alarm(title="The last token was refused", words=policy.last_error, tone="warn")
    return None


def _buttons(request: HttpRequest, policy: TrustPolicy) -> Any:
    def address(name: str) -> str:
        return reverse(f"{KIND}_{name}", args=[policy.pk])

    if may(request, "change_trustpolicy"):
        yield Button(word="Change", address=address("edit"), style="historylink")
        word, on = ("Switch off", 0) if policy.enabled else ("Switch on", 1)
        yield Button(word=word, address=f"{address('switch')}?on={on}", posts=True)
    if may(request, "delete_trustpolicy"):
        yield Button(word="Delete…", address=address("delete"), style="button danger")
