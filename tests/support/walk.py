"""The addresses of a list with each filter, search, order and page, and each GET of the API."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlencode

from django.contrib.auth.models import User
from django.test import Client

from deployments.access import keys
from deployments.models import AccessKey, Deployment, Environment, PolicyVersion, Promotion, TrustPolicy
from tests.attack.operations import OPERATIONS

#: What is searched for in every list: a word that many rows have, one that few have, one that none has.
WORDS = ("trigger", "example", "zzzzzz zzzzz", "10.4")


def variations(address: str, person: User, *, most: int = 8) -> Iterator[str]:
    """The addresses that a list leads to: each choice of each menu, each order, a search, the second and last page.

    Of a menu with more than `most` choices, the most frequent ones and the rarest one. Nothing for a page that is no
    list.
    """
    client = Client()
    client.force_login(person)
    context = client.get(address).context
    changes = context.get("cl") if context is not None else None
    if changes is None:
        return
    queries: list[str] = []
    for _, choices in changes.menus:
        ranked = sorted(choices[1:], key=lambda each: -each.get("count", 0))
        queries += [each["query_string"] for each in ranked[:most] + ranked[most:][-1:]]
    for number, name in enumerate(changes.list_display):
        if name in changes.sortable_by:
            queries += [f"?o={number}", f"?o=-{number}"]
    if changes.search_fields:
        queries += ["?" + urlencode({"q": word}) for word in (*WORDS, *_known(address))]
        queries += [f"{each}&q=example" for each in queries if each.startswith("?") and "q=" not in each][:12]
    queries += ["?p=2", f"?p={changes.paginator.num_pages}"]
    yield from (address + each for each in dict.fromkeys(queries) if each != "?")


def _known(address: str) -> list[str]:
    if not address.endswith("/deployment/"):
        return []
    row = Deployment.objects.filter(status="DEPLOYED").order_by("created_at")[100]
    return [str(row.version), row.version_day, row.short_code, row.image_digest, row.image_digest[:20], row.pk,
            row.git["commitSha"], row.git["commitSha"][:10], row.git["commitMessage"]]  # fmt: skip


def api_addresses() -> Iterator[tuple[str, dict[str, str]]]:
    """(address, headers) of each GET of the API, in the environment with the most deployments: without the parameters
    of the query, and with each one."""
    promotion = Promotion.objects.filter(environment__slug="prod").order_by("pk")[0]
    environment: Environment = promotion.environment
    user = User.objects.filter(is_superuser=True)[0]
    tokens = {
        "UserToken": keys.make_user_token(user, "walk")[1],
        "ManagementToken": keys.make_user_token(user, "walk, management", for_management=True)[1],
        "EnvironmentKey": keys.make_environment_key(environment, "walk")[1],
        "AnyKey": keys.make_environment_key(environment, "walk, too")[1],
    }
    rows = Deployment.objects.filter(environment=environment).order_by("-created_at", "-id")
    policy = TrustPolicy.objects.filter(environment__project=environment.project).first()
    version = PolicyVersion.objects.first()
    key = AccessKey.objects.filter(environment=environment).order_by("pk")[0]
    values: dict[str, Any] = {
        "ref": environment.project.ref,
        "projectRef": environment.project.ref,
        "env": environment.slug,
        "environment": environment.slug,
        "deployment_id": promotion.deployment_id,
        "key_id": key.pk,
        "policy_id": policy.pk if policy else 0,
        "version_id": version.pk if version else 0,
        "page[after]": list(rows.values_list("pk", flat=True)[:50])[-1],
        "page[size]": 100,
        "status": "FAILED,CANCELED",
        "period": "7d",
        "from": "2020-01-01T00:00:00Z",
        "to": "2099-01-01T00:00:00Z",
        "name": environment.project.name,
        "archived": "false",
    }
    for operation in OPERATIONS.values():
        if operation.method != "GET":
            continue
        path = operation.path
        for name, where in operation.parameters:
            if where == "path":
                path = path.replace(f"{{{name}}}", quote(str(values[name]), safe=""))
        if operation.path == "/api/v1/manage/projects/{ref}/trust-policies/{policy_id}" and policy is None:
            continue
        if "{version_id}" in operation.path and version is None:
            continue
        headers = {"authorization": f"Bearer {tokens[operation.auth]}"} if operation.auth else {}
        yield path, headers
        for name, where in operation.parameters:
            if where == "query":
                after = values[name]
                if name == "page[after]" and "manage" in path:
                    after = 10
                yield f"{path}?{urlencode({name: after})}", headers
