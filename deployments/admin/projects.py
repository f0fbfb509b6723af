"""Projects and their environments. A person gives a project's name and ref; the program makes the rest."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.db.models import Case, Prefetch, Q, QuerySet, Value, When
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from deployments import images
from deployments.admin.deployments import latest
from deployments.admin.display import ago, code, mark, two_lines
from deployments.admin.image_states import kept_images
from deployments.admin.pages import Audited, Console, Nouns, audit_of, menu
from deployments.admin.variables import VariablePages
from deployments.deploys.projects import ensure_environments
from deployments.models import AccessKey, Deployment, Environment, EnvironmentType, Project, Promotion


def with_current() -> Prefetch[Any]:
    """Adds `row.current`, the current promotion of an environment (a list of one or none). One query for all rows."""
    promotions = Promotion.objects.filter(label="current").select_related("deployment")
    return Prefetch("promotions", promotions.defer("deployment__error", "deployment__git"), to_attr="current")


class WithRoots(Nouns):
    """The list of projects. Adds `row.roots`: the root environments with their current deployment."""

    def get_queryset(self, *args: Any, **kwargs: Any) -> QuerySet[Any]:
        roots = Environment.objects.filter(parent__isnull=True).prefetch_related(with_current())
        return super().get_queryset(*args, **kwargs).prefetch_related(Prefetch("environments", roots, to_attr="roots"))


class NewProjectForm(forms.ModelForm):  # type: ignore[type-arg]
    """A project's name, and its ref if trigger.config has one already."""

    ref = forms.CharField(
        required=False,
        max_length=64,
        help_text="The project's ref, if trigger.config has one already. Leave empty to make one.",
    )

    class Meta:
        model = Project
        fields = ("name",)

    def clean_ref(self) -> str:
        ref = str(self.cleaned_data["ref"]).strip()
        if ref and not images.is_project_ref(ref):
            raise forms.ValidationError(
                "A ref is proj_ followed by lower case letters and digits, for example proj_billing."
            )
        if ref and Project.objects.filter(ref=ref).exists():
            raise forms.ValidationError("There is a project with this ref.")
        return ref


def with_roots(project: Any) -> QuerySet[Environment]:
    """A project's root environments, each with its current deployment."""
    return (
        Environment.objects.filter(project__pk=project, parent__isnull=True)
        .order_by("pk")
        .prefetch_related(with_current())
    )


@admin.register(Project)
class ProjectAdmin(Audited, Console):
    noun = "project"
    change_form_template = "registry_admin/project.html"
    nothing_yet = "No projects yet. Add one here, or: python manage.py bootstrap --email you@example.com --project NAME"
    list_display = ("name_cell", "production", "staging", "preview", "created")
    search_fields = ("name", "^ref")
    search_help_text = "Name or ref"
    sortable_by = ("name_cell", "created")
    fields = ("name", "ref", "created_at")
    readonly_fields = ("ref", "created_at")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Project]:
        return Project.objects.all()

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return WithRoots

    # Deleting a project would delete its whole history, so the console does not offer it.
    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return self.readonly_fields if obj else ()

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return self.fields if obj else ("name", "ref")

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        if not change:
            # The model's ref cannot be edited, so the form has its own field `ref`, for new projects only.
            kwargs |= {"form": NewProjectForm, "fields": ("name",)}
        return super().get_form(request, obj, change=change, **kwargs)

    def save_model(self, request: HttpRequest, obj: Project, form: Any, change: bool) -> None:
        if not change and form.cleaned_data["ref"]:
            obj.ref = form.cleaned_data["ref"]
        super().save_model(request, obj, form, change)
        ensure_environments(obj)  # like `create_project`; Django's view has opened the transaction

    def described(self, row: Project) -> dict[str, Any]:
        return {"name": row.name, "ref": row.ref}

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        context = {
            "environments": lambda: with_roots(
                object_id
            ),  # a function, so that only a page that is shown makes the query
            "latest": lambda: latest(Deployment.objects.filter(project__pk=object_id)),
        }
        return super().change_view(request, object_id, form_url, {**context, **(extra_context or {})})

    @admin.display(description="Project", ordering="name")
    def name_cell(self, row: Project) -> str:
        return format_html('<b>{}</b><code class="under">{}</code>', row.name, row.ref)

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


def current_cell(environment: Any) -> str:
    """The cell with the current deployment of an environment (from `with_current`) and since when."""
    return next((two_lines(each.deployment.version, ago(each.promoted_at)) for each in environment.current), "–")


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
            "images": kept_images(Q(deployment__environment=row)),
            "keys": keys.get_queryset(request).filter(environment=row)[:20]
            if keys.has_view_permission(request)
            else (),
            "may_make_keys": keys.has_add_permission(request) and row.archived_at is None,
            "ref": code(row.project.ref),
            "audit": audit_of(request, row),
            **self.variables_of(request, row),
        }
