"""Projects and their environments. A person gives a project's name and ref; the program makes the rest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.views.main import ChangeList
from django.db import IntegrityError
from django.db.models import Case, Prefetch, Q, QuerySet, Value, When
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from deployments import images
from deployments.access.audit import Trail
from deployments.admin.dashboard import commit_message
from deployments.admin.deployments import latest
from deployments.admin.display import ago, code, live_headline, mark, two_lines
from deployments.admin.image_states import kept_images
from deployments.admin.pages import Alarm, Button, Nouns, ReadOnly, Several, audit_of, may, menu, require
from deployments.admin.project_page import project_page, rollback_targets
from deployments.admin.variables import VariablePages
from deployments.deploys import projects
from deployments.errors import Refusal
from deployments.models import AccessKey, Deployment, Environment, EnvironmentType, Project, Promotion


def with_current() -> Prefetch[Any]:
    """Adds `row.current`, the current promotion of an environment (a list of one or none). One query for all rows."""
    promotions = Promotion.objects.filter(label="current").annotate(message=commit_message())
    return Prefetch(
        "promotions",
        promotions.select_related("deployment").defer("deployment__error", "deployment__git"),
        to_attr="current",
    )


class WithRoots(Nouns):
    """The list of projects. Adds `row.roots`: the root environments with their current deployment."""

    def get_queryset(self, *args: Any, **kwargs: Any) -> QuerySet[Any]:
        roots = Environment.objects.filter(parent__isnull=True).prefetch_related(with_current())
        return super().get_queryset(*args, **kwargs).prefetch_related(Prefetch("environments", roots, to_attr="roots"))


class NameForm(forms.Form):
    """The name of a project."""

    name = forms.CharField(max_length=200)


class TypedNameForm(forms.Form):
    """The name of the project, typed once more."""

    name = forms.CharField(max_length=200, label="Name of the project", help_text="Type it to delete the project.")


class NewProjectForm(NameForm):
    """A project's name, and its ref if trigger.config has one already."""

    ref = forms.CharField(
        required=False,
        max_length=64,
        help_text="The project's ref, if trigger.config has one already. Leave empty to make one.",
    )

    def clean_ref(self) -> str:
        ref = str(self.cleaned_data["ref"]).strip()
        if ref and not images.is_project_ref(ref):
            raise forms.ValidationError(
                "A ref is proj_ followed by lower case letters and digits, for example proj_billing."
            )
        if ref and Project.objects.filter(ref=ref).exists():
            raise forms.ValidationError(REF_TAKEN)
        return ref


REF_TAKEN = "There is a project with this ref."


ARCHIVED = "This project is archived"
KEEPS = "It takes no deploys and no promotions, and its keys only read. Current versions stay current."


class ArchiveMenu(Several):
    """Archived projects are hidden unless they are asked for."""

    title = "State"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("archived", "Archived"), ("all", "All")]

    def where(self, value: str) -> Q:
        return Q() if value == "all" else Q(archived_at__isnull=False)

    def queryset(self, request: HttpRequest, queryset: QuerySet[Project]) -> QuerySet[Project]:
        if not self.chosen:
            return queryset.filter(archived_at__isnull=True)
        if "all" in self.chosen:  # `Q() | condition` is the condition
            return queryset
        return super().queryset(request, queryset)

    def everything(self, changelist: ChangeList) -> dict[str, Any]:
        return {**super().everything(changelist), "display": "Active"}


@admin.register(Project)
class ProjectAdmin(ReadOnly):
    page_template = "registry_admin/project.html"
    nothing_yet = (
        f"No projects yet. Add one here, or: {settings.COMMAND} bootstrap --email you@example.com --project NAME"
    )
    list_display = ("name_cell", "production", "staging", "preview", "created")
    list_filter = (ArchiveMenu,)
    search_fields = ("name", "^ref")
    search_help_text = "Name or ref"
    sortable_by = ("name_cell", "created")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Project]:
        return Project.objects.all()

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return WithRoots

    def get_urls(self) -> list[Any]:
        wrap = self.admin_site.admin_view
        return [
            path("<int:pk>/name/", wrap(self.name_view), name="deployments_project_name"),
            path("<int:pk>/archive/", wrap(self.archive_view), name="deployments_project_archive"),
            path("<int:pk>/restore/", wrap(self.restore_view), name="deployments_project_restore"),
            path("<int:pk>/delete/", wrap(self.end_view), name="deployments_project_delete"),
            *super().get_urls(),
        ]

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return may(request, "add_project")

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_view_permission(request, obj) or may(request, "change_project")

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """GET asks for a name, POST makes the project with its environments."""
        require(request, "add_project")
        form = NewProjectForm(request.POST or None)
        if request.method == "POST" and form.is_valid():
            try:
                project = projects.add(
                    name=form.cleaned_data["name"], ref=form.cleaned_data["ref"] or None, trail=Trail.of(request)
                )
            except IntegrityError:  # another request has made a project with this ref meanwhile
                form.add_error("ref", REF_TAKEN)
            else:
                self.message_user(request, f"The project {project} is made.", messages.SUCCESS)
                return HttpResponseRedirect(page_of(project))
        back = reverse("admin:deployments_project_changelist")
        return self._form(request, None, form=form, title="New project", word="Make the project", back=back)

    def name_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """GET asks for another name, POST changes the name. The ref never changes."""
        require(request, "change_project")
        project: Project = self.one(request, pk)
        form = NameForm(request.POST or None, initial={"name": project.name})
        if request.method == "POST" and form.is_valid():
            name = form.cleaned_data["name"]
            projects.rename(project=project, name=name, trail=Trail.of(request))
            self.message_user(request, f"The project is called {name}.", messages.SUCCESS)
            return HttpResponseRedirect(page_of(project))
        return self._form(request, project, form=form, title=f"Rename {project}", word="Rename", back=page_of(project))

    def archive_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """GET says what happens, POST archives the project."""
        require(request, "archive_project")
        project: Project = self.one(request, pk)
        if request.method == "POST":
            done = projects.archive(project=project, trail=Trail.of(request))
            words = f"{project} is archived." if done else f"{project} was archived already."
            self.message_user(request, words, messages.SUCCESS if done else messages.INFO)
            return HttpResponseRedirect(page_of(project))
        sentences = projects.holdings(project).if_archived()
        return self._end(request, project, title=f"Archive {project}?", word="Archive", sentences=sentences)

    def restore_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """GET says what happens, POST restores the project."""
        require(request, "archive_project")
        project: Project = self.one(request, pk)
        if request.method == "POST":
            done = projects.restore(project=project, trail=Trail.of(request))
            words = f"{project} takes deploys again." if done else f"{project} is not archived."
            self.message_user(request, words, messages.SUCCESS if done else messages.INFO)
            return HttpResponseRedirect(page_of(project))
        sentences = ["Deploys, promotions and log-ins to the registry work again, with the same keys."]
        return self._end(request, project, title=f"Restore {project}?", word="Restore", sentences=sentences)

    def end_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """GET says what happens and asks for the name, POST deletes an archived project."""
        require(request, "delete_project")
        project: Project = self.one(request, pk)
        form = TypedNameForm(request.POST or None)
        if request.method == "POST" and form.is_valid():
            try:
                projects.delete(project=project, typed=form.cleaned_data["name"], trail=Trail.of(request))
            except Refusal as refused:
                form.add_error("name", refused.sentence)
            else:
                self.message_user(request, f"{project} is deleted.", messages.SUCCESS)
                return HttpResponseRedirect(reverse("admin:deployments_project_changelist"))
        sentences = projects.holdings(project).if_deleted()
        return self._end(
            request, project, title=f"Delete {project}?", word="Delete", sentences=sentences, form=form, style="danger"
        )

    def _end(self, request: HttpRequest, project: Project, **context: Any) -> HttpResponse:
        context |= {"back": page_of(project)}
        return self.render_page(request, "registry_admin/project_end.html", project, context)

    def _form(self, request: HttpRequest, project: Project | None, **context: Any) -> HttpResponse:
        return self.render_page(request, "registry_admin/project_form.html", project, context)

    def page(self, request: HttpRequest, row: Project) -> dict[str, Any]:
        archived = row.archived_at is not None
        return {
            **project_page(self.admin_site, request, row),
            "alarm": Alarm(title=ARCHIVED, words=KEEPS, tone="idle") if archived else None,
            "buttons": list(_buttons(request, row)),
        }

    @admin.display(description="Project", ordering="name")
    def name_cell(self, row: Project) -> str:
        archived = SafeString(' <span class="tag">archived</span>') if row.archived_at else ""
        return format_html('<b>{}</b>{}<code class="under">{}</code>', row.name, archived, row.ref)

    @admin.display(description="Production")
    def production(self, row: Project) -> str:
        return self._current(row, "prod")

    @admin.display(description="Staging")
    def staging(self, row: Project) -> str:
        return self._current(row, "staging")

    @admin.display(description="Preview")
    def preview(self, row: Project) -> str:
        return self._current(row, "preview")

    @admin.display(description="Created", ordering="created_at")
    def created(self, row: Project) -> str:
        return ago(row.created_at)

    def _current(self, row: Any, slug: str) -> str:
        return next((current_cell(environment) for environment in row.roots if environment.slug == slug), "–")


def _buttons(request: HttpRequest, project: Project) -> Iterator[Button]:
    def button(word: str, name: str, style: str = "historylink") -> Button:
        return Button(word=word, address=reverse(f"admin:deployments_project_{name}", args=[project.pk]), style=style)

    if may(request, "change_project"):
        yield button("Rename…", "name")
    is_archived = project.archived_at is not None
    if may(request, "archive_project"):
        yield button("Restore…", "restore", "button") if is_archived else button("Archive…", "archive")
    if is_archived and may(request, "delete_project"):
        yield button("Delete…", "delete", "button danger")


def page_of(project: Project) -> str:
    """The address of a project's page."""
    return reverse("admin:deployments_project_change", args=[project.pk])


def current_cell(environment: Any) -> str:
    """The cell with the current deployment of an environment (from `with_current`): headline, version, since when."""
    for each in environment.current:
        return two_lines(live_headline(each), format_html("{} · {}", each.deployment.version, ago(each.promoted_at)))
    return "–"


@admin.register(Environment)
class EnvironmentAdmin(VariablePages):
    page_template = "registry_admin/environment.html"
    nothing_yet = "No environments yet. Every project starts with prod, staging and preview: add a project."
    list_display = ("name_cell", "kind", "current", "created", "state_cell")
    list_select_related = ("project", "parent")
    list_filter = (
        menu("Type", "type", words=dict(EnvironmentType.choices)),
        menu("Project", "project__ref", label="project__name"),
        menu("State", "state", words={"active": "Active", "archived": "Archived"}),
    )
    search_fields = ("project__name", "branch", "^slug")
    search_help_text = "Project or branch"
    sortable_by = ("name_cell", "created")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Environment]:
        state = Case(When(archived_at__isnull=True, then=Value("active")), default=Value("archived"))
        rows = Environment.objects.select_related("project", "parent").annotate(state=state)
        return rows.prefetch_related(with_current())

    @admin.display(description="Environment", ordering="project__name")
    def name_cell(self, row: Environment) -> str:
        return two_lines(format_html("<b>{}</b>", row), row.project)

    @admin.display(description="Type")
    def kind(self, row: Environment) -> str:
        return row.get_type_display() + (" branch" if row.parent_id else "")

    @admin.display(description="Current")
    def current(self, row: Environment) -> str:
        return current_cell(row)

    @admin.display(description="Created", ordering="created_at")
    def created(self, row: Environment) -> str:
        return ago(row.created_at)

    @admin.display(description="State")
    def state_cell(self, row: Environment) -> SafeString:
        return mark("idle", "Archived") if row.archived_at else mark("ok", "Active")

    def page(self, request: HttpRequest, row: Environment) -> dict[str, Any]:
        keys = self.admin_site.get_model_admin(AccessKey)
        return {
            "title": f"{row.project} / {row}",
            "latest": latest(Deployment.objects.filter(environment=row)),
            "rollback_targets": rollback_targets(request, row),
            "images": kept_images(Q(deployment__environment=row)),
            "keys": keys.get_queryset(request).filter(environment=row)[:20]
            if keys.has_view_permission(request)
            else (),
            "may_make_keys": keys.has_add_permission(request) and not (row.archived_at or row.project.archived_at),
            "ref": code(row.project.ref),
            "audit": audit_of(request, row),
            **self.variables_of(request, row),
        }
