"""A stand-in for the CLI: it sends the CLI's requests and returns the answers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from django.test import Client

HASH = "4f2b" * 16
DIGEST = "sha256:" + "ab" * 32
WORKER = {
    "localOnly": True,
    "engine": "V2",
    "buildPlatform": "linux/amd64",
    "targetPlatform": "linux/amd64",
    "metadata": {
        "contentHash": HASH,
        "packageVersion": "4.8.3",
        "cliPackageVersion": "4.8.3",
        "runtime": "node-22",
        "runtimeVersion": "22.11.0",
        "tasks": [{"id": "hello", "filePath": "src/trigger/hello.ts", "exportName": "hello", "machine": {"cpu": 1}}],
        "queues": [{"name": "mail", "concurrencyLimit": 2}],
        "sourceFiles": [{"filePath": "src/trigger/hello.ts", "contents": "eJw=", "contentHash": "1", "taskIds": []}],
        "webhookEndpoints": [],
    },
}


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: Any
    headers: Any

    @property
    def error(self) -> str:
        assert set(self.body) <= {"error", "code"}, self.body
        return str(self.body["error"])


@dataclass(frozen=True, slots=True)
class Cli:
    """Sends the CLI's requests. `key`: the bearer token."""

    client: Client
    key: str

    def get(self, path: str, **headers: str) -> Answer:
        return self.send("GET", path, headers=headers)

    def post(self, path: str, body: object = None, **headers: str) -> Answer:
        return self.send("POST", path, None if body is None else json.dumps(body), headers=headers)

    def send(self, method: str, path: str, body: str | bytes | None = None, *, headers: dict[str, str]) -> Answer:
        sent = {"Authorization": f"Bearer {self.key}"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        response = self.client.generic(method, path, body or "", content_type="application/json", headers=sent)
        content = response.getvalue()
        is_json = response.headers.get("Content-Type", "").startswith("application/json") and content
        return Answer(response.status_code, json.loads(content) if is_json else content.decode(), response.headers)

    def deploy(self, **fields: object) -> Answer:
        return self.post("/api/v1/deployments", {"contentHash": HASH, "type": "MANAGED"} | fields)

    def deploying(self, **fields: object) -> str:
        """Make a deployment and report its tasks. Returns its id; its status is DEPLOYING."""
        deployment_id = str(self.deploy(**fields).body["id"])
        assert self.post(f"/api/v1/deployments/{deployment_id}/background-workers", WORKER).status == 200
        return deployment_id

    def finalize(self, deployment_id: str, **fields: object) -> list[tuple[str, Any]]:
        """Finalize a deployment. Returns the events of the stream, without the pings."""
        answer = self.post(f"/api/v3/deployments/{deployment_id}/finalize", {"imageDigest": DIGEST} | fields)
        assert answer.status == 200, answer.body
        return [found for found in events(answer.body) if found[0] != "ping"]


def events(text: str) -> list[tuple[str, Any]]:
    assert text.endswith("\n\n")
    found = []
    for block in text[:-2].split("\n\n"):
        name, data = block.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found
