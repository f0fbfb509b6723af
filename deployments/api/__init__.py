"""The web API that the `trigger.dev` CLI uses. The only importer of ninja.

This file is the wiring. Routes call use cases and contain no rules. `schemas` has the requests and answers, `auth` the
access keys, `errors` the error answers, `middleware` what is common to all answers.
"""

import functools
from typing import Any

from ninja import NinjaAPI
from ninja.openapi.schema import OpenAPISchema

from deployments.api import deployments, errors, login, management, policy_versions, projects, schemas
from deployments.api.bodies import StrictParser
from registry_admin import VERSION


class Api(NinjaAPI):
    """Its description is made once in a process: that takes 0.1 s of CPU, and anybody may ask for it.

    Every error has the body `Error`. The routes do not name it, because ninja would make 600 classes of it, one for
    each status of each route: 0.2 s of CPU and 7 MB at each start of a process.
    """

    @functools.cached_property
    def _description(self) -> OpenAPISchema:
        made = super().get_openapi_schema()
        body = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
        made["components"]["schemas"]["Error"] = schemas.Error.model_json_schema()
        for methods in made["paths"].values():
            for operation in methods.values():
                for status, answer in operation["responses"].items():
                    if status >= 400:
                        answer["content"] = body
        return made

    def get_openapi_schema(self, **_: Any) -> OpenAPISchema:
        """The description, which no caller may change. The API has one address, so the options have no effect."""
        return self._description


api = Api(
    title="Registry Admin",
    version=VERSION,  # of the program; the paths have the version of the API
    description=(
        'The server side of `trigger.dev deploy`. Every error is `{"error": sentence}`; if it is not retryable, it '
        "has the header `x-should-retry: false`. Retry after a 503, and after a 429 when the seconds in its "
        "`Retry-After` are over. Every answer has `X-Request-ID`. Unknown fields of a request are ignored; empty "
        "fields of an answer are left out."
    ),
    docs_url=None,  # deployments.views.api_docs is the page
    parser=StrictParser(),
    urls_namespace="api",
)
errors.register(api)
api.add_router("", projects.router)
api.add_router("", deployments.router)
api.add_router("", login.router)
api.add_router("/v1/manage", management.router)
api.add_router("/v1/manage", policy_versions.router)
