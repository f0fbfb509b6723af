"""Whatever is sent to an address of the API, its answer is one that the API's own description has, and never a 500.

schemathesis makes requests from `/api/openapi.json`, right ones and wrong ones; here they meet rows that exist and keys
that work. Random, but bounded to some seconds; a failure prints the request that caused it.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import schemathesis
from django.contrib.auth.models import User
from django.core.wsgi import get_wsgi_application
from django.test import Client
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from deployments.access import keys
from deployments.api import api, branches, limits
from deployments.models import Environment, Project
from tests.support.ci_tokens import pasted_policy
from tests.support.cli import Cli

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]  # some twenty seconds of random requests

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]
#: To each address, of those that fit its description, and of those that do not. API_PROPERTIES=500 looks harder.
REQUESTS = int(os.environ.get("API_PROPERTIES", "8"))


def operations() -> list[str]:
    paths = api.get_openapi_schema()["paths"]
    return [f"{method.upper()} {path}" for path, methods in paths.items() for method in methods]


@pytest.fixture
def known(cli: Cli, project: Project, production: Environment) -> dict[str, list[str]]:
    """What there is, by the name that it has in an address."""
    ids = [cli.deploy().body["id"], cli.deploying(externalId="one"), cli.deploying(externalId="two"), cli.deploying()]
    cli.finalize(ids[1])
    cli.finalize(ids[2], skipPromotion=True)
    cli.post(f"/api/v1/deployments/{ids[3]}/cancel", {"reason": "a test"})
    versions = [item["version"] for item in cli.get("/api/v1/deployments").body["data"]]
    cli.post(f"/api/v1/projects/{project.ref}/envvars/prod/import", {"variables": {"A": "1"}})
    key_ids = [str(keys.make_environment_key(production, name)[0].pk) for name in ("a", "b")]
    branch = str(branches.upsert(project.environments.get(slug="preview"), "feature", {})[0].pk)
    environments = {"env": ["prod", "staging", "dev"], "environment": ["prod", "preview", branch]}
    policies = [str(pasted_policy(production, name=name).pk) for name in ("a", "b")]
    made = {"key_id": key_ids, "policy_id": policies, "version_id": ["1"], **environments}
    return {"deployment_id": ids, "version": versions, "ref": [project.ref], **made}


@pytest.mark.parametrize("operation", operations())
def test_every_answer_is_one_that_is_documented(
    operation: str, client: Client, operator: User, known: dict[str, list[str]], cli: Cli
) -> None:
    method, path = operation.split()
    described = schemathesis.openapi.from_wsgi("/api/openapi.json", get_wsgi_application())[path][method]
    raw = described.definition.raw
    takes = {name for scheme in raw.get("security", []) for name in scheme}
    bearer = keys.make_user_token(operator)[1] if takes & {"UserToken", "AnyKey"} else cli.key
    if "ManagementToken" in takes:
        bearer = keys.make_user_token(operator, for_management=True)[1]

    def holds(case: Any, data: st.DataObject) -> None:
        limits.failed_logins.clear()
        for name, values in known.items():
            if name in (case.path_parameters or {}) and data.draw(st.integers(0, 3)):
                case.path_parameters[name] = data.draw(st.sampled_from(values))
        response = case.call(headers={"Authorization": f"Bearer {bearer}"})
        case.validate_response(response, checks=CHECKS)

    modes = [schemathesis.GenerationMode.POSITIVE]
    if raw.get("parameters") or raw.get("requestBody"):  # else nothing about it can be wrong
        modes.append(schemathesis.GenerationMode.NEGATIVE)
    for mode in modes:
        run = settings(
            max_examples=REQUESTS,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )(given(case=described.as_strategy(generation_mode=mode), data=st.data())(holds))
        run()
