"""Pages about policies: a policy's risks, who may pull by it, restoring an earlier policy, and the effect of another
default policy on all repositories.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect, StreamingHttpResponse
from django.shortcuts import get_object_or_404
from django.urls import path, reverse
from django.utils.html import format_html

from deployments import clock, policy, tasks
from deployments.access.audit import Trail
from deployments.admin.exports import KINDS, as_csv
from deployments.admin.pages import Button, ReadOnly, may, require, shown_configuration, who
from deployments.admin.sidebyside import laid_out, side_by_side
from deployments.aws.partitions import console_of, partition_of
from deployments.errors import Refusal
from deployments.images import EcrRegistry
from deployments.models import Repository, RepositoryEvent, RepositoryStatus, Sweep
from deployments.reconcile import adopted_statements, desired, put_back, repositories, targets, what_if, writes_pause
from deployments.row_values import AdoptedStatement, SeenStatement

TAKE_OVER = "take_over_policy_repository"
ADOPT_STATEMENT, REFUSE_STATEMENT = "adopt_statement_repository", "refuse_statement_repository"


def aws_console(row: Repository) -> str:
    """The URL of the repository in the AWS console; empty for a partition whose console AWS does not document."""
    console = console_of(row.region)
    path = f"ecr/repositories/private/{row.account}/{row.name}?region={row.region}"
    return f"https://{console}/{path}" if console else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Puller:
    """A principal and whether it may pull. `consumer`: an account of the settings; else the policy names it."""

    name: str
    verdict: str  # yes, no, depends, unknown
    words: str
    consumer: bool

    @property
    def pulls(self) -> bool:
        """Whether the principal may pull."""
        return self.verdict == "yes"

    @property
    def word(self) -> str:
        """The verdict as the page shows it."""
        return {"yes": "May pull", "no": "May not", "unknown": "Not seen"}.get(self.verdict, "Depends")

    @property
    def tone(self) -> str:
        """The tone of the badge; a consumer account that cannot pull is bad."""
        if self.pulls:
            return "ok"
        return "warn" if self.verdict != "no" else "bad" if self.consumer else "idle"


def risks(row: Repository) -> tuple[policy.Finding, ...]:
    """The findings about the last observed policy, errors first."""
    if not row.policy_text:
        return ()
    return policy.lint(
        row.policy_text,
        partition=partition_of(row.region),
        allow_public=shown_configuration().allow_public_policy,
        writer=row.account,
    )


def openness(row: Repository) -> policy.Openness:
    """Whether the last observed policy lets the whole world in; no policy lets nobody in."""
    return policy.openness(row.policy_text, partition=partition_of(row.region)) if row.policy_text else "closed"


def pullers(row: Repository, registry: policy.RegistryPolicy | None) -> list[Puller]:
    """The consumer accounts as of the last check, then the other principals that either policy names.

    Nobody pulls from a repository that is gone, also if its row has answers of an earlier check.

    `registry`: the registry policy as it was last read; None: AWS does not show it.
    """
    if row.status == RepositoryStatus.MISSING:
        return []
    found = [
        Puller(name=f"account {account}", verdict=answer.verdict, words=answer.words, consumer=True)
        for account, answer in sorted(row.consumers.items())
    ]
    if row.last_checked_at is None:
        return found
    known = {puller.name for puller in found}
    partition = partition_of(row.region)
    for name, access in policy.named(row.policy_text, registry, arn=_arn(row), partition=partition):
        if name not in known:
            found.append(Puller(name=name, verdict=access.verdict, words=access.words, consumer=False))
    return found


def pulls_rest_on(row: Repository, registry: policy.RegistryPolicy | None) -> str:
    """A sentence: which policies “who can pull” rests on, and what was not seen."""
    partition = partition_of(row.region)
    return policy.effective(row.policy_text, registry, row.account, arn=_arn(row), partition=partition).basis


def _arn(row: Repository) -> str:
    registry = EcrRegistry(account=row.account, region=row.region, partition=partition_of(row.region))
    return registry.repository_arn(row.name)


class RestoreForm(forms.Form):
    """The form to restore a policy. It offers an override, because otherwise the next check overwrites the policy."""

    keep = forms.BooleanField(required=False, initial=True, label="Make an exception, so that it stays")
    hours = forms.TypedChoiceField(
        label="Until",
        coerce=int,
        initial=24,
        choices=[(1, "in 1 hour"), (4, "in 4 hours"), (24, "in 1 day"), (72, "in 3 days"), (168, "in 7 days")],
    )
    reason = forms.CharField(
        required=False, max_length=300, help_text="The reason of the exception. Shown with the repository."
    )

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        if data.get("keep") and not str(data.get("reason", "")).strip():
            self.add_error("reason", "Say why, or leave out the exception.")
        return data

    def override(self) -> put_back.Override | None:
        """The override that a valid form asks for; None without one."""
        data = self.cleaned_data
        if not data["keep"]:
            return None
        return put_back.Override(until=clock.now() + timedelta(hours=data["hours"]), reason=data["reason"])


class StatementForm(forms.Form):
    """Why a statement of others stays, or is refused."""

    reason = forms.CharField(max_length=300, help_text="Shown with the statement, and in the audit log.")


class WhatIfForm(forms.Form):
    """A policy text, and the registry whose repositories it would be for."""

    text = forms.CharField(
        label="Default repository policy",
        widget=forms.Textarea(attrs={"rows": 10, "spellcheck": "false", "autocomplete": "off"}),
        max_length=4 * policy.MAX_CHARACTERS,
        help_text="IAM JSON, as for DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY; ECR accepts up to "
        f"{policy.MAX_CHARACTERS:,} characters.",
    )
    registry = forms.TypedChoiceField(coerce=int, label="Registry")


def take_over_button(request: HttpRequest, row: Repository) -> Button | None:
    """The button that leads to the page “take over the policy”; None if the page would refuse."""
    if not may(request, TAKE_OVER) or default_of(row) is None or row.incomparable_since is None:
        return None
    address = reverse("admin:deployments_repository_take_over", args=[row.pk])
    return Button(word="Take over the policy…", address=address)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownStatement:
    """A statement of others as the page of a repository shows it. `leads`: to the page that changes it."""

    word: str
    tone: str
    name: str
    text: str
    words: str
    says: str = ""  # what it allows; empty: it does not stand in a policy
    adopted: AdoptedStatement | None = None
    seen: SeenStatement | None = None
    leads: Button | None = None

    @property
    def is_refused(self) -> bool:
        """Whether an operator has refused it."""
        return self.seen is not None and self.seen.refused_by != ""


def statements_of_others(
    request: HttpRequest, row: Repository, events: Iterable[RepositoryEvent]
) -> list[ShownStatement]:
    """The live statements of others, those of which an operator has decided, and those of the history that may be
    adopted.

    None for a repository whose policy is never written: one that is unmanaged or gone.
    """
    target, default = _target_of(row), default_of(row)
    if target is None or default is None or not row.is_managed:
        return []
    mine = {each.statement: each for each in row.adopted_statements}
    known = {each.statement: each for each in row.foreign_statements}
    leads = _Leads(request=request, row=row, mine=mine)
    live = adopted_statements.live(row, target)
    found = [
        ShownStatement(
            word="Kept" if each.kept else "Not kept",
            tone="warn" if each.warning or not each.kept else "ok",
            name=each.name,
            text=each.text,
            says=each.says,
            words=f"{each.warning} {each.why}" if each.kept else f"It is drift. {each.warning} {each.why}",
            adopted=mine.get(each.text),
            seen=known.get(each.text),
            leads=leads.of(each, known.get(each.text)),
        )
        for each in live
    ]
    texts = {one.text for one in live}
    found += [
        ShownStatement(
            word="Adopted",
            tone="idle",
            name=each.name,
            text=text,
            words=adopted_statements.words_of_unseen(row, target, each),
            adopted=each,
            leads=leads.button(ADOPT_STATEMENT, "Stop keeping the statement…", text),
        )
        for text, each in mine.items()
        if text not in texts
    ]
    found += [
        ShownStatement(
            word="Refused",
            tone="idle",
            name=each.name,
            text=text,
            words="The last look did not find it in the policy.",
            seen=each,
            leads=leads.button(REFUSE_STATEMENT, "Stop refusing the statement…", text),
        )
        for text, each in known.items()
        if each.refused_by and text not in texts
    ]
    found += [
        ShownStatement(
            word="Not kept",
            tone="idle",
            name=each.statement.name,
            text=each.statement.text,
            says=each.statement.says,
            words=f"{each.statement.warning} It was in an earlier policy.",
            leads=leads.button(ADOPT_STATEMENT, "Keep the statement…", each.statement.text),
        )
        for each in adopted_statements.offers(row, target, events)
        if not each.live
    ]
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Leads:
    """The buttons that lead to the pages “keep” and “refuse”, where the person may do it."""

    request: HttpRequest
    row: Repository
    mine: Mapping[str, AdoptedStatement]

    def of(self, one: policy.ForeignStatement, seen: SeenStatement | None) -> Button | None:
        """What a person may do with a live statement; None: nothing."""
        if one.text in self.mine:
            return self.button(ADOPT_STATEMENT, "Stop keeping the statement…", one.text)
        if seen is not None and seen.refused_by:
            return self.button(REFUSE_STATEMENT, "Stop refusing the statement…", one.text)
        if one.adoptable:
            return self.button(ADOPT_STATEMENT, "Keep the statement…", one.text)
        return self.button(REFUSE_STATEMENT, "Refuse the statement…", one.text) if one.kept else None

    def button(self, permission: str, word: str, text: str) -> Button | None:
        """The button; None if the person may not."""
        if not may(self.request, permission):
            return None
        page = reverse(f"admin:deployments_repository_{_PAGES[permission]}", args=[self.row.pk])
        return Button(word=word, address=f"{page}?statement={adopted_statements.key_of(text)}")


_PAGES = {ADOPT_STATEMENT: "statement", REFUSE_STATEMENT: "refuse_statement"}


def beside(row: Repository, text: str) -> str:
    """What a write of this policy text would replace the last observed policy by, with the statements that are kept."""
    target = _target_of(row)
    if target is None:
        return text
    trust = repositories.trust(row, target.config)
    return desired.policy_beside(text, row.policy_text, partition=target.registry.partition, trust=trust)


def default_of(row: Repository) -> str | None:
    """The default policy that the configuration has for this repository; None if there is none."""
    target = _target_of(row)
    return target.config.default_repository_policy if target is not None else None


def _target_of(row: Repository) -> targets.Target | None:
    configuration = shown_configuration()
    return None if configuration.problems else targets.of(row, configuration)


class _Decision(Enum):
    """What a person decides about a statement: the verb, the verb to end it, and the sentences when it is done."""

    KEEP = ("Keep", "Stop keeping", "The statement is kept from now on.", "The statement is no longer kept.")
    REFUSE = ("Refuse", "Stop refusing", "The statement is refused.", "The statement is no longer refused.")

    def then(self, *, ends: bool, enforce: bool) -> str:
        """What follows, in sentences."""
        if self is _Decision.KEEP and not ends:
            return _KEEPING
        goes = "The next check writes the policy without the statement" if enforce else _ONLY_SHOWN
        if self is _Decision.KEEP:
            return f"{goes}, unless the settings keep it."
        return (
            "The settings decide again whether it stays." if ends else f"{goes}. It stays refused until you end that."
        )


_KEEPING = (
    "Registry Admin keeps the statement beside the default policy as long as it is exactly this statement, and writes "
    "nothing to AWS for it. A statement of an earlier policy is kept when it is added again, or when that policy is "
    "restored."
)
_ONLY_SHOWN = "The settings say observe, so the statement is not removed; the repository is shown as drifted"


class Policies(ReadOnly):
    """Adds the pages “restore”, “take over the policy” and “what if” to the repositories."""

    def get_urls(self) -> list[Any]:
        wrap = self.admin_site.admin_view
        return [
            path("what-if/", wrap(self.what_if_view), name="deployments_repository_what_if"),
            path("<int:pk>/restore/<int:event>/", wrap(self.restore_view), name="deployments_repository_restore"),
            path("<int:pk>/take-over/", wrap(self.take_over_view), name="deployments_repository_take_over"),
            path("<int:pk>/statement/", wrap(self.statement_view), name="deployments_repository_statement"),
            path(
                "<int:pk>/statement/refuse/",
                wrap(self.refuse_statement_view),
                name="deployments_repository_refuse_statement",
            ),
            *super().get_urls(),
        ]

    def take_over_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """GET shows the live and the default policy; POST writes the default policy to ECR, if both are still those."""
        require(request, TAKE_OVER)
        row: Repository = self.one(request, pk)
        page = reverse("admin:deployments_repository_change", args=[row.pk])
        if request.method == "POST":
            try:
                put_back.take_over(
                    row=row,
                    shown=request.POST.get("shown", ""),
                    configuration=settings.CONFIGURATION,
                    by=who(request),
                    trail=Trail.of(request),
                )
            except Refusal as refusal:
                self.message_user(request, refusal.sentence, messages.ERROR)
            else:
                self.message_user(request, "The default policy has replaced the policy.", messages.SUCCESS)
                return HttpResponseRedirect(page)
        target, default = _target_of(row), default_of(row)
        if target is None or default is None or row.incomparable_since is None:
            return HttpResponseRedirect(page)  # the page of the repository shows both texts too
        return self.render_page(
            request,
            "registry_admin/take_over.html",
            row,
            {
                "title": "Take this policy over?",
                "words": " ".join(each.words for each in row.differences if each.is_incomparable),
                "lines": side_by_side(row.policy_text, beside(row, default), partition=target.registry.partition),
                "shown": put_back.seen(live=row.policy_text, default=default),
                "against": put_back.objection(
                    row.policy_text, target=target, allow_public=shown_configuration().allow_public_policy
                ),
                "findings": risks(row),
            },
        )

    def statement_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """GET shows a statement of others; POST lets it stay, or no longer."""
        require(request, ADOPT_STATEMENT)
        row: Repository = self.one(request, pk)
        decided = {each.statement for each in row.adopted_statements}
        return self._decide(request, row, decided, _Decision.KEEP, adopted_statements.adopt, adopted_statements.release)

    def refuse_statement_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """GET shows a statement of others; POST refuses it, or no longer."""
        require(request, REFUSE_STATEMENT)
        row: Repository = self.one(request, pk)
        decided = {each.statement for each in row.foreign_statements if each.refused_by}
        return self._decide(
            request, row, decided, _Decision.REFUSE, adopted_statements.refuse, adopted_statements.allow
        )

    def _decide(
        self,
        request: HttpRequest,
        row: Repository,
        decided: set[str],
        decision: _Decision,
        begin: Callable[..., Sweep],
        end: Callable[..., Sweep],
    ) -> HttpResponse:
        """The page of a decision about a statement. `decided`: the texts of those for which it was taken."""
        key, page = request.GET.get("statement", ""), reverse("admin:deployments_repository_change", args=[row.pk])
        ends = any(adopted_statements.key_of(each) == key for each in decided)
        if request.method == "POST":
            ends = "ends" in request.POST  # what the person saw
        form = StatementForm(request.POST or None)
        asked: dict[str, Any] = {"row": row, "key": key, "by": who(request), "trail": Trail.of(request)}
        if request.method == "POST" and (ends or form.is_valid()):
            try:
                if ends:
                    sweep = end(**asked)
                else:
                    shown, reason = request.POST.get("shown", ""), form.cleaned_data["reason"]
                    sweep = begin(**asked, shown=shown, reason=reason, configuration=settings.CONFIGURATION)
            except Refusal as refusal:
                self.message_user(request, refusal.sentence, messages.ERROR)
                return HttpResponseRedirect(page)
            tasks.wake_workers()
            address = reverse("admin:deployments_sweep_change", args=[sweep.pk])
            said = format_html('{} <a href="{}">View {}</a>', decision.value[2 + ends], address, sweep)
            self.message_user(request, said, messages.SUCCESS)
            return HttpResponseRedirect(page)
        shown_now = statements_of_others(request, row, row.events.all()[: adopted_statements.EVENTS_READ])
        found = next((each for each in shown_now if adopted_statements.key_of(each.text) == key), None)
        may_act = (
            found is not None and found.leads is not None and found.leads.address.partition("?")[0] == request.path
        )
        if found is None or not may_act:
            return HttpResponseRedirect(page)  # the page of the repository shows what there is now
        return self.render_page(
            request,
            "registry_admin/statement.html",
            row,
            {
                "title": f"{decision.value[ends]} this statement?",
                "submit": f"{decision.value[ends]} it",
                "then": decision.then(ends=ends, enforce=shown_configuration().enforce),
                "found": found,
                "ends": ends,
                "text": laid_out(found.text),
                "form": form,
                "shown": adopted_statements.seen(row, key),
            },
        )

    def restore_view(self, request: HttpRequest, pk: int, event: int) -> HttpResponse:
        """GET compares the earlier policy with the current one; POST writes the earlier policy to ECR."""
        require(request, "restore_policy_repository")
        row: Repository = self.one(request, pk)
        kept = get_object_or_404(RepositoryEvent.objects.exclude(policy_before=""), pk=event, repository=row)
        kept.repository = row
        form = RestoreForm(request.POST or None)
        if request.method == "POST" and form.is_valid():
            try:
                put_back.put_back(
                    event=kept,
                    configuration=settings.CONFIGURATION,
                    by=who(request),
                    trail=Trail.of(request),
                    override=form.override(),
                )
            except Refusal as refusal:
                self.message_user(request, refusal.sentence, messages.ERROR)
            else:
                self.message_user(
                    request, f"The policy from before {kept.at:%d %b %Y, %H:%M} UTC was restored.", messages.SUCCESS
                )
                return HttpResponseRedirect(reverse("admin:deployments_repository_change", args=[row.pk]))
        partition, text = partition_of(row.region), beside(row, kept.policy_before)
        comparison = policy.compare(row.policy_text or None, text, partition=partition, names=("current", "earlier"))
        return self.render_page(
            request,
            "registry_admin/restore.html",
            row,
            {
                "title": "Restore this policy?",
                "event": kept,
                "form": form,
                "comparison": comparison,
                "tone": "idle" if comparison.level in ("identical", "cosmetic") else "warn",
                "findings": policy.lint(kept.policy_before, partition=partition),
                "lines": side_by_side(row.policy_text, text, partition=partition),
                "services_stay": text != kept.policy_before,
                "enforce": shown_configuration().enforce,
            },
        )

    def what_if_view(self, request: HttpRequest) -> HttpResponseBase:
        """The effect of another default policy: as a page, or of each repository as a file.

        Writes nothing; it is a POST because a policy is too long for a URL.
        """
        if not self.has_view_permission(request):
            return HttpResponseRedirect(reverse("admin:index"))
        configuration = shown_configuration()
        choices = targets.configured(configuration)
        present = choices[0].config.default_repository_policy if choices else ""
        form = WhatIfForm(request.POST or None, initial={"text": _to_edit(present or ""), "registry": 0})
        form.fields["registry"].choices = [  # type: ignore[attr-defined]
            (place, f"{target.config.host}/{target.config.namespace}") for place, target in enumerate(choices)
        ]
        found: dict[str, Any] = {}
        refused = ""
        if request.method == "POST" and form.is_valid():
            text, target = form.cleaned_data["text"], choices[form.cleaned_data["registry"]]
            answer = what_if.rehearse(
                text=text,
                target=target,
                allow_public=configuration.allow_public_policy,
                enforce=configuration.enforce,
            )
            for finding in answer.refusals:
                refused = "Registry Admin would not start with this policy."
                form.add_error("text", f"{finding.message} {finding.hint} ({finding.id})")
            if answer.is_policy and request.POST.get("as") == "csv":
                lines = as_csv(what_if.COLUMNS, answer.records())
                response = StreamingHttpResponse(lines, content_type=KINDS["csv"])
                response["Content-Disposition"] = 'attachment; filename="policy-preview.csv"'
                return response
            if answer.is_policy:
                found = _preview(answer, text, target)
        context = {
            "title": "Preview a policy change",
            "form": form,
            "targets": choices,
            "enforce": configuration.enforce,
            "staged": configuration.staged,
            "refused": refused,
            **found,
        }
        return self.render_page(request, "registry_admin/what_if.html", None, context)


def _preview(answer: what_if.Rehearsal, text: str, target: targets.Target) -> dict[str, Any]:
    """What the page shows of an answer."""
    present, partition = target.config.default_repository_policy, target.registry.partition
    same = present is not None and policy.compare(present, text, partition=partition).level in ("identical", "cosmetic")
    variable = target.config.variable("default_repository_policy")
    return {
        "answer": answer,
        "same_as_present": same,
        "has_present": present is not None,
        "lines": side_by_side(present or "", text, partition=partition),
        "variable": variable,
        "setting_line": what_if.setting_line(text, target),
        "pause": writes_pause.current(),
    }


def _to_edit(text: str) -> str:
    """A policy text formatted for people, or unchanged if the formatted text would be too long for ECR."""
    try:
        spread = json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return text
    return spread if len(spread) <= policy.MAX_CHARACTERS else text


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """The state of one part of a repository (policy, tags …) compared with the settings."""

    tone: str
    word: str
    words: str = ""


def state_of(row: Repository, part: str, *, covered: bool) -> State:
    """The state of a part. `covered`: whether a configured registry contains this repository."""
    found = [each for each in row.differences if each.part == part]
    if found:
        words = " ".join(each.words for each in found)
        if any(each.is_incomparable for each in found):
            return State(tone="warn", word="Not comparable", words=words)
        writable = any(each.fixable for each in found)
        return State(tone="warn" if writable else "idle", word="Differs" if writable else "Reported", words=words)
    looked = row.last_checked_at if part == "policy" else row.details_checked_at
    if looked is None or row.status in (RepositoryStatus.MISSING, RepositoryStatus.UNMANAGED):
        return State(tone="idle", word="Not checked")
    if not covered:
        return State(tone="idle", word="Not covered", words="The settings name another registry now.")
    if row.status == RepositoryStatus.PENDING:
        return State(tone="idle", word="Pending")
    return State(tone="ok", word="As configured")
