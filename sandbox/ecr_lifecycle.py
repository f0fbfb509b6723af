"""The operations of ECR's control plane on lifecycle policies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sandbox import documents
from sandbox.aws import AWSError, Call
from sandbox.store import Repository, Store


class Lifecycle:
    """``repository`` finds the repository of a call and checks the caller's permission."""

    def __init__(self, store: Store, repository: Callable[[Call], Repository]) -> None:
        self._store, self._repository = store, repository

    def do_put_lifecycle_policy(self, call: Call) -> dict[str, Any]:
        repository = self._repository(call)
        repository.lifecycle = documents.lifecycle_policy(str(call.params["lifecyclePolicyText"]))
        repository.lifecycle_at = self._store.now()
        return {**repository.named, "lifecyclePolicyText": repository.lifecycle}

    def do_get_lifecycle_policy(self, call: Call) -> dict[str, Any]:
        repository = self._repository(call)
        return {**_lifecycle(repository), "lastEvaluatedAt": repository.lifecycle_at}

    def do_delete_lifecycle_policy(self, call: Call) -> dict[str, Any]:
        repository = self._repository(call)
        answer = {**_lifecycle(repository), "lastEvaluatedAt": repository.lifecycle_at}
        repository.lifecycle = None
        return answer


def _lifecycle(repository: Repository) -> dict[str, Any]:
    if repository.lifecycle is None:
        raise AWSError("LifecyclePolicyNotFoundException", f"Lifecycle policy does not exist {repository.where}")
    return {**repository.named, "lifecyclePolicyText": repository.lifecycle}
