"""What a run creates or changes, written to a file before each call, and how it is deleted or put back.

A journal has one JSON object a line: first the run, then `will` before each creation and `gone` after each deletion. A
line is on the disk before the call is made, so a run that was killed can be cleaned from its journal. A deletion looks
first: it deletes nothing that does not have the mark of the run (docstrings of the functions), and puts back nothing
that somebody else has changed since.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

Clients = Callable[[str], Any]  # the name of a service → its client
Entry = Mapping[str, str]

DELETED, ABSENT = "deleted", "was not there"
#: The tag of a repository that says which run made it.
MARK = "registry-admin-conformance"


class Busy(Exception):
    """Another process has this journal open: its run is going on."""


class Journal:
    """A journal that this process has open, and no other process. `run`: its first line."""

    def __init__(self, path: Path, run: Mapping[str, str] | None = None) -> None:
        """Open a journal; with `run` make it. Raises Busy, FileExistsError, and ValueError for another file."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = path
        self._file = path.open("x+" if run is not None else "r+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise Busy("Another run is going on") from None
        if run is not None:
            self._write({"run": dict(run)})
            folder = os.open(path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
        self._file.seek(0)
        whole = self._file.read().rpartition("\n")[0]  # the call of an unfinished last line was never made
        self._file.truncate(len(whole.encode()) + 1 if whole else 0)
        entries = list(self._entries())
        if not entries or not {"prefix", "account", "region"} <= entries[0].get("run", {}).keys():
            self._file.close()
            raise ValueError("This is not a journal of a conformance run")
        self.run: dict[str, str] = entries[0]["run"]

    def _write(self, entry: Mapping[str, object]) -> None:
        self._file.seek(0, os.SEEK_END)
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _entries(self) -> Iterator[dict[str, Any]]:
        self._file.seek(0)
        yield from [json.loads(line) for line in self._file]

    def will(self, kind: str, name: str, **detail: str) -> None:
        """To be called before the call that creates or changes this."""
        self._write({"will": {"kind": kind, "name": name, **detail}})

    def left(self) -> list[dict[str, str]]:
        """What may be there still, newest first."""
        found: dict[tuple[str, str], dict[str, str]] = {}
        for entry in self._entries():
            if "will" in entry:
                found[entry["will"]["kind"], entry["will"]["name"]] = entry["will"]
            elif "gone" in entry:
                found.pop((entry["gone"]["kind"], entry["gone"]["name"]), None)
        return list(found.values())[::-1]

    def undo(self, clients: Clients) -> list[str]:
        """Delete or put back what is left. Returns a sentence for each thing that is left after it."""
        problems = []
        for entry in self.left():
            try:
                done = KINDS[entry["kind"]](clients, entry, self.run)
            except Exception as error:  # the other things have to go too
                problems.append(f"{entry['kind']} {entry['name']}: {type(error).__name__}: {error}")
                continue
            if done in (DELETED, ABSENT):
                self._write({"gone": {"kind": entry["kind"], "name": entry["name"]}})
            else:
                problems.append(f"{entry['kind']} {entry['name']}: {done}")
        return problems

    def close(self) -> None:
        """Let other processes open the journal; remove its file if nothing is left."""
        if not self.left():
            self.path.unlink(missing_ok=True)
        self._file.close()


# ------------------------------------------------------------------------------------------- how each kind is deleted


def code_of(error: ClientError) -> str:
    """AWS's error code."""
    return str(error.response.get("Error", {}).get("Code", ""))


def _or_absent(codes: tuple[str, ...], call: Callable[[], Any]) -> Any:
    """The answer of the call; None if AWS says with one of these codes that there is nothing."""
    try:
        return call()
    except ClientError as error:
        if code_of(error) in codes:
            return None
        raise


def _repository(clients: Clients, entry: Entry, run: Mapping[str, str]) -> str:
    """Delete a repository with its images, if its AWS tag says that this run made it."""
    ecr, name = clients("ecr"), entry["name"]
    missing = ("RepositoryNotFoundException",)
    tags = _or_absent(missing, lambda: ecr.list_tags_for_resource(resourceArn=entry["arn"]))
    if tags is None:
        return ABSENT
    if {"Key": MARK, "Value": run["prefix"]} not in tags["tags"]:
        return "it does not have the tag of the run, so it is not deleted"
    try:
        _or_absent(missing, lambda: ecr.delete_repository(repositoryName=name, force=True))
    except ClientError:
        # An image that is archived for less than 90 days goes only by its digest (User Guide, “Archiving an image”).
        images = ecr.list_images(repositoryName=name, filter={"imageStatus": "ANY"})["imageIds"]
        if not images:
            raise
        ecr.batch_delete_image(repositoryName=name, imageIds=images)
        ecr.delete_repository(repositoryName=name, force=True)
    return DELETED


def _role(clients: Clients, entry: Entry, run: Mapping[str, str]) -> str:
    """Delete a role with its policies, if its path says that this run made it."""
    iam, name = clients("iam"), entry["name"]
    role = _or_absent(("NoSuchEntity",), lambda: iam.get_role(RoleName=name))
    if role is None:
        return ABSENT
    if role["Role"]["Path"] != f"/{run['prefix']}/":
        return "it does not have the path of the run, so it is not deleted"
    for policy in iam.list_role_policies(RoleName=name)["PolicyNames"]:
        iam.delete_role_policy(RoleName=name, PolicyName=policy)
    iam.delete_role(RoleName=name)
    return DELETED


def _queue(clients: Clients, entry: Entry, run: Mapping[str, str]) -> str:
    """Delete a queue. Its random name is its mark."""
    sqs, missing = clients("sqs"), ("QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue")
    found = _or_absent(missing, lambda: sqs.get_queue_url(QueueName=entry["name"]))
    if found is None:
        return ABSENT
    _or_absent(missing, lambda: sqs.delete_queue(QueueUrl=found["QueueUrl"]))
    return DELETED


def _rule(clients: Clients, entry: Entry, run: Mapping[str, str]) -> str:
    """Delete a rule of EventBridge with its targets. Its random name is its mark."""
    events, name = clients("events"), entry["name"]
    targets = _or_absent(("ResourceNotFoundException",), lambda: events.list_targets_by_rule(Rule=name))
    if targets is None:
        return ABSENT
    if targets["Targets"]:
        events.remove_targets(Rule=name, Ids=[each["Id"] for each in targets["Targets"]])
    events.delete_rule(Name=name)
    return DELETED


def sid(name: str) -> str:
    """A name as a Sid, which has letters and digits only (IAM User Guide, “IAM JSON policy elements: Sid”)."""
    return "".join(filter(str.isalnum, name))


def _registry_policy(clients: Clients, entry: Entry, run: Mapping[str, str]) -> str:
    """Delete the registry's own policy, if it is the one of this run: each Sid has the name of the run."""
    ecr, missing = clients("ecr"), ("RegistryPolicyNotFoundException",)
    found = _or_absent(missing, ecr.get_registry_policy)
    if found is None:
        return ABSENT
    statements = json.loads(found["policyText"])["Statement"]
    statements = statements if isinstance(statements, list) else [statements]
    if any(each.get("Sid") != sid(entry["name"]) for each in statements):
        return "the registry has another policy by now, so it is not deleted"
    _or_absent(missing, ecr.delete_registry_policy)
    return DELETED


def _exclusion(clients: Clients, entry: Entry, run: Mapping[str, str]) -> str:
    """Remove the pull time exclusion of a role of this run."""
    absent = ("ExclusionNotFoundException",)
    gone = _or_absent(absent, lambda: clients("ecr").deregister_pull_time_update_exclusion(principalArn=entry["name"]))
    return ABSENT if gone is None else DELETED


def _setting(clients: Clients, entry: Entry, run: Mapping[str, str]) -> str:
    """Put an account setting back, if it has the value that this run gave it."""
    ecr, name = clients("ecr"), entry["name"]
    if ecr.get_account_setting(name=name)["value"] != entry["value"]:
        return ABSENT
    ecr.put_account_setting(name=name, value=entry["before"])
    return DELETED


#: The kinds of things that a run creates or changes → what deletes or puts back one of them, if it is the run's.
KINDS: dict[str, Callable[[Clients, Entry, Mapping[str, str]], str]] = {
    "repository": _repository,
    "role": _role,
    "queue": _queue,
    "rule": _rule,
    "registry_policy": _registry_policy,
    "exclusion": _exclusion,
    "setting": _setting,
}
