"""The faults F1 to F13 of the matrix: each is a function that lets one operation meet it, and brings it to its end.

A fault is something done from outside: a signal, a fault of the sandbox, something done to the database. Each function
makes the works that it needs, breaks them, lifts the fault, and has each work finished by asking again. It returns the
works. The caller audits the installation afterwards.
"""

from __future__ import annotations

import contextlib
import functools
import resource
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from tests.faults.audit import LEASE_SECONDS, writes
from tests.faults.installation import Installation, Postgresql, Service, Sqlite, Stuck, children, send, wait_for
from tests.faults.operations import FINISH_SECONDS, PolicyChange, SweepRepairs, Work, together

HELD = "held"  # a queue that no worker reads
FULL_BYTES = 64 * 1024  # more than a log of these processes has, less than their database
MINUTE_SECONDS = 60.0
#: First letter of a project's ref → one of so many calls about its repository is throttled: 5, 50 and 100 %.
THROTTLED = {"[a-h]": 20, "[i-q]": 2, "[r-z]": 1}
#: Operations that are throttled for a whole minute: one of the web process, one of the worker, on SQLite, because the
#: database makes no difference. A request remembers nothing of an earlier one's refusal, so for the others a minute is
#: a row of the cases that they have: throttled for as long as one request tries.
THROTTLED_FOR_A_MINUTE = ("O1", "O5")
#: For how many seconds PostgreSQL is away. 20 is longer than a silent process keeps a lease, 60 is longer than a lease
#: may be used for, so these are for one operation of each kind of process that holds one. All other operations have 5.
AWAY_SECONDS: dict[str, tuple[int, ...]] = {"O1": (5, 20, 60), "O5": (5, 20, 60)}
# With both for all operations the matrix would take more than half an hour.
SLOW_SECONDS = 30.0  # of an answer, in whose middle the call has its effect, also where nobody waits any more

Kind = type[Work]
Strike = Callable[[Installation, Kind], list[Work]]


class Background:
    """A call in a thread. `join` gives what it came to, and None where it failed: it was meant to be broken."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.result: Any = None

        def run() -> None:
            with contextlib.suppress(Exception):
                self.result = call()

        self._thread = threading.Thread(target=run)
        self._thread.start()

    @property
    def is_going_on(self) -> bool:
        return self._thread.is_alive()

    def join(self, seconds: float = FINISH_SECONDS) -> Any:
        self._thread.join(seconds)
        if self._thread.is_alive():
            raise Stuck(f"a request did not come to its end within {seconds:.0f} s")
        return self.result


def finish(works: list[Work]) -> list[Work]:
    """Bring all to their end, at once: most wait for the same leases."""
    together(*(work.finish for work in works))
    return works


def struck(installation: Installation, fault: dict[str, Any], seconds: float = 30) -> bool:
    """Wait until a fault of the sandbox has met a call; False if it does not."""

    def look() -> bool:
        return any(each["id"] == fault["id"] and each["struck"] for each in installation.sandbox.faults())

    try:
        return bool(wait_for(look, seconds, "the call"))
    except Stuck:
        return False


def of(work: Work) -> dict[str, str]:
    """Which of the sandbox's calls a fault is for."""
    return {"repository": work.repository} if work.targeted else {}


def kill_web_workers(installation: Installation) -> None:
    send(signal.SIGKILL, *installation.web_workers())


def kill_clusters(installation: Installation) -> None:
    send(signal.SIGKILL, *(pid for service in installation.running("worker") for pid in service.cluster()))


def whole(installation: Installation, work: Work) -> None:
    """Every process that the case needs runs again."""
    installation.ensure(web=1, worker=1 if work.by == "worker" else 0)
    for service in installation.running("worker"):
        wait_for(functools.partial(_complete, service), 60, "the cluster's restart")


class Victim:
    """The processes that do the work, to be killed in the middle of it: the web processes; for a sweep the command
    that does the same in a process of its own, because a killed worker takes ten seconds to come back; else the
    workers' clusters.
    """

    def __init__(self, installation: Installation, work: Work) -> None:
        self._installation, self._work = installation, work
        self._command = installation.begin_command("reconcile", work.repository) if work.id == "O5" else None
        self._request = Background(work.until_done) if self._command is None else None

    @property
    def is_at_work(self) -> bool:
        return self._command.is_running if self._command else self._request is not None and self._request.is_going_on

    def kill(self) -> None:
        if self._command is not None:
            self._command.kill()
        else:
            (kill_web_workers if self._work.by == "web" else kill_clusters)(self._installation)

    def end(self) -> None:
        """Wait until it is over, and what was killed is up again."""
        if self._command is not None:
            self._command.process.wait(FINISH_SECONDS)
        elif self._request is not None:
            if self._work.by == "web":
                self._request.join()
            whole(self._installation, self._work)


def _complete(service: Service) -> bool:
    return len(service.cluster()) >= 6


# ------------------------------------------------------------------------------------------------------------ F1, F4


def crash_at_calls(installation: Installation, kind: Kind) -> list[Work]:
    """F1, its half in AWS: the process is killed before and after the effect of each call."""
    works = []
    for call in kind.calls:
        for moment in ("hang", "unanswered"):
            work = kind(installation)
            works.append(work)
            fault = installation.fault(moment, call, times=1, **of(work))
            victim = Victim(installation, work)
            assert struck(installation, fault), f"{call} was never made"
            time.sleep(0.1)  # its effect is there
            victim.kill()
            installation.sandbox.clear_faults()
            victim.end()
    return finish(works)


def crash_at_writes(installation: Installation, kind: Kind) -> list[Work]:
    """F1, its half in the database (PostgreSQL): each write of the operation is held by a trigger; then the process is
    killed, and the write undone (killed before it) or done (killed after it)."""
    database = installation.database
    assert isinstance(database, Postgresql)
    works: list[Work] = []
    with _holding(database, kind.tables) as hold:
        for undone in (True, False):
            for number in range(1, 40):
                work = kind(installation)
                works.append(work)
                hold.arm(number)
                victim = Victim(installation, work)
                if not hold.met(victim):
                    hold.release()
                    victim.end()
                    break
                victim.kill()
                if undone:
                    hold.end_holder()
                hold.release()
                victim.end()
            else:
                raise Stuck("it makes more than 40 writes")
    return finish(works)


class _Hold:
    """Holds the n-th write: a trigger waits for a lock of ours."""

    def __init__(self, database: Postgresql) -> None:
        self.database, self._connection = database, database.connect()

    def arm(self, number: int) -> None:
        self._connection.execute("SELECT pg_advisory_lock(4711)")
        self._connection.execute("SELECT setval('faults.write', 1, false)")
        self._connection.execute("UPDATE faults.armed SET number = %s", [number])

    def holder(self) -> Any:
        return self.database.value(
            "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711 AND NOT granted"
        )

    def met(self, victim: Victim) -> bool:
        """Whether a write is held; False once the victim has ended without."""
        until = time.monotonic() + 60
        while time.monotonic() < until:
            if self.holder():
                return True
            if not victim.is_at_work:
                return False
            time.sleep(0.02)
        return False

    def end_holder(self) -> None:
        self.database.query("SELECT pg_terminate_backend(?)", self.holder())
        wait_for(lambda: not self.holder(), 10, "the end of the backend")

    def release(self) -> None:
        self._connection.execute("UPDATE faults.armed SET number = 0")
        self._connection.execute("SELECT pg_advisory_unlock_all()")

    def close(self) -> None:
        self._connection.close()


@contextlib.contextmanager
def _holding(database: Postgresql, tables: tuple[str, ...]) -> Iterator[_Hold]:
    database.query(
        """
        CREATE SCHEMA IF NOT EXISTS faults;
        CREATE SEQUENCE IF NOT EXISTS faults.write;
        CREATE TABLE IF NOT EXISTS faults.armed (number int);
        DELETE FROM faults.armed;
        INSERT INTO faults.armed VALUES (0);
        CREATE OR REPLACE FUNCTION faults.hold() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF current_setting('application_name') <> 'faults' AND (SELECT number FROM faults.armed) > 0 THEN
                IF nextval('faults.write') = (SELECT number FROM faults.armed) THEN
                    PERFORM pg_advisory_xact_lock_shared(4711);
                END IF;
            END IF;
            RETURN NULL;
        END $$;
        """
    )
    for table in tables:
        database.query(
            f"CREATE TRIGGER faults_hold BEFORE INSERT OR UPDATE OR DELETE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION faults.hold()"
        )
    hold = _Hold(database)
    try:
        yield hold
    finally:
        hold.close()
        for table in tables:
            database.query(f"DROP TRIGGER IF EXISTS faults_hold ON {table}")


def crash_everywhere(installation: Installation, kind: Kind) -> list[Work]:
    """F1: a crash before and after every AWS call and every write to the database."""
    works = crash_at_calls(installation, kind) if kind.calls else []
    if isinstance(installation.database, Postgresql):
        works += crash_at_writes(installation, kind)
    return works


def kill_processes(installation: Installation, kind: Kind) -> list[Work]:
    """F4: SIGKILL of the whole web service, or of each of a worker's processes and then of all of it."""
    if kind.by == "web":
        return _kill_web(installation, kind)
    works = []
    # In a cluster's order: main, sentinel, then workers, monitor and pusher; all of them; and the supervisor as well.
    victims: tuple[int | str, ...] = (0, 1, 2, -1, -2, "cluster", "host")
    if not kind.calls or isinstance(installation.database, Postgresql):
        victims = (0, 1, "host")  # how a cluster comes back does not depend on what it does, nor on the database
    for victim in victims:
        work = kind(installation)
        works.append(work)
        service = installation.running("worker")[0]
        fault = installation.fault("latency", "ecr:*", seconds=1.0, repository=work.repository)
        request = Background(work.perform)
        if kind.calls:
            struck(installation, fault)
        if victim == "host":
            service.kill()
        else:
            cluster = service.cluster()
            send(signal.SIGKILL, *(cluster if victim == "cluster" else [cluster[int(victim)]]))
        request.join()
        installation.sandbox.clear_faults()
        whole(installation, work)
        work.finish()
    return works


def _kill_web(installation: Installation, kind: Kind) -> list[Work]:
    works = []
    for seconds in (0.02, 0.3, 0.7):
        work = kind(installation)
        works.append(work)
        installation.fault("latency", "*", seconds=0.5, **of(work))
        request = Background(work.perform)
        time.sleep(seconds)
        for service in installation.running("web"):
            service.kill()
        installation.sandbox.clear_faults()
        installation.start_web()
        request.join()
    return finish(works)


# ------------------------------------------------------------------------------------------------------------ F2, F3


def _each(installation: Installation, kind: Kind, faults: list[dict[str, Any]], *, times: int = 1) -> list[Work]:
    """One work for each call of the operation and each of these faults; at once where a fault is for one repository."""
    works = [(kind(installation), call, fault) for call in kind.calls for fault in faults]

    def one(work: Work, call: str, fault: dict[str, Any]) -> None:
        installation.fault(match=call, **of(work), **fault)
        for _ in range(times):
            if work.perform():
                break
        if not work.targeted or work.alone:
            installation.sandbox.clear_faults()

    calls = [functools.partial(one, *each) for each in works]
    if kind.targeted and not kind.alone:
        for start in range(0, len(calls), 12):
            together(*calls[start : start + 12])
        installation.sandbox.clear_faults()
    else:
        for call in calls:
            call()
    ended = time.monotonic()
    finish([work for work, _, _ in works])
    if any(fault["kind"] == "latency" for fault in faults):
        time.sleep(
            max(0.0, ended + SLOW_SECONDS / 2 - time.monotonic())
        )  # a call that was given up still has its effect
    return [work for work, _, _ in works]


def lost_answers(installation: Installation, kind: Kind) -> list[Work]:
    """F2: each call's answer is lost after its effect: cut once, cut for as long as anybody tries, never coming."""
    faults: list[dict[str, Any]] = [
        {"kind": "lost", "times": 1},
        {"kind": "lost", "times": 9},
        {"kind": "unanswered", "times": 1},
    ]
    return _each(installation, kind, faults)


def refused_calls(installation: Installation, kind: Kind) -> list[Work]:
    """F3: throttled always and every second time, 5xx, an answer after 30 s, AccessDenied, expired credentials; some
    operations: 5, 50 and 100 % of the calls throttled for a minute."""

    def error(code: str, status: int, **more: Any) -> dict[str, Any]:
        return {"kind": "error", "code": code, "status": status, **more}

    faults = [
        error("ThrottlingException", 400),
        error("ThrottlingException", 400, every=2),
        error("ServerException", 500),
        error("AccessDeniedException", 400),
        error("ExpiredTokenException", 400),
        {"kind": "latency", "seconds": SLOW_SECONDS, "times": 2},
    ]
    works = _each(installation, kind, faults)
    if kind.id in THROTTLED_FOR_A_MINUTE and isinstance(installation.database, Sqlite):
        works += throttled_for_a_minute(installation, kind)
    return works


def throttled_for_a_minute(installation: Installation, kind: Kind) -> list[Work]:
    """Three callers ask for one work after the other, for those that failed again and again, while AWS throttles."""
    works = [kind(installation) for _ in range(15)]
    waiting, until = deque(works), time.monotonic() + MINUTE_SECONDS
    for letters, every in THROTTLED.items():
        installation.fault("throttle", "ecr:*", repository=f"trigger/proj_{letters}*", every=every)

    def ask() -> None:
        while time.monotonic() < until:
            with contextlib.suppress(IndexError):  # the two others have the last ones
                work = waiting.popleft()
                if not work.perform():
                    waiting.append(work)
            time.sleep(2)

    together(ask, ask, ask)
    installation.sandbox.clear_faults()
    return finish(works)


# ---------------------------------------------------------------------------------------------------------------- F5


def stopped_process(installation: Installation, kind: Kind) -> list[Work]:
    """F5: SIGSTOP for longer than the lease, while another process does the work; then SIGCONT: no late write."""
    work = kind(installation)
    first = installation.running(kind.by)[0]
    # The first call, so that after it the process has something to write.
    match = "ecr:CreateRepository" if isinstance(work, PolicyChange) else kind.calls[0] if kind.calls else "*"
    fault = installation.fault("latency", match, seconds=2.0, times=1, **of(work))
    request = Background(work.deploy if isinstance(work, PolicyChange) else work.perform)
    if kind.calls:
        assert struck(installation, fault)
        time.sleep(1.4)  # its effect is there, its answer is under way
    stopped = [first.pid, *first.all_members(), *children(first.pid)]
    send(signal.SIGSTOP, *stopped)
    try:
        if isinstance(work, PolicyChange):
            work.configure()  # what stands still holds the older policy
        (installation.start_web if kind.by == "web" else installation.start_worker)()
        installation.sandbox.clear_faults()
        finish([work])
        wait_for(lambda: not _leased(installation, work), LEASE_SECONDS + 10, "the end of the lease")
    finally:
        continued = time.time()
        send(signal.SIGCONT, *stopped)
    request.join()
    time.sleep(3)
    late = writes(installation, continued)
    assert not late, f"I4: a write after SIGCONT: {late}"
    first.stop(40)
    return [work]


def _leased(installation: Installation, work: Work) -> bool:
    database = installation.database
    return bool(
        database.value(
            f"SELECT count(*) FROM deployments_repository WHERE name = ? AND lease_until > {database.now}",
            work.repository,
        )
    )


# ---------------------------------------------------------------------------------------------------------------- F6


def broken_database(installation: Installation, kind: Kind) -> list[Work]:
    """F6: PostgreSQL crashes and is away for 5 s (20 and 60 s: `AWAY_SECONDS`), cuts every connection, takes no write
    for 4 s; SQLite is locked for 25 s (longer than anybody waits for it), and its disk is full for 4 s."""
    crashes = [functools.partial(_crashed, away=seconds) for seconds in AWAY_SECONDS.get(kind.id, (5,))]
    breaks: list[Callable[[Installation], contextlib.AbstractContextManager[None]]] = (
        [*crashes, _cut, _read_only] if isinstance(installation.database, Postgresql) else [_locked, _full]
    )
    works = []
    for broken in breaks:
        work = kind(installation)
        works.append(work)
        installation.fault("latency", "*", seconds=0.4, **of(work))
        request = Background(work.perform)
        time.sleep(0.15)
        with broken(installation):
            pass
        installation.sandbox.clear_faults()
        request.join()
        work.finish()
    return works


@contextlib.contextmanager
def _crashed(installation: Installation, *, away: int) -> Iterator[None]:
    database = installation.database
    assert isinstance(database, Postgresql)
    database.server.crash(away=away)
    yield


@contextlib.contextmanager
def _cut(installation: Installation) -> Iterator[None]:
    database = installation.database
    assert isinstance(database, Postgresql)
    for _ in range(5):
        database.cut()
        time.sleep(0.1)
    yield


@contextlib.contextmanager
def _read_only(installation: Installation) -> Iterator[None]:
    database = installation.database
    database.query("ALTER SYSTEM SET default_transaction_read_only = on")
    database.query("SELECT pg_reload_conf()")
    time.sleep(4)
    database.query("ALTER SYSTEM RESET default_transaction_read_only")
    database.query("SELECT pg_reload_conf()")
    yield


@contextlib.contextmanager
def _locked(installation: Installation) -> Iterator[None]:
    database = installation.database
    assert isinstance(database, Sqlite)
    with contextlib.closing(database.connect()) as connection:
        connection.execute("BEGIN IMMEDIATE")
        time.sleep(25)
        connection.execute("ROLLBACK")
    yield


@contextlib.contextmanager
def _full(installation: Installation) -> Iterator[None]:
    """No file of these processes can grow beyond what it is: as where a disk is full, in a write's own words."""
    database = installation.database
    assert isinstance(database, Sqlite)
    pids = [pid for service in installation.services if service.is_running for pid in service.all_members()]
    limits = {pid: resource.prlimit(pid, resource.RLIMIT_FSIZE) for pid in pids}
    for pid in pids:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (FULL_BYTES, limits[pid][1]))
    time.sleep(4)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, limits[pid])
    yield


# ---------------------------------------------------------------------------------------------------------------- F7


def wrong_clock(installation: Installation, kind: Kind) -> list[Work]:
    """F7: one host's wall clock is 60 s off, ahead and behind, beside one that is right."""
    works = []
    name = kind.by
    start: Callable[..., Service] = installation.start_web if name == "web" else installation.start_worker
    for seconds in (60.0, -60.0):
        shifted = installation.shift_clock(0.0)
        service = start(**shifted)  # a worker that starts with a wrong clock is refused; one whose clock jumps is not
        installation.set_clock(seconds)
        time.sleep(1)
        try:
            work = kind(installation)
            works.append(work)
            work.perform()
            work.finish()
        finally:
            installation.set_clock(0.0)
            service.stop(40)
    return works


# ---------------------------------------------------------------------------------------------------------------- F8


@contextlib.contextmanager
def _queue_trigger(installation: Installation, what: str) -> Iterator[None]:
    """Every message that is put into the queue is there twice, or not at all, or held back from the workers."""
    database = installation.database
    body = {
        "twice": "INSERT INTO django_q_ormq (key, payload, lock) VALUES (NEW.key, NEW.payload, NEW.lock)",
        "lost": "DELETE FROM django_q_ormq WHERE id = NEW.id",
        "held": f"UPDATE django_q_ormq SET key = '{HELD}' WHERE id = NEW.id",
    }[what]
    if isinstance(database, Postgresql):
        database.query(
            "CREATE OR REPLACE FUNCTION faults_queue() RETURNS trigger LANGUAGE plpgsql AS $$ "
            f"BEGIN IF pg_trigger_depth() = 1 THEN {body}; END IF; RETURN NULL; END $$"
        )
        database.query(
            "CREATE TRIGGER faults_queue AFTER INSERT ON django_q_ormq FOR EACH ROW EXECUTE FUNCTION faults_queue()"
        )
    else:
        database.query(f"CREATE TRIGGER faults_queue AFTER INSERT ON django_q_ormq BEGIN {body}; END")
    try:
        yield
    finally:
        on = " ON django_q_ormq" if isinstance(database, Postgresql) else ""
        database.query(f"DROP TRIGGER faults_queue{on}")


def unreliable_queue(installation: Installation, kind: Kind) -> list[Work]:
    """F8: every message of the queue is delivered twice, then every one is lost, then their order is reversed; change
    events come twice and in reversed order."""
    works = []
    for what in ("twice", "lost"):
        work = kind(installation)
        works.append(work)
        with _queue_trigger(installation, what):
            work.perform()
        work.finish()
    works += _reversed_queue(installation, kind)
    if kind.id == "O5":
        queue = installation.sandbox.events_to(f"changes-{installation.port}", copies=2, region=installation.region)
        events = installation.start_events(queue)
        work = kind(installation)  # a policy is deleted, and no repair is asked for
        wait_for(work.carries_policy, 60, "the repair because of an event that came twice")
        works.append(work)
        events.stop(10)
        works.append(_reversed_events(installation, kind))
    return works


def _reversed_queue(installation: Installation, kind: Kind) -> list[Work]:
    """The messages of two sweeps, then of the operation, are held back; each comes when the one after it was taken."""
    database = installation.database
    works: list[Work] = [SweepRepairs(installation), SweepRepairs(installation), kind(installation)]

    def held() -> list[int]:
        return [row["id"] for row in database.query("SELECT id FROM django_q_ormq WHERE key = ? ORDER BY id", HELD)]

    def taken(message: int, lock: Any) -> bool:
        return not database.query("SELECT 1 FROM django_q_ormq WHERE id = ? AND lock = ?", message, lock)

    with _queue_trigger(installation, "held"):
        for work in works:
            work.start() if isinstance(work, SweepRepairs) else work.perform()
        wait_for(lambda: len(held()) >= len(works), 45, "the messages")  # a cluster looks at its schedules each 30 s
        messages = held()
    for message in reversed(messages):
        lock = database.value("SELECT lock FROM django_q_ormq WHERE id = ?", message)
        database.query("UPDATE django_q_ormq SET key = 'registry_admin' WHERE id = ?", message)
        wait_for(functools.partial(taken, message, lock), 30, "a worker that takes it")
    return finish(works)


def _reversed_events(installation: Installation, kind: Kind) -> Work:
    """The events of a repository, from its creation to the deletion of its policy, come one by one, the last first."""
    sqs = installation.sandbox.client("sqs", region=installation.region)
    kept = installation.sandbox.events_to(f"kept-{installation.port}", region=installation.region)
    queue = sqs.create_queue(QueueName=f"reversed-{installation.port}")["QueueUrl"]
    work = kind(installation)  # its policy was deleted
    bodies: list[str] = []
    while messages := sqs.receive_message(QueueUrl=kept, MaxNumberOfMessages=10).get("Messages"):
        bodies += [message["Body"] for message in messages]
    mine = [body for body in bodies if work.repository in body]
    assert len(mine) >= 4, mine
    events = installation.start_events(queue)

    def empty() -> bool:
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        return not any(map(int, sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=names)["Attributes"].values()))

    for body in reversed(mine):
        sqs.send_message(QueueUrl=queue, MessageBody=body)
        wait_for(empty, 60, "the end of an event")
        assert work.carries_policy(), "after the first event, which is the last change, it is repaired and stays so"
    events.stop(10)
    return work


# ---------------------------------------------------------------------------------------------------------------- F9


def late_news(installation: Installation, kind: Kind) -> list[Work]:
    """F9: a repository is not found for 10 s after its creation; a policy's principal is not found for a while."""
    works = []
    for kind_of_fault, seconds in (("not_found_after_create", 10), ("principal_not_found", 12)):
        work = kind(installation)
        works.append(work)
        installation.fault(kind_of_fault, repository=work.repository, seconds=seconds)
        work.perform()
        work.finish()
        installation.sandbox.clear_faults()
    return works


# --------------------------------------------------------------------------------------------------------------- F10


def _change_policy(work: Work) -> None:
    from tests.faults.installation import policy

    work.installation.ecr.set_repository_policy(repositoryName=work.repository, policyText=policy("555555555555"))


def _change_lifecycle(work: Work) -> None:
    with contextlib.suppress(work.installation.ecr.exceptions.LifecyclePolicyNotFoundException):
        work.installation.ecr.delete_lifecycle_policy(repositoryName=work.repository)


def _change_tags(work: Work) -> None:
    arn = work.installation.ecr.describe_repositories(repositoryNames=[work.repository])["repositories"][0]
    work.installation.ecr.untag_resource(resourceArn=arn["repositoryArn"], tagKeys=["team"])


def _change_mutability(work: Work) -> None:
    work.installation.ecr.put_image_tag_mutability(repositoryName=work.repository, imageTagMutability="MUTABLE")


def _delete(work: Work) -> None:
    work.installation.ecr.delete_repository(repositoryName=work.repository, force=True)


CHANGES = (_change_policy, _change_lifecycle, _change_tags, _change_mutability, _delete)


def changed_outside(installation: Installation, kind: Kind) -> list[Work]:
    """F10: somebody changes each property, or deletes the repository, before each of the operation's calls."""
    works: list[Work] = []

    def one(work: Work, call: str, change: Callable[[Work], None]) -> None:
        fault = installation.fault("latency", call, repository=work.repository, seconds=3.0, times=1)
        request = Background(work.perform)
        if struck(installation, fault, 20):
            work.disturbed = True
            with contextlib.suppress(installation.ecr.exceptions.RepositoryNotFoundException):
                change(work)
        request.join()
        deleted = work.repository not in installation.live_names()
        if deleted or work.by == "worker":
            answer = installation.deploy(work.project, key=f"again-{work.repository}")
            assert answer.status == 200, answer
        # A deploy does not compare this again within a day, so an operator starts a look.
        row = installation.database.value("SELECT id FROM deployments_repository WHERE name = ?", work.repository)
        installation.console("POST", f"/admin/deployments/repository/{row}/look/reconcile/", {})

    calls = []
    for call in kind.calls:
        for change in CHANGES:
            work = kind(installation)
            works.append(work)
            calls.append(functools.partial(one, work, call, change))
    installation.ensure(web=1, worker=1)
    at_once = 1 if kind.alone else 10
    for start in range(0, len(calls), at_once):
        together(*calls[start : start + at_once])
    installation.sandbox.clear_faults()
    return finish(works)


# --------------------------------------------------------------------------------------------------------------- F11


def rolling_restart(installation: Installation, kind: Kind) -> list[Work]:
    """F11: the processes are replaced one after the other by SIGTERM, while the operation is done again and again."""
    works = [kind(installation) for _ in range(6)]
    stop = threading.Event()

    def restart() -> float:
        longest = 0.0
        while not stop.is_set():
            name = kind.by
            old = installation.running(name)
            (installation.start_web if name == "web" else installation.start_worker)()
            for service in old:
                longest = max(longest, service.stop(40))
        return longest

    restarts = Background(restart)
    try:
        for start in (0, 3):
            together(*(work.perform for work in works[start : start + 3]))
            time.sleep(2)
    finally:
        stop.set()
        longest = restarts.join()
    cut = [asked for asked in installation.asked if asked.answer.status == 0]
    assert not cut, f"SIGTERM cut requests off: {[(each.path, each.answer.text) for each in cut[:3]]}"
    assert longest <= 32, f"a process took {longest:.0f} s to end after SIGTERM"
    return finish(works)


# --------------------------------------------------------------------------------------------------------------- F12


def poison(installation: Installation, kind: Kind) -> list[Work]:
    """F12: an unreadable schedule and an unreadable message in the queue, and a repository whose look always fails."""
    database = installation.database
    database.query("INSERT INTO django_q_ormq (key, payload, lock) VALUES ('registry_admin', 'not a message', ?)",
                   "2020-01-01 00:00:00")  # fmt: skip
    row = database.query("SELECT * FROM django_q_schedule WHERE name = 'registry-admin: tick'")[0]
    row |= {"name": "somebody's", "args": "not ( python", "next_run": "2020-01-01 00:00:00"}
    del row["id"]
    columns = ", ".join(f'"{name}"' for name in row)
    database.query(f"INSERT INTO django_q_schedule ({columns}) VALUES ({', '.join('?' * len(row))})", *row.values())
    works: list[Work] = []
    sick = kind(installation)
    if kind.calls:
        installation.fault("error", "ecr:*", repository=sick.repository, code="WeirdException", status=418)
        sick.start()  # type: ignore[attr-defined]
    try:
        work = kind(installation)
        works.append(work)
        work.perform()
        work.finish()
    finally:
        installation.sandbox.clear_faults()
        database.query("DELETE FROM django_q_schedule WHERE name = ?", "somebody's")
        database.query("DELETE FROM django_q_ormq WHERE payload = ?", "not a message")
    if kind.calls:
        sick.finish()
        works.append(sick)
    return works


STRIKES: dict[str, tuple[str, Strike]] = {
    "F1": ("crash before and after every AWS call and write", crash_everywhere),
    "F2": ("answer lost after its effect", lost_answers),
    "F3": ("throttled (also 5, 50, 100 % for 60 s), 5xx, slow, denied, expired", refused_calls),
    "F4": ("SIGKILL", kill_processes),
    "F5": ("SIGSTOP beyond the lease, SIGCONT", stopped_process),
    "F6": ("database crashed, cut, locked, full, read-only", broken_database),
    "F7": ("clock 60 s off on one host", wrong_clock),
    "F8": ("messages twice, lost, in reversed order", unreliable_queue),
    "F9": ("not found after create, principal not found", late_news),
    "F10": ("changed or deleted outside", changed_outside),
    "F11": ("SIGTERM, rolling restart", rolling_restart),
    "F12": ("unreadable schedule, unreadable message, failing look", poison),
}
