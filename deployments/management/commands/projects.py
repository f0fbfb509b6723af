"""`manage.py projects`: list, archive, restore and delete projects, for a host without a browser.

Archive and delete say first what will happen, and ask; `--yes` and `--name` answer in a script. Each change is in the
audit log, with the name of the shell's user.

Exit status: 0 done, 1 refused or not confirmed, 2 the project does not exist.
"""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from deployments.access.audit import Trail
from deployments.checks import WITHOUT_PAGES
from deployments.deploys import projects
from deployments.errors import Refusal
from deployments.models import Project


class Command(BaseCommand):
    requires_system_checks = WITHOUT_PAGES
    help = "List, archive, restore and delete projects. An archived project takes no deploys; its keys still read."

    def add_arguments(self, parser: ArgumentParser) -> None:
        commands = parser.add_subparsers(dest="what", required=True)
        shown = commands.add_parser("list", help="list the projects; with --all also archived projects")
        shown.add_argument("--all", action="store_true")
        archive = commands.add_parser("archive", help="refuse new deploys and log-ins; can be taken back with restore")
        archive.add_argument("--yes", action="store_true", help="do not ask")
        restore = commands.add_parser("restore", help="let an archived project take deploys again")
        delete = commands.add_parser("delete", help="delete an archived project; cannot be taken back")
        delete.add_argument("--name", help="the name of the project, instead of the question")
        for command in (archive, restore, delete):
            command.add_argument("ref", metavar="REF", help="the ref of the project, proj_…")

    def handle(self, *args: Any, **options: Any) -> None:
        trail = Trail.of_command("projects")
        if options["what"] == "list":
            self._list(all_of_them=options["all"])
            return
        project = Project.objects.filter(ref=options["ref"]).first()
        if project is None:
            raise CommandError(f"There is no project {options['ref']}.", returncode=2)
        try:
            getattr(self, f"_{options['what']}")(project, options, trail)
        except Refusal as refused:
            raise CommandError(str(refused)) from None

    def _list(self, *, all_of_them: bool) -> None:
        for row in Project.objects.all():
            if all_of_them or row.archived_at is None:
                state = f"  ARCHIVED {row.archived_at:%Y-%m-%d}" if row.archived_at else ""
                self.stdout.write(f"{row.ref:<30} {row.name}{state}")

    def _archive(self, project: Project, options: dict[str, Any], trail: Trail) -> None:
        self._say(projects.holdings(project).if_archived())
        if not options["yes"] and self._answer("Archive it? Type yes: ") != "yes":
            raise CommandError("Nothing was changed.")
        done = projects.archive(project=project, trail=trail)
        self.stdout.write(f"{project} is archived." if done else f"{project} was archived already.")

    def _restore(self, project: Project, options: dict[str, Any], trail: Trail) -> None:
        done = projects.restore(project=project, trail=trail)
        self.stdout.write(f"{project} takes deploys again." if done else f"{project} is not archived.")

    def _delete(self, project: Project, options: dict[str, Any], trail: Trail) -> None:
        self._say(projects.holdings(project).if_deleted())
        name = options["name"]
        if name is None:
            name = self._answer(f"Type the name of the project, {project}: ")
        projects.delete(project=project, typed=name, trail=trail)
        self.stdout.write(f"{project} is deleted.")

    def _say(self, sentences: list[str]) -> None:
        for sentence in sentences:
            self.stderr.write(f"- {sentence}")

    def _answer(self, question: str) -> str:
        try:
            return input(question).strip()
        except EOFError:
            return ""
