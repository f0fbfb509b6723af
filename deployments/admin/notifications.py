"""Notifications: the channels, and the log of messages.

A webhook's secret is shown once, when it is made; its URL is never shown whole. Both are stored encrypted. The test
button sends a message in the request (at most about 5 seconds); the worker sends all other messages.
"""

from __future__ import annotations

from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Case, Q, QuerySet, When
from django.db.models.functions import Lower
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.urls import path, reverse
from django.utils import timezone
from django.utils.cache import add_never_cache_headers
from django.utils.html import format_html
from django.utils.safestring import SafeString

from deployments import clock
from deployments.access.audit import Trail
from deployments.access.vault import Vault
from deployments.admin.display import ago, mark, two_lines, until
from deployments.admin.pages import Alarm, Button, ReadOnly, may, menu, require, who
from deployments.errors import Refusal
from deployments.models import ChannelKind, DeliveryStatus, NotificationChannel, NotificationDelivery, Project
from deployments.notify import channels, deliveries, news, senders
from deployments.notify.senders import DeliverySettings

KIND = "admin:deployments_notificationchannel"
LIST, PAGE = f"{KIND}_changelist", f"{KIND}_change"
#: Kind → what its channels do, and what stands before the field of the address.
KINDS: dict[str, tuple[str, str]] = {
    ChannelKind.WEBHOOK: ("JSON with a signature, to a receiver of your own.", "https URL of the receiver"),
    ChannelKind.SLACK: ("An incoming webhook of Slack.", "https://hooks.slack.com/services/…"),
    ChannelKind.TEAMS: (
        "A workflow of Teams that posts when a webhook request is received.",
        "URL of the workflow, from “Post to a channel when a webhook request is received”",
    ),
    ChannelKind.DISCORD: ("A webhook of a Discord channel.", "https://discord.com/api/webhooks/…"),
    ChannelKind.MATTERMOST: (
        "An incoming webhook of Mattermost.",
        "https URL of the webhook. A server in a private network needs NOTIFY_ALLOW_PRIVATE=1.",
    ),
    ChannelKind.PAGERDUTY: (
        "Alerts in a service of PagerDuty, by its Events API v2.",
        "Accounts in PagerDuty's European region: https://events.eu.pagerduty.com/v2/enqueue",
    ),
    ChannelKind.MAIL: ("Mails to a list of addresses.", "E-mail addresses, separated by commas."),
}
NO_MAIL = "No mail server is configured (EMAIL_URL), so nothing is sent to this channel."
TONES = {DeliveryStatus.WAITING: "run", DeliveryStatus.SENT: "ok", DeliveryStatus.FAILED: "bad"}


class ChannelForm(forms.Form):
    """The form of a channel. Secret fields are never filled in; an empty field keeps the stored value."""

    name = forms.CharField(max_length=100)
    kind = forms.ChoiceField(choices=ChannelKind.choices, widget=forms.HiddenInput)
    address = forms.CharField(max_length=500, required=False)
    integration_key = forms.RegexField(
        r"\A[A-Za-z0-9]{32}\Z",
        required=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "off", "size": 40}),
        error_messages={"invalid": "PagerDuty's integration key has 32 letters and digits."},
        help_text="Of an integration “Events API v2” of the service.",
    )
    events = forms.MultipleChoiceField(
        choices=[(name, words) for name, words in news.EVENTS.items()],
        required=False,
        widget=forms.CheckboxSelectMultiple,
        help_text="Leave empty for all, including future ones.",
    )
    projects = forms.ModelMultipleChoiceField(
        queryset=Project.objects.none(),
        required=False,
        widget=forms.CheckboxSelectMultiple,
        help_text="Leave empty for all projects and for system events (sweeps, workers).",
    )
    enabled = forms.BooleanField(required=False, initial=True)
    new_secret = forms.BooleanField(
        required=False,
        label="Make a new secret",
        help_text="The receiver needs the new secret at once, to check signatures.",
    )

    def __init__(self, *args: Any, channel: NotificationChannel | None, kind: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.channel = channel
        self.channel_kind = channel.kind if channel is not None else kind
        self.fields["projects"].queryset = Project.objects.all()  # type: ignore[attr-defined]
        self.fields["address"].help_text = KINDS[self.channel_kind][1]
        if self.channel_kind != ChannelKind.PAGERDUTY:
            del self.fields["integration_key"]
        if channel is None:
            del self.fields["new_secret"]
            address = channels.PAGERDUTY_URL if self.channel_kind == ChannelKind.PAGERDUTY else ""
            self.initial = {"kind": self.channel_kind, "address": address, **self.initial}
            return
        del self.fields["kind"]  # the kind of a channel cannot be changed
        if self.channel_kind != ChannelKind.WEBHOOK:
            del self.fields["new_secret"]
        if self.channel_kind != ChannelKind.MAIL:
            self.fields["address"].help_text = f"Now {channels.shown_of(channel)}. Empty keeps it."
        if self.channel_kind == ChannelKind.PAGERDUTY:
            self.fields["integration_key"].help_text = "Empty keeps the stored key."
        self.initial = {
            "name": channel.name,
            "address": channel.address if channel.kind == ChannelKind.MAIL else "",
            "events": channel.events,
            "projects": channel.projects.all(),
            "enabled": channel.enabled,
            **self.initial,
        }

    def clean_name(self) -> str:
        name = " ".join(str(self.cleaned_data["name"]).split())
        others = NotificationChannel.objects.filter(name=name)
        if (others.exclude(pk=self.channel.pk) if self.channel else others).exists():
            raise forms.ValidationError("There is a channel with this name.")
        return name

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        address = str(data.get("address") or "").strip()
        data["address"] = address
        keeps = self.channel is not None and self.channel_kind != ChannelKind.MAIL and not address
        if "address" not in self.errors and not keeps:
            problem = channels.problem_of(self.channel_kind, address, allow_private=settings.NOTIFY_ALLOW_PRIVATE)
            if problem:
                self.add_error("address", problem)
        wants_key = "integration_key" in self.fields and "integration_key" not in self.errors
        if wants_key and self.channel is None and not data.get("integration_key"):
            self.add_error("integration_key", "Enter the integration key.")
        return data

    def unseen(self, secret: str) -> dict[str, bool]:
        """What else was changed, for the audit log: a new URL may look like the URL before it."""
        data, changes = self.cleaned_data, self.channel is not None
        unseen = {
            "new_address": changes and self.channel_kind != ChannelKind.MAIL and data["address"],
            "new_signature": secret,
            "new_integration_key": changes and data.get("integration_key"),
        }
        return {name: True for name, is_new in unseen.items() if is_new}

    def save(self) -> tuple[NotificationChannel, str]:
        """Save the channel. Returns the row, and the new secret (its only copy) or an empty text."""
        data, vault = self.cleaned_data, Vault(settings.ENCRYPTION_KEYS)
        channel = self.channel or NotificationChannel(kind=self.channel_kind, created_at=clock.now())
        channel.name, channel.events, channel.enabled = data["name"], data["events"], data["enabled"]
        channel.save()  # a secret is encrypted with the row's id, so the row must exist first
        if data["address"]:
            channels.set_address(channel, data["address"], vault=vault)
        secret = ""
        if channel.kind == ChannelKind.WEBHOOK and (self.channel is None or data["new_secret"]):
            secret = channels.new_secret()
            channels.set_secret(channel, secret, vault=vault)
        if data.get("integration_key"):
            channels.set_secret(channel, data["integration_key"], vault=vault)
        channel.save()
        channel.projects.set(data["projects"])
        return channel, secret


def described(channel: NotificationChannel) -> dict[str, Any]:
    """The values of a channel for the audit log."""
    return {
        "kind": channel.kind,
        "to": channels.shown_of(channel),
        "events": channel.events or "all",
        "projects": [project.ref for project in channel.projects.all()] or "all",
        "enabled": channel.enabled,
    }


@admin.register(NotificationChannel)
class ChannelAdmin(ReadOnly):
    page_template = "registry_admin/notification.html"
    change_list_template = "registry_admin/notification_list.html"
    tools = True
    nothing_yet = "No channels yet. Add one to hear about failed deployments."
    list_display = ("name_cell", "state_cell", "hears", "last_sent")
    list_filter = (menu("Kind", "kind", words=dict(ChannelKind.choices)),)
    search_fields = ("name",)
    search_help_text = "Name"
    sortable_by = ("name_cell", "last_sent")
    #: Those that fail first; expressions, so that no column is marked as sorted.
    ordering = (Case(When(Q(enabled=True) & ~Q(last_error=""), then=0), default=1), Lower("name"))

    def get_queryset(self, request: HttpRequest) -> QuerySet[NotificationChannel]:
        return NotificationChannel.objects.prefetch_related("projects")

    def get_urls(self) -> list[Any]:
        wrap = self.admin_site.admin_view
        return [
            path("<int:pk>/edit/", wrap(self.edit_view), name="deployments_notificationchannel_edit"),
            path("<int:pk>/test/", wrap(self.test_view), name="deployments_notificationchannel_test"),
            path("<int:pk>/preview/", wrap(self.preview_view), name="deployments_notificationchannel_preview"),
            *super().get_urls(),
        ]

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return may(request, "add_notificationchannel")

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        acts = ("change_notificationchannel", "test_notificationchannel")
        return super().has_view_permission(request, obj) or any(may(request, each) for each in acts)

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        kinds = ChannelKind if self.has_add_permission(request) else ()
        return super().changelist_view(request, {"kinds": kinds} | (extra_context or {}))

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Without a kind, the kinds to choose from; with one (`kind`), the form of a channel of this kind."""
        require(request, "add_notificationchannel")
        kind = request.POST.get("kind", request.GET.get("kind", ""))
        if kind in ChannelKind.values:
            return self._form(request, None, kind=kind)
        kinds = [(each, each.label, KINDS[each][0]) for each in ChannelKind]
        context = {
            "title": "New notification channel", "question": "Where do the messages go?",
            "kinds": kinds, "back": reverse(LIST),
        }  # fmt: skip
        return self.render_page(request, "registry_admin/kinds.html", None, context)

    def edit_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """The form to change a channel."""
        require(request, "change_notificationchannel")
        return self._form(request, self.one(request, pk))

    def _form(self, request: HttpRequest, channel: NotificationChannel | None, *, kind: str = "") -> HttpResponse:
        """The form of a channel; of a new one (None) the form of this kind."""
        form = ChannelForm(request.POST or None, channel=channel, kind=kind)
        if request.method == "POST" and form.is_valid():
            before = described(channel) if channel is not None else None
            action = "change.channel" if channel is not None else "add.channel"
            with Trail.of(request).change(action, before=before) as line:
                saved, secret = form.save()
                line.target, line.after = saved, described(saved) | form.unseen(secret)
            may_test = may(request, "test_notificationchannel")
            sends_test = may_test and "test" in request.POST
            if sends_test:
                self._send_test(request, saved)
            if secret:
                context = {
                    "title": f"The secret of {saved}",
                    "text": secret,
                    "may_test": may_test,
                }
                response = self.render_page(request, "registry_admin/notification_made.html", saved, context)
                add_never_cache_headers(response)
                return response
            if not sends_test:
                self.message_user(request, f"{saved} is saved. Send a test message to see that it arrives.")
            return HttpResponseRedirect(reverse(PAGE, args=[saved.pk]))
        title = f"Change {channel}" if channel is not None else f"New channel: {ChannelKind(kind).label}"
        back = reverse(PAGE, args=[channel.pk]) if channel is not None else reverse(LIST)
        return self.render_page(
            request,
            "registry_admin/notification_form.html",
            channel,
            {
                "title": title,
                "form": form,
                "back": back,
                "no_mail": _no_mail(form.channel_kind),
                "may_test": may(request, "test_notificationchannel"),
            },
        )

    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """GET shows what is deleted with the channel, POST deletes. Django's page would list every delivery."""
        require(request, "delete_notificationchannel")
        if not object_id.isdecimal():
            raise PermissionDenied
        channel = self.one(request, int(object_id))
        if request.method == "POST":
            with Trail.of(request).change("delete.channel", channel, before=described(channel)):
                channel.delete()
                channel.pk = int(object_id)  # Django clears pk, and the audit line needs it
            self.message_user(request, f"{channel} is deleted.")
            return HttpResponseRedirect(reverse(LIST))
        context = {"title": f"Delete {channel}?", "deliveries": channel.deliveries.count()}
        return self.render_page(request, "registry_admin/notification_delete.html", channel, context)

    def test_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """POST: send a test message and show the answer."""
        require(request, "test_notificationchannel")
        if request.method != "POST":
            return HttpResponseNotAllowed(("POST",))
        channel = self.one(request, pk)
        self._send_test(request, channel)
        return HttpResponseRedirect(reverse(PAGE, args=[channel.pk]))

    def _send_test(self, request: HttpRequest, channel: NotificationChannel) -> None:
        """Send a test message, and say the receiver's answer in a message of the next page."""
        with Trail.of(request).attempt("test.channel", channel) as attempt:
            attempt.begin()
            row = deliveries.send_test(
                channel=channel,
                delivery_settings=DeliverySettings.of(settings),
                origin=settings.CONFIGURATION.app_origin,
                by=who(request),
            )
            if row.status == DeliveryStatus.SENT:
                with attempt.commit():
                    self.message_user(request, f"The test message was sent. Answer: {row.answer}.")
            else:
                attempt.refuse(row.answer)
                self.message_user(request, f"The test message was not delivered. {row.answer}", messages.ERROR)

    def preview_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """GET: what the channel gets for the newest events of the last day. Nothing is sent."""
        channel = self.one(request, pk)
        origin, by = settings.CONFIGURATION.app_origin, who(request)
        rows = deliveries.examples(channel, origin=origin, by=by)
        context = {
            "title": f"What {channel} gets",
            "examples": [
                (row.subject, row.event, row.event == deliveries.TEST_EVENT, senders.preview(row)) for row in rows
            ],
        }
        return self.render_page(request, "registry_admin/notification_preview.html", channel, context)

    def page(self, request: HttpRequest, row: NotificationChannel) -> dict[str, Any]:
        retried = row.deliveries.filter(status=DeliveryStatus.WAITING, attempts__gt=0)
        return {
            "alarm": _alarm(row, is_retried=bool(row.last_error) and retried.exists()),
            "address": channels.shown_of(row),
            "events": [news.EVENTS.get(event, event) for event in row.events],
            "latest": [(each, state(each)) for each in row.deliveries.defer("body")[:20]],
            "buttons": [
                Button(word=word, address=reverse(f"{KIND}_{name}", args=[row.pk]), style=style)
                for right, name, word, style in (
                    ("change", "edit", "Change", "historylink"),
                    ("delete", "delete", "Delete", "danger"),
                )
                if may(request, f"{right}_notificationchannel")
            ],
            "may_test": may(request, "test_notificationchannel"),
        }

    @admin.display(description="Channel", ordering="name")
    def name_cell(self, row: NotificationChannel) -> str:
        return format_html(
            '<b>{}</b><span class="under">{} · {}</span>', row, row.get_kind_display(), channels.shown_of(row)
        )

    @admin.display(description="State")
    def state_cell(self, row: NotificationChannel) -> str:
        if not row.enabled:
            return mark("idle", "Off")
        return two_lines(mark("bad", "Failing"), row.last_error) if row.last_error else mark("ok", "On")

    @admin.display(description="Events")
    def hears(self, row: NotificationChannel) -> str:
        events = f"{len(row.events)} kinds of events" if row.events else "all events"
        projects = ", ".join(str(project) for project in row.projects.all()) or "of all projects"
        return two_lines(events, projects)

    @admin.display(description="Last sent", ordering="last_sent_at")
    def last_sent(self, row: NotificationChannel) -> str:
        return ago(row.last_sent_at, "never")


def _no_mail(kind: str) -> str:
    """That mails are not sent, if this is a channel for mails and no mail server is configured; else empty."""
    return NO_MAIL if kind == ChannelKind.MAIL and not settings.MAIL_IS_CONFIGURED else ""


def _alarm(channel: NotificationChannel, *, is_retried: bool) -> Alarm | None:
    if not channel.enabled:
        return Alarm(title="This channel is off", words="Only test messages are sent.", tone="idle")
    if no_mail := _no_mail(channel.kind):
        return Alarm(title="No mail is sent", words=no_mail)
    if channel.last_error:
        again = " It is retried after 1, 5 and 30 minutes." if is_retried else " It is not retried automatically."
        return Alarm(title="The last message did not arrive", words=channel.last_error + again)
    return None


def state(row: NotificationDelivery) -> SafeString:
    """The badge with the status of a delivery."""
    return mark(TONES[DeliveryStatus(row.status)], row.get_status_display())


@admin.register(NotificationDelivery)
class DeliveryAdmin(ReadOnly):
    page_template = "registry_admin/notification_delivery.html"
    nothing_yet = "No messages yet. The worker checks for new events each minute."
    list_display = ("subject_cell", "state_cell", "channel_cell", "attempts_cell", "created")
    list_filter = (
        menu("Status", "status", words=dict(DeliveryStatus.choices)),
        menu("Event", "event"),
        menu("Channel", "channel__name"),
    )
    search_fields = ("subject",)
    search_help_text = "Subject"
    sortable_by = ("created",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[NotificationDelivery]:
        return NotificationDelivery.objects.select_related("channel").defer(
            "channel__secret", "channel__encrypted_address"
        )

    def get_urls(self) -> list[Any]:
        again = self.admin_site.admin_view(self.again_view)
        return [path("<int:pk>/again/", again, name="deployments_notificationdelivery_again"), *super().get_urls()]

    def again_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """POST: let the worker send a failed message again."""
        require(request, "test_notificationchannel")
        if request.method != "POST":
            return HttpResponseNotAllowed(("POST",))
        row = self.one(request, pk)
        try:
            with Trail.of(request).change("resend.delivery", row):
                deliveries.send_again(row)
        except Refusal as refused:
            self.message_user(request, refused.sentence, messages.ERROR)
        else:
            self.message_user(request, "The message waits. The worker sends it within a minute.")
        return HttpResponseRedirect(reverse("admin:deployments_notificationdelivery_change", args=[pk]))

    def page(self, request: HttpRequest, row: NotificationDelivery) -> dict[str, Any]:
        return {
            "title": row.subject,
            "state": state(row),
            "waits": row.status == DeliveryStatus.WAITING,
            "may_send_again": row.status == DeliveryStatus.FAILED and may(request, "test_notificationchannel"),
        }

    @admin.display(description="Message")
    def subject_cell(self, row: NotificationDelivery) -> str:
        return two_lines(row.subject, row.event)

    @admin.display(description="Status")
    def state_cell(self, row: NotificationDelivery) -> str:
        return two_lines(state(row), row.answer) if row.answer else state(row)

    @admin.display(description="Channel")
    def channel_cell(self, row: NotificationDelivery) -> str:
        return str(row.channel)

    @admin.display(description="Attempts")
    def attempts_cell(self, row: NotificationDelivery) -> str:
        if row.status != DeliveryStatus.WAITING:
            return str(row.attempts)
        due = row.next_try_at <= timezone.now()
        return two_lines(row.attempts, "due" if due else format_html("next {}", until(row.next_try_at)))

    @admin.display(description="Created", ordering="created_at")
    def created(self, row: NotificationDelivery) -> str:
        return ago(row.created_at)
