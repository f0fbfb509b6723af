"""The web API: what the `trigger.dev` CLI speaks, and the only importer of ninja.

Wiring only. Routes hand over to use cases and know no rules of their own; what they take and give stands in
`schemas`, who may ask in `auth`, what an error looks like in `errors`, what holds for every answer in `middleware`.
"""

from ninja import NinjaAPI

from deployments.api import deployments, errors, login, projects
from deployments.api.bodies import StrictParser

api = NinjaAPI(
    title="Registry Admin",
    version="1",
    description=(
        'The server side of `trigger.dev deploy`. Every error is `{"error": sentence}`; a definitive one carries the '
        "header `x-should-retry: false`. Trying again helps with a 503, and with a 429 after the seconds in its "
        "`Retry-After`. Every answer carries `X-Request-ID`. Fields that are not known are ignored; those that are "
        "empty are left out."
    ),
    docs_url=None,  # ours is deployments.views.api_docs
    parser=StrictParser(),
    urls_namespace="api",
)
errors.register(api)
api.add_router("", projects.router)
api.add_router("", deployments.router)
api.add_router("", login.router)
