"""The operations of the API, from the API's own description, and the requests that name somebody's things.

NAMES has a value for every parameter and every field of a body. A new parameter or field that is not in NAMES fails
the suite, because nobody has decided whether it can name another project's things.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from deployments.api import api
from tests.attack.projects import CODE_VERIFIER, Place, Side
from tests.support.ci_tokens import GITHUB
from tests.support.cli import DIGEST, HASH, WORKER

#: Values that name something of a place, by the name of the parameter or field.
_Values = Callable[[Side, Place], list[Any]]
PARAMETERS: dict[str, _Values] = {
    "deployment_id": lambda side, place: place.ids,
    "version": lambda side, place: place.versions,
    "ref": lambda side, place: [place.ref],
    "env": lambda side, place: [place.slug],
    "projectRef": lambda side, place: [place.ref],
    "page[after]": lambda side, place: place.ids[:1],
    "environment": lambda side, place: [place.slug, str(place.environment.pk)],
    "key_id": lambda side, place: place.key_ids,
    "policy_id": lambda side, place: place.policy_ids,
    "version_id": lambda side, place: ["1"],
    "name": lambda side, place: [place.environment.project.name],
    # These name nothing.
    "status": lambda side, place: ["DEPLOYED"],
    "period": lambda side, place: ["7d"],
    "from": lambda side, place: ["2020-01-01T00:00:00Z"],
    "to": lambda side, place: ["2099-01-01T00:00:00Z"],
    "page[size]": lambda side, place: [100],
    "allowRollbacks": lambda side, place: ["true"],
    "format": lambda side, place: ["dockerconfigjson"],
    "archived": lambda side, place: ["false"],
}
BODY: dict[str, Callable[[Side, Place], Any]] = {
    "externalId": lambda side, place: place.external_id,
    "branch": lambda side, place: side.branch,
    "variables": lambda side, place: {"SHARED": "theirs"},
    "parentVariables": lambda side, place: {"SHARED": "theirs"},
    "authorizationCode": lambda side, place: side.login_code,
    "name": lambda side, place: place.environment.project.name,
    "ref": lambda side, place: place.ref,
    "environment": lambda side, place: place.slug,
    # These name nothing.
    "override": lambda side, place: True,
    "force": lambda side, place: True,
    "isSecret": lambda side, place: False,
    "contentHash": lambda side, place: HASH,
    "type": lambda side, place: "MANAGED",
    "runtime": lambda side, place: "node-22",
    "gitMeta": lambda side, place: {"commitMessage": "theirs"},
    "git": lambda side, place: {"commitMessage": "theirs"},
    "triggeredVia": lambda side, place: "theirs",
    "engine": lambda side, place: "V2",
    "buildPlatform": lambda side, place: "linux/amd64",
    "targetPlatform": lambda side, place: "linux/amd64",
    "metadata": lambda side, place: WORKER["metadata"],
    "error": lambda side, place: {"name": "Error", "message": "theirs"},
    "imageDigest": lambda side, place: DIGEST,
    "skipPromotion": lambda side, place: False,
    "reason": lambda side, place: "theirs",
    "codeChallenge": lambda side, place: "A" * 43,
    "codeChallengeMethod": lambda side, place: "S256",
    "callbackPort": lambda side, place: 4000,
    "codeVerifier": lambda side, place: CODE_VERIFIER[::-1] + "x",
    "approvalCode": lambda side, place: "AAAA-AAAA-AAAA",
    "env": lambda side, place: "preview",
    "archived": lambda side, place: True,
    "scopes": lambda side, place: ["read"],
    "expiresAt": lambda side, place: "2027-01-01T00:00:00Z",
    "graceHours": lambda side, place: 1,
    "atOnce": lambda side, place: False,
    "kind": lambda side, place: "github",
    "claims": lambda side, place: GITHUB,
    "issuer": lambda side, place: "https://token.actions.githubusercontent.com",
    "branchClaim": lambda side, place: "head_ref" if place.slug == "preview" else "",
    "enabled": lambda side, place: True,
    "allowPrivate": lambda side, place: False,
    "ca": lambda side, place: "",
    "jwks": lambda side, place: "",
    "projectRef": lambda side, place: place.ref,
    "token": lambda side, place: "canary-no-token",
}
#: The methods whose requests have a body.
BODIES = ("POST", "PUT")
#: Of PARAMETERS: what an address or a query names, with a value of the same form that nothing has.
INVENTED = {
    "deployment_id": "deployment_cmf0000000000000000000000",
    "version": "20250101.99",
    "ref": "proj_invented",
    "projectRef": "proj_invented",
    "page[after]": "deployment_cmf0000000000000000000000",
    "environment": "987654321",
    "key_id": "987654321",
    "policy_id": "987654321",
    "version_id": "987654321",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request. `names`: the values of PARAMETERS that it has, by their name."""

    method: str
    path: str
    body: str
    names: tuple[tuple[str, Any], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operation of the API."""

    method: str
    path: str
    auth: str  # UserToken, AnyKey, EnvironmentKey, ManagementToken; empty: open to everybody
    parameters: tuple[tuple[str, str], ...]  # (name, where: path or query)
    fields: tuple[str, ...]  # of the body

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    def names(self) -> set[str]:
        return {name for name, _ in self.parameters}

    def requests(self, side: Side, place: Place) -> Iterator[Request]:
        """Requests that name each thing of a place: with each combination of yes and no in the body, without and with
        the parameters of the query.
        """
        values = {name: BODY[name](side, place) for name in self.fields}
        switches = [name for name, value in values.items() if isinstance(value, bool)]
        paths = [name for name, where in self.parameters if where == "path"]
        queries = [name for name, where in self.parameters if where == "query"]
        for names in dict.fromkeys([tuple(paths), (*paths, *queries)]):
            for chosen in itertools.product(*(PARAMETERS[name](side, place) for name in names)):
                for switched in itertools.product((False, True), repeat=len(switches)):
                    body = json.dumps(values | dict(zip(switches, switched, strict=True)))
                    yield self._request(dict(zip(names, chosen, strict=True)), body if self.method in BODIES else "")

    def invented(self, request: Request) -> Request | None:
        """The same request for things that do not exist; None if the request names nothing."""
        names = {name: INVENTED.get(name, value) for name, value in request.names}
        body = json.loads(request.body) if request.body else {}
        if "externalId" in body:
            body["externalId"] = f"invented-{body['externalId']}"
            return self._request(names, json.dumps(body))
        return self._request(names, request.body) if names.keys() & INVENTED.keys() else None

    def _request(self, names: dict[str, Any], body: str) -> Request:
        path = self.path
        query = {}
        for name, where in self.parameters:
            if name not in names:
                continue
            if where == "path":
                path = path.replace(f"{{{name}}}", quote(str(names[name]), safe=""))
            else:
                query[name] = names[name]
        path += f"?{urlencode(query)}" if query else ""
        return Request(method=self.method, path=path, body=body, names=tuple(names.items()))


def _operations() -> Iterator[Operation]:
    schema = api.get_openapi_schema()
    for path, methods in schema["paths"].items():
        for method, described in methods.items():
            yield Operation(
                method=method.upper(),
                path=path,
                auth=next(iter(described["security"][0])) if described.get("security") else "",
                parameters=tuple((each["name"], each["in"]) for each in described.get("parameters", ())),
                fields=tuple(_fields(described, schema["components"]["schemas"])),
            )


def _fields(described: dict[str, Any], schemas: dict[str, Any]) -> Iterator[str]:
    """The names of the fields of a body."""
    content = described.get("requestBody", {}).get("content", {})
    waiting = [found["schema"] for found in content.values()]
    while waiting:
        schema = waiting.pop()
        waiting += schema.get("anyOf", []) + schema.get("allOf", [])
        if "$ref" in schema:
            waiting.append(schemas[schema["$ref"].rpartition("/")[2]])
        yield from schema.get("properties", {})


OPERATIONS = {str(each): each for each in _operations()}
