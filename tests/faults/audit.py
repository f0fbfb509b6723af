"""What must be true after every fault: the invariants I1 to I13, checked in the rows, in ECR, and in the logs.

    I1  every accepted intent is there and ends right or in words; no 500, no refusal without a sentence
    I2  one row per live managed repository, one live repository per row
    I3  in sync is never said of a repository that differs
    I4  a stale write lives at most one sweep
    I5  no AWS call inside a transaction
    I6  nothing outside the namespace, and nothing that is not managed, is ever written
    I7  no secret in any log, refusal, or row
    I8  one audit line per change
    I9  each sweep ends once, with every repository counted
    I10 no policy is written that nobody configured
    I11 recovered within the lease and two ticks
    I12 nothing stands still for more than a minute
    I13 converging twice makes no write the second time

It reads the database by SQL and AWS with other credentials, so it shares no code with what it checks.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from tests.faults.installation import Installation, Stuck, completed, wait_for

NAMESPACE = "trigger/"
NOT_OURS = ("other/private", "trigger/somebody-elses")  # sweeps see the second, which is not managed
WRITES = re.compile(r"(Create|Set|Put|Tag|Untag|Update|Delete|BatchDelete)")
LEASE_SECONDS, TICK_SECONDS = 90.0, 60.0
RECOVERY_SECONDS = LEASE_SECONDS + 2 * TICK_SECONDS
REST_SECONDS = 130.0
LOOKS = ("start.sweep", "reconcile.repository")  # in the audit log
MUTABILITY = "IMMUTABLE_WITH_EXCLUSION"


def stamp(value: Any) -> float:
    """A time of the database in seconds, whether it comes as text (SQLite) or not."""
    at = datetime.fromisoformat(value) if isinstance(value, str) else value
    return float((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp())


def meaning(text: str | None) -> Any:
    """A repository policy without what AWS may write differently: the form of accounts, order, one or a list."""
    if text is None:
        return None

    def listed(value: Any) -> list[str]:
        return sorted(value if isinstance(value, list) else [value])

    def account(text: str) -> str:
        found = re.fullmatch(r"arn:aws:iam::(\d{12}):root", text)
        return found[1] if found else text

    def statement(each: Mapping[str, Any]) -> Any:
        principal = each["Principal"]
        principals = principal if isinstance(principal, str) else sorted(map(account, listed(principal["AWS"])))
        return (each["Effect"], str(principals), listed(each["Action"]), json.dumps(each.get("Condition")))

    return sorted(map(statement, json.loads(text)["Statement"]))


def writes(installation: Installation, since: float) -> list[dict[str, Any]]:
    """The calls of the product that change ECR, as the sandbox wrote them down."""
    return [
        each
        for each in installation.journal(since)
        if each["caller"] == installation.caller and each["service"] == "ecr" and WRITES.match(each["operation"])
    ]


def rest(installation: Installation, seconds: float = REST_SECONDS) -> None:
    """Wait until no lease is held, no sweep runs and the queue is empty. Raises Stuck."""
    database = installation.database

    def held() -> dict[str, Any]:
        leases = {
            table: database.value(f"SELECT count(*) FROM {table} WHERE lease_until > {database.now}")
            for table in ("deployments_repository", "deployments_sweep", "deployments_sweepchunk")
        }
        running = database.value("SELECT count(*) FROM deployments_sweep WHERE status = 'running'")
        return {name: number for name, number in {**leases, "running sweeps": running}.items() if number}

    try:
        wait_for(lambda: not held(), seconds, "rest")
    except Stuck as error:
        raise Stuck(f"{error}: {held()}") from None


def audit(
    installation: Installation,
    since: float,
    *,
    recovered: float = 0.0,
    within: float = RECOVERY_SECONDS,
    tracebacks: str = "",
) -> list[str]:
    """Every violation, in words that begin with the invariant's number. The installation must be at rest.

    `recovered`: how long it took until it was right after the fault, which may be `within` seconds.
    `tracebacks`: which ones are meant to be in a log, as a regular expression of their last lines.
    """
    found: list[str] = []
    found += _answers(installation)
    found += _deployments(installation)
    found += _in_sync_is_true(installation, since)
    found += _converges(installation)
    found += _repositories(installation)
    found += _sweeps(installation)
    found += _written(installation, since)
    found += _audit_lines(installation)
    found += _secrets_and_logs(installation, tracebacks)
    if recovered > within:
        found.append(f"I11: it took {recovered:.0f} s to recover instead of {within:.0f}")
    found += _stands_still(installation)
    return found


def _answers(installation: Installation) -> Iterable[str]:
    for asked in installation.asked:
        answer = asked.answer
        if answer.status in (500, 502, 504):
            yield f"I1: {asked.method} {asked.path} was answered with {answer.status}: {answer.text[:200]}"
        elif answer.status >= 400 and asked.path.startswith("/api/") and len(answer.error) < 10:
            yield f"I1: {asked.method} {asked.path}: {answer.status} without a sentence: {answer.text[:200]}"
        elif "event: error" in answer.text and "The server failed" in answer.text:
            yield f"I1: {asked.method} {asked.path}: {answer.text[-200:]}"


def _deployments(installation: Installation) -> Iterable[str]:
    database = installation.database
    rows = {row["id"]: row for row in database.query("SELECT * FROM deployments_deployment")}
    current = {row["deployment_id"] for row in database.query("SELECT deployment_id FROM deployments_promotion")}
    for asked in installation.asked:
        answer = asked.answer
        begun = answer.status == 200 and (asked.method, asked.path) == ("POST", "/api/v1/deployments")
        if begun and answer.body["id"] not in rows:
            yield f"I1: the accepted deployment {answer.body['id']} is not there"
        if asked.path.endswith("/finalize") and completed(answer):
            row = rows.get(asked.path.split("/")[-2])
            if row is None or row["status"] != "DEPLOYED":
                yield f"I1: {asked.path} was completed, and its deployment is {row and row['status']}"
            elif "deployed and current" in answer.text and not _is_current(row, rows, current):
                yield f"I1: {asked.path} said that it is current, and no version is"
    for row in rows.values():
        error = row["error"] if not isinstance(row["error"], str) else json.loads(row["error"])
        if row["status"] in ("FAILED", "TIMED_OUT") and not (error and error.get("message")):
            yield f"I1: {row['id']} is {row['status']} without words"
        # The latest that was finalized with a promotion is current.
        if row["status"] == "DEPLOYED" and row["promotion_wanted"] and not _is_current(row, rows, current):
            yield f"I1: {row['id']} is DEPLOYED, its promotion was asked for, and neither it nor a newer one is current"
    keys = Counter((row["environment_id"], row["idempotency_key"]) for row in rows.values() if row["idempotency_key"])
    yield from (f"I1: {number} deployments of one idempotency key" for number in keys.values() if number > 1)
    numbers: dict[tuple[Any, str], list[int]] = {}
    for row in rows.values():
        numbers.setdefault((row["environment_id"], row["version_day"]), []).append(row["version_number"])
    for key, found in numbers.items():
        if sorted(found) != list(range(1, len(found) + 1)):
            yield f"I1: the versions of environment {key[0]} have gaps or doubles: {sorted(found)}"


def _is_current(row: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]], current: set[Any]) -> bool:
    version = (row["version_day"], row["version_number"])
    return any(
        each["id"] in current
        and each["environment_id"] == row["environment_id"]
        and (each["version_day"], each["version_number"]) >= version
        for each in rows.values()
    )


def _rows(installation: Installation) -> list[dict[str, Any]]:
    rows = installation.database.query("SELECT * FROM deployments_repository")
    return [row for row in rows if row["name"] not in NOT_OURS and row["status"] != "unmanaged"]


def _in_sync_is_true(installation: Installation, since: float) -> Iterable[str]:
    """I3, before the next look: only a change after the row's last look may differ."""
    changed: dict[str, float] = {}
    for each in installation.journal(since):
        if each["caller"] != installation.caller and WRITES.match(each["operation"]):
            name = each["repository"] or str(each["params"].get("resourceArn", "")).partition(":repository/")[2]
            changed[name] = each["time"]
    for row in _rows(installation):
        looked = stamp(row["last_checked_at"]) if row["last_checked_at"] else 0.0
        if row["status"] == "in_sync" and changed.get(row["name"], 0.0) < looked - 1.0:
            live = installation.live_policy(row["name"])
            if live is None or meaning(live) not in map(meaning, installation.policies):
                yield f"I3: {row['name']} is in sync, and its live policy is {live}"


def _converges(installation: Installation) -> Iterable[str]:
    """I4 and I13: one sweep makes everything right, the next one writes nothing."""
    status, out, err = installation.command("reconcile", "--all", "--json")
    if status:
        yield f"I4: a sweep at rest ended with {status}: {err}{out}"
    for row in _rows(installation):
        yield from (f"I4: after a sweep {row['name']} {words}" for words in _wrong(installation, row))
    before = time.time()
    status, out, err = installation.command("reconcile", "--all", "--json")
    if again := writes(installation, before):
        yield f"I13: the second sweep wrote {Counter(each['operation'] for each in again)}"


def _wrong(installation: Installation, row: Mapping[str, Any]) -> Iterable[str]:
    name, ecr = row["name"], installation.ecr
    if row["status"] == "missing":
        if name in installation.live_names():
            yield "is called missing and is there"
        return
    if not row["origin"] and row["status"] == "pending":
        return  # its deploy ended before it made a call to AWS
    if meaning(live := installation.live_policy(name)) != meaning(installation.policy):
        yield f"({row['status']}) has the policy {live}"
        return
    if row["status"] != "in_sync":
        yield f"is {row['status']}: {row['last_error'] or row['differences']}"
    details = ecr.describe_repositories(repositoryNames=[name])["repositories"][0]
    if row["origin"] == "created" and details["imageTagMutability"] != MUTABILITY:
        yield f"has the mutability {details['imageTagMutability']}"
    tags = {
        each["Key"]: each["Value"] for each in ecr.list_tags_for_resource(resourceArn=details["repositoryArn"])["tags"]
    }
    if tags.get("team") != "platform":
        yield f"has the tags {tags}"
    try:
        ecr.get_lifecycle_policy(repositoryName=name)
    except ecr.exceptions.LifecyclePolicyNotFoundException:
        yield "has no lifecycle policy"


def _repositories(installation: Installation) -> Iterable[str]:
    rows = {row["name"]: row for row in _rows(installation)}
    live = {name for name in installation.live_names() if name.startswith(NAMESPACE)} - set(NOT_OURS)
    yield from (f"I2: {name} is live and has no row, or is not managed" for name in sorted(live - set(rows)))
    for name, row in rows.items():
        if name not in live and row["status"] not in ("missing", "pending", "failed"):
            yield f"I2: {name} is {row['status']}, and there is no such repository"
        if row["status"] == "failed" and not row["last_error"]:
            yield f"I1: {name} is failed without words"


def _sweeps(installation: Installation) -> Iterable[str]:
    for sweep in installation.database.query("SELECT * FROM deployments_sweep"):
        chunks = installation.database.query("SELECT * FROM deployments_sweepchunk WHERE sweep_id = ?", sweep["id"])
        if sweep["status"] == "running" or sweep["finished_at"] is None:
            yield f"I9: sweep {sweep['id']} is {sweep['status']}, ended at {sweep['finished_at']}"
        if sweep["status"] == "failed" and not sweep["error"]:
            yield f"I1: sweep {sweep['id']} failed without words"
        if sweep["status"] == "done":
            counted = sum(chunk[name] for chunk in chunks for name in ("in_sync", "healed", "drifted", "failed"))
            size = sum(chunk["size"] for chunk in chunks)
            if counted != size:
                yield f"I9: sweep {sweep['id']} counted {counted} of {size}"


def _written(installation: Installation, since: float) -> Iterable[str]:
    allowed = set(installation.policies)
    for each in writes(installation, since):
        name = each["repository"] or str(each["params"].get("resourceArn", "")).partition(":repository/")[2]
        if not name.startswith(NAMESPACE) or name in NOT_OURS:
            yield f"I6: {each['operation']} on {name}"
        if each["operation"] == "SetRepositoryPolicy" and each["params"].get("policyText") not in allowed:
            yield f"I10: {name} was given {each['params'].get('policyText')}"


def _audit_lines(installation: Installation) -> Iterable[str]:
    database = installation.database
    lines = Counter(
        (row["action"], row["object_id"])
        for row in database.query("SELECT action, object_id FROM deployments_auditentry WHERE outcome = 'done'")
    )
    doubled = {key for key, number in lines.items() if number > 1 and key[0] in ("cancel.deployment", "revoke.key")}
    yield from (f"I8: {lines[key]} audit lines for {key}" for key in doubled)
    for row in database.query("SELECT id FROM deployments_deployment WHERE status = 'CANCELED'"):
        if not lines["cancel.deployment", row["id"]]:
            yield f"I8: {row['id']} was canceled without an audit line"
    for row in database.query("SELECT id FROM deployments_environment WHERE archived_at IS NOT NULL"):
        if lines["archive.environment", str(row["id"])] != 1:
            yield f"I8: branch {row['id']} was archived with {lines['archive.environment', str(row['id'])]} audit lines"
    people = database.query("SELECT id FROM deployments_sweep WHERE \"trigger\" = 'person'")
    looks = sum(number for (action, _), number in lines.items() if action in LOOKS)
    if len(people) > looks:
        yield f"I8: {len(people)} sweeps that a person started, {looks} audit lines"


def _secrets_and_logs(installation: Installation, meant: str) -> Iterable[str]:
    texts = {path.name: path.read_bytes().decode("latin-1") for path in installation.folder.glob("*.log")}
    for name, text in texts.items():
        seen = installation.read_logs.get(name, 0)
        installation.read_logs[name] = len(text)
        ends = re.findall(r"^Traceback .*\n(?:^[ \n].*\n?)*(.*)", text[seen:], re.MULTILINE)
        lines = [line for line in text[seen:].splitlines() if line.startswith('{"timestamp"') and line.endswith("}")]
        ends += [said["exception"].splitlines()[-1] for line in lines if "exception" in (said := json.loads(line))]
        ends = [end for end in ends if not (meant and re.search(meant, end))]
        if ends and not name.startswith("old-"):  # what an earlier release logs cannot be corrected any more
            yield f"log: {name} has {len(ends)} tracebacks: {Counter(end[:150] for end in ends).most_common(3)}"
        if "AWS must not be called while" in text[seen:]:
            yield f"I5: {name}: AWS was called inside a transaction"
    refusals = "\n".join(asked.answer.text for asked in installation.asked if asked.answer.status >= 400)
    tables = [name for name in installation.database.tables() if name.startswith(("deployments_", "django_q_"))]
    texts |= {name: str(installation.database.query(f"SELECT * FROM {name}")) for name in tables}
    for name, text in {**texts, "a refusal": refusals}.items():
        if any(secret in text for secret in installation.secrets):
            yield f"I7: a secret is in {name}"


def _stands_still(installation: Installation) -> Iterable[str]:
    database = installation.database
    if installation.running("web"):
        answer = installation.get("/healthz", timeout=5)
        if answer.status != 200 or answer.seconds > 2:
            yield f"I12: /healthz: {answer.status} in {answer.seconds:.1f} s"
    if installation.running("worker"):
        waiting = [stamp(row["lock"]) for row in database.query("SELECT * FROM django_q_ormq")]
        if waiting and time.time() - min(waiting) > 60 and min(waiting) < time.time():
            yield f"I12: a task has been waiting for {time.time() - min(waiting):.0f} s"
