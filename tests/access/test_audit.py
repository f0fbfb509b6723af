"""The audit log: who did what stands there once, without secrets, and nobody can take it back."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.core.management import call_command
from django.db import OperationalError, connection, transaction
from django.http import HttpRequest, StreamingHttpResponse
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext

from deployments.access import audit, keys
from deployments.access.audit import Actor, Trail
from deployments.config import Configuration
from deployments.errors import NotFound, Refusal
from deployments.models import ActorKind, AuditEntry, Project, Sweep
from tests.admin.markup import read

ROOT = Path(__file__).resolve().parent.parent.parent
LIST = "/admin/deployments/auditentry/"


@pytest.fixture
def billing(db: None) -> Project:
    return Project.objects.create(name="Billing")


def request_of(user: User | AnonymousUser) -> HttpRequest:
    request = RequestFactory().post("/", REMOTE_ADDR="10.1.2.3")
    request.META["REQUEST_ID"] = "req-1"
    request.user = user
    return request


def only() -> AuditEntry:
    return AuditEntry.objects.get()


# -------------------------------------------------------------------------------------------------------- the writing


def test_a_line_says_who_did_what_to_what_and_from_where(billing: Project) -> None:
    request = request_of(User.objects.create(username="mira", email="mira@example.com"))

    audit.record(
        actor=Actor.of_request(request),
        action="rename.project",
        target=billing,
        before={"name": "Old"},
        after={"name": "Billing"},
        request=request,
    )

    line = only()
    assert (line.actor_kind, line.actor, line.action) == ("person", "mira@example.com", "rename.project")
    assert (line.object_type, line.object_id, line.object_label) == ("project", str(billing.pk), "Billing")
    assert (line.before, line.after, line.outcome) == ({"name": "Old"}, {"name": "Billing"}, "done")
    assert (line.request_id, line.address) == ("req-1", "10.1.2.3")


def test_a_key_acts_under_its_beginning_and_its_owners_name_also_when_it_comes_wrapped(billing: Project) -> None:
    user = User.objects.create(username="mira", email="mira@example.com")
    key, text = keys.make_user_token(user)

    class Wrapped:
        def __init__(self) -> None:
            self.key = key

    for auth in (key, Wrapped()):
        request = request_of(AnonymousUser())
        request.auth = auth  # type: ignore[attr-defined]
        actor = Actor.of_request(request)
        assert actor == Actor(kind=ActorKind.KEY, name=f"{key.prefix}… (mira@example.com)")
        assert text not in actor.name


@pytest.mark.parametrize(
    ("actor", "kind"),
    [
        (Actor.command("reconcile"), "command"),
        (Actor.schedule("sweep"), "schedule"),
        (Actor.system(), "system"),
    ],
)
def test_commands_schedules_and_the_program_itself_act_under_their_names(actor: Actor, kind: str, db: None) -> None:
    audit.record(actor=actor, action="start.sweep")

    assert (only().actor_kind, only().actor) == (kind, actor.name)


def test_what_was_tried_and_refused_is_kept_with_the_reason(billing: Project) -> None:
    audit.record(actor=Actor.command(), action="promote.deployment", target=billing, outcome="It is FAILED.")

    assert only().outcome == "It is FAILED."


@pytest.mark.django_db(transaction=True)
def test_a_line_of_its_own_outside_of_any_transaction_is_a_mistake_of_ours() -> None:
    with pytest.raises(RuntimeError, match=r"Trail\.change"):
        audit.record(actor=Actor.command(), action="revoke.key")


@pytest.mark.django_db(transaction=True)
def test_what_was_refused_is_undone_and_its_line_has_the_reason() -> None:
    def change() -> None:
        with Trail(actor=Actor.command("keys")).change("add.project", after={"name": "Billing"}):
            Project.objects.create(name="Billing")
            raise Refusal("There are too many.", code="too_many")

    with pytest.raises(Refusal):
        change()

    assert not Project.objects.exists()
    assert (only().action, only().outcome, only().after) == ("add.project", "There are too many.", {"name": "Billing"})


@pytest.mark.django_db(transaction=True)
def test_what_was_not_there_and_what_changed_nothing_leave_no_line() -> None:
    trail = Trail(actor=Actor.command("keys"))
    with pytest.raises(NotFound), trail.change("revoke.key"):
        raise NotFound("There is no such key.")
    with trail.change("stop.sweep") as line:
        line.nothing_changed()

    assert not AuditEntry.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_an_attempt_that_forgets_its_commit_is_a_mistake_of_ours() -> None:
    with (
        pytest.raises(RuntimeError, match="neither committed nor refused"),
        Trail(actor=Actor.command()).attempt("a.b"),
    ):
        pass


def test_a_change_that_is_rolled_back_leaves_no_line(billing: Project) -> None:
    with transaction.atomic():
        billing.delete()
        audit.record(actor=Actor.command(), action="delete.project", target=billing)
        transaction.set_rollback(True)

    assert Project.objects.exists()
    assert not AuditEntry.objects.exists()


def test_lines_outlive_the_person_and_the_object(billing: Project) -> None:
    user = User.objects.create(username="mira")
    audit.record(actor=Actor.of_request(request_of(user)), action="delete.project", target=billing)

    user.delete()
    billing.delete()

    assert (only().actor, only().object_label) == ("mira", "Billing")


def test_an_action_without_a_noun_is_a_mistake_of_ours(db: None) -> None:
    with pytest.raises(ValueError, match=r"verb\.noun"):
        audit.record(actor=Actor.command(), action="promoted")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("password", "hunter2"),
        ("DEPLOY_REGISTRY_PASSWORD", "hunter2"),
        ("client_secret", "hunter2"),
        ("value", "hunter2"),
        ("authorization", "hunter2"),
        ("note", "tr_pat_hunter2hunter2hunter2"),
        ("note", "made tr_prod_hunter2hunter2hunter2 for CI"),
        ("address", "https://hooks.slack.com/services/T000/B000/hunter2"),
        ("url", "postgres://app:hunter2@db/app"),
        ("note", "AKIAIOSFODNN7HUNTER2"),
        ("note", "Authorization: Bearer hunter2hunter2"),
    ],
)
def test_no_secret_is_kept_whatever_the_caller_passes(name: str, value: str, db: None) -> None:
    for after in ({name: value}, {"deep": [{name: value}]}):
        audit.record(actor=Actor.command(), action="change.channel", after=after)
    audit.record(actor=Actor.command(), action="change.channel", outcome=f"{name}: {value}") if "note" in name else None

    for line in AuditEntry.objects.all():
        assert "hunter2" not in json.dumps([line.before, line.after, line.outcome]).lower()


def test_harmless_values_are_kept_as_they_are(db: None) -> None:
    after = {"key_prefix": "tr_pat_abc123…", "enabled": True, "secret_set": False, "count": 3, "accounts": ["1", "2"]}

    audit.record(actor=Actor.command(), action="change.channel", after=after)

    assert only().after == after


@pytest.mark.costly
def test_what_is_large_is_cut_and_what_cannot_be_stored_is_left_out(db: None) -> None:
    audit.record(
        actor=Actor.command("x" * 500),
        action="change.policy",
        after={
            "text": "p" * 10_000,
            "many": list(range(500)),
            "deep": {"a": {"b": {"c": {"d": {"e": 1}}}}},
            "nul": "\0",
        },
        outcome="o" * 900,
    )

    assert len(json.dumps(only().after)) < 2000
    assert len(only().actor) == 200
    assert (only().after or {})["nul"] == ""


def test_only_the_log_itself_writes_lines_and_nothing_changes_one_and_only_the_setting_deletes_old_ones() -> None:
    writers = []
    deletes = "return AuditEntry.objects.filter(pk__in=list(keys)).delete()[0]"  # of `forget`
    for path in sorted((ROOT / "deployments").rglob("*.py")):
        source = path.read_text()
        if "AuditEntry" not in source or path.name in ("models.py", "0001_initial.py"):
            continue
        if path.parts[-2:] == ("access", "audit.py"):
            assert source.count(deletes) == 1
            source = source.replace(deletes, "")
        changes = re.search(r"AuditEntry(\.objects)?[^\n]*\.(update|delete|bulk_\w+|save|get_or_create)\(", source)
        assert not changes, path
        if "AuditEntry.objects.create(" in source or "AuditEntry(" in source.replace("class AuditEntry(", ""):
            writers.append(str(path.relative_to(ROOT / "deployments")))

    assert writers == ["access/audit.py"]
    forgetting = [path for path in (ROOT / "deployments").rglob("*.py") if "audit.forget" in path.read_text()]
    assert [path.name for path in forgetting] == ["retention.py"]


# --------------------------------------------------------------------------------------------------------- the export


@pytest.fixture
def three_lines(billing: Project) -> None:
    audit.record(actor=Actor.command("keys"), action="create.accesskey", target=billing, after={"kind": "user"})
    audit.record(actor=Actor.system(), action="time_out.deployment", outcome="=cmd|' /C calc'!A0")
    audit.record(actor=Actor.schedule("sweep"), action="start.sweep", target=billing)


def test_the_csv_can_be_read_again_and_runs_no_formula(three_lines: None) -> None:
    rows = list(csv.DictReader(io.StringIO("".join(audit.as_csv(AuditEntry.objects.all())))))

    assert [row["action"] for row in rows] == ["start.sweep", "time_out.deployment", "create.accesskey"]
    assert rows[1]["outcome"] == "'=cmd|' /C calc'!A0"
    assert json.loads(rows[2]["after"]) == {"kind": "user"}


def test_json_lines_hold_one_object_each(three_lines: None) -> None:
    rows = [json.loads(line) for line in audit.as_json_lines(AuditEntry.objects.all())]

    assert [row["actor_kind"] for row in rows] == ["schedule", "system", "command"]
    assert rows[2]["after"] == {"kind": "user"}


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_the_export_has_the_rows_that_the_list_shows(ending: str, three_lines: None, superuser: Client) -> None:
    response = superuser.get(f"{LIST}export.{ending}?actor_kind=command")

    assert isinstance(response, StreamingHttpResponse)
    text = response.getvalue().decode()
    assert "create.accesskey" in text
    assert "start.sweep" not in text
    assert f".{ending}" in response["Content-Disposition"]
    assert "no-store" in response["Cache-Control"]


@pytest.mark.costly
def test_the_export_of_a_strange_filter_or_ending_leads_back_to_the_list(three_lines: None, superuser: Client) -> None:
    for address in ("export.csv?at__gte=nonsense&id__exact=x", "export.pdf"):
        response = superuser.get(LIST + address)
        assert (response.status_code, response["Location"]) == (302, LIST)


# ---------------------------------------------------------------------------------------------------------- the pages


@pytest.fixture
def superuser(db: None) -> Client:
    client = Client()
    client.force_login(User.objects.create(username="operator", is_staff=True, is_superuser=True))
    return client


@pytest.mark.costly
def test_the_list_and_the_page_of_a_line_show_it_and_offer_no_change(three_lines: None, superuser: Client) -> None:
    listed = superuser.get(LIST).content.decode()
    line = AuditEntry.objects.get(action="create.accesskey")
    page = superuser.get(f"{LIST}{line.pk}/change/").content.decode()

    assert "create.accesskey" in listed
    assert "export.csv" in listed
    assert "user" in page
    for html in (listed, page):
        assert read(html).inline == []
    assert 'type="submit"' not in page.partition("<main")[2]
    assert superuser.get(f"{LIST}add/").status_code == 403
    assert superuser.post(f"{LIST}{line.pk}/change/", {"actor": "somebody else"}).status_code == 405
    assert superuser.post(f"{LIST}{line.pk}/delete/", {"post": "yes"}).status_code == 403
    superuser.post(LIST, {"action": "delete_selected", "_selected_action": str(line.pk), "post": "yes"})
    line.refresh_from_db()
    assert line.actor == "keys"


@pytest.mark.costly
def test_the_list_is_found_by_actor_action_object_and_time(three_lines: None, superuser: Client) -> None:
    def shown(query: str) -> int:
        return int(superuser.get(f"{LIST}?{query}").context["cl"].result_count)

    assert shown("") == 3
    assert shown("actor_kind=schedule") == 1
    assert shown("action=create.accesskey") == 1
    assert shown("object_type=project") == 2
    assert shown("q=Billing") == 2
    assert shown("q=sweep") == 1
    assert shown("at__gte=2999-01-01+00:00:00%2B00:00") == 0


@pytest.mark.costly
def test_a_hundred_lines_take_no_more_queries_than_three(three_lines: None, superuser: Client) -> None:
    def queries() -> int:
        superuser.get(LIST)
        with CaptureQueriesContext(connection) as captured:
            superuser.get(LIST)
        return len(captured)

    few = queries()
    for number in range(100):
        audit.record(actor=Actor.command(), action=f"change.thing_{'ab'[number % 2]}", after={"n": number})

    assert queries() == few <= 12


@pytest.mark.costly
def test_the_log_is_not_for_everybody(three_lines: None) -> None:
    client = Client()
    client.force_login(User.objects.create(username="viewer", is_staff=True))

    for address in ("", "export.csv", f"{AuditEntry.objects.first().pk}/change/"):  # type: ignore[union-attr]
        assert client.get(LIST + address).status_code == 403


def test_the_history_of_an_object_is_its_own(three_lines: None, billing: Project) -> None:
    other = Project.objects.create(name="Other")

    assert [line.action for line in audit.history(billing)] == ["start.sweep", "create.accesskey"]
    assert not audit.history(other)


# ------------------------------------------------------------------------------------------------------- the commands


def test_bootstrap_is_in_the_log_when_it_made_something_and_without_what_it_made(db: None) -> None:
    out = io.StringIO()
    for _ in range(2):
        call_command(
            "bootstrap", email="mira@example.com", project="Billing", json=True, stdout=out, stderr=io.StringIO()
        )

    line, person = AuditEntry.objects.all()
    assert (person.actor, person.action, person.object_label) == ("bootstrap", "add.user", "mira@example.com")
    assert (line.actor, line.action, line.object_label) == ("bootstrap", "bootstrap.project", "Billing")
    assert (line.after or {})["keys of"] == ["prod", "staging", "preview"]
    made = json.loads(out.getvalue().splitlines()[0])
    assert not [text for text in (made["token"], *made["keys"].values()) if text in json.dumps(line.after)]


def test_a_sweep_that_a_command_starts_is_in_the_log(ecr_configuration: Configuration, transactional_db: None) -> None:
    call_command("reconcile", all=True, dry_run=True, stdout=io.StringIO(), stderr=io.StringIO())

    assert not Sweep.objects.exclude(pk=int(only().object_id)).exists()
    assert only().actor.startswith("reconcile (")
    assert (only().action, (only().after or {})["dry_run"]) == ("start.sweep", True)


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@sum", "\t=1", "\r=1"])
def test_a_cell_that_a_spreadsheet_would_take_for_a_formula_begins_with_an_apostrophe(text: str) -> None:
    assert audit._cell(text) == f"'{text}"
    assert audit._cell(f"x{text}") == f"x{text}"


def test_a_sweep_that_cannot_be_written_down_is_not_started(
    ecr_configuration: Configuration, transactional_db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object, **__: object) -> None:
        raise OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(AuditEntry, "save", die)

    with pytest.raises(OperationalError):
        call_command("reconcile", all=True, stdout=io.StringIO(), stderr=io.StringIO())

    assert not Sweep.objects.exists()
