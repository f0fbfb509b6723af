"""The roll-out of a version of the default policy: canaries, a watch, batches; a stop, and the way back.

    waiting → canaries → watching → batches → active        stopped: from canaries, watching or batches, and back to it
    each of these, and active → undoing → undone            superseded: a newer version came

The rows hold all of it, and each change is a compare-and-set, so any worker takes the next step (`advance`), and a
worker that dies on any line is followed by another one. A step never calls AWS while it holds a transaction.

A stage first gives its repositories the version (`Repository.policy_version`, only while no process holds their lease).
Then it starts a sweep of these repositories. The sweep, a deploy or a change event writes the policy, whichever comes
first: all of them ask which version the repository shall have. Then the stage is judged by the rows.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import Exists, F, Max, OuterRef, QuerySet, Subquery
from django.db.models.functions import Now

from deployments import clock, policy
from deployments.access.audit import Trail
from deployments.config import Configuration
from deployments.errors import RegistryError, refusal
from deployments.log import get_logger
from deployments.models import (
    EventKind,
    PolicyStep,
    PolicyVersion,
    Repository,
    RepositoryEvent,
    StepState,
    SweepStatus,
    SweepTrigger,
    VersionState,
    WritesPause,
)
from deployments.reconcile import (
    desired,
    generation,
    policy_versions,
    registry_policies,
    repositories,
    sweep_record,
    targets,
    what_if,
    writes_pause,
)
from deployments.reconcile.lease import free
from deployments.reconcile.policy_versions import MOVING
from deployments.reconcile.targets import Target
from deployments.row_values import MANAGED, Part

CANARIES, WATCHING, BATCHES = VersionState.CANARIES, VersionState.WATCHING, VersionState.BATCHES
STOPPED, ACTIVE, UNDOING = VersionState.STOPPED, VersionState.ACTIVE, VersionState.UNDOING
#: Moves that change no text that a repository, also a new one, shall have: no write under way has to be refused.
_SAME_TEXTS = {(CANARIES, WATCHING), (BATCHES, BATCHES)}
MOST_CANARIES = 5
MOST_IN_BATCH = 1000
NAMED = 5  # repositories that a reason names
OURS = "Registry Admin"
_GONE = "The repository is gone, was created again, or is not managed any more."
_ACCOUNT = re.compile(r"\b\d{12}\b")
#: What a trial pull of a repository's image said: (repository, its configuration) → sentences; empty: nothing failed.
Trial = Callable[[Repository, Target], str]
log = get_logger(__name__)


# ----------------------------------------------------------------------------------------------- what a person asks for


def start(*, version: PolicyVersion, at_once: bool, by: str, trail: Trail) -> None:
    """Start the roll-out of a version that waits. `at_once`: everywhere, without stages.

    Raises Refusal if the version does not wait any more.
    """
    values = {"started_at": Now(), "started_by": by[:300], "at_once": at_once}
    _ask(version, "start.version", [VersionState.WAITING], BATCHES if at_once else CANARIES, "", by, trail, values)


def pause(*, version: PolicyVersion, reason: str, by: str, trail: Trail) -> None:
    """Stop a roll-out. Repositories that have the version keep it. Raises Refusal if it is not under way."""
    moving = [CANARIES, WATCHING, BATCHES]
    _ask(version, "pause.version", moving, STOPPED, reason or f"Stopped by {by}.", by, trail, {"resumes": F("state")})


def resume(*, version: PolicyVersion, configuration: Configuration, by: str, trail: Trail) -> None:
    """Let a stopped roll-out go on. Accounts that lost a pull so far do not stop it again.

    Raises Refusal if it is not stopped.
    """
    version.refresh_from_db()
    target = target_of(version, configuration)
    lost = lost_pulls(version, target) if target is not None else []
    accepted = sorted({*version.accepted, *(account for _, account, _ in lost)})
    values = {"accepted": accepted, "resumes": "", "sweep": None}
    # After a stop while the canaries were watched, they are watched until the same time, and read again.
    _ask(version, "resume.version", [STOPPED], version.resumes or CANARIES, "", by, trail, values)


def rollback(*, version: PolicyVersion, by: str, trail: Trail) -> None:
    """Put back what was there before, on each repository that this version was written to.

    Raises Refusal if that is not possible (`why_not_undone`).
    """
    version.refresh_from_db()
    if state := why_not_undone(version):
        raise refusal("version_state", version=version, state=state)
    values = {"sweep": None, "resumes": ""}
    states = [CANARIES, WATCHING, BATCHES, STOPPED, ACTIVE]
    _ask(version, "rollback.version", states, UNDOING, f"Undone by {by}.", by, trail, values)


def why_not_undone(version: PolicyVersion) -> str:
    """What keeps a version from being rolled back, as the words after “is”; empty: nothing, or its state."""
    if version.follows_id is None:
        return "the first one, and nothing was there before it"
    if version.state == VersionState.WAITING:
        return "not started"
    if version.state != ACTIVE:
        return ""
    if not version.steps.exists():
        return "active without stages: change the setting back"
    current = generation.counting()
    if current is not None and current.configuration.content.get("rollout") != "staged":
        return "active, and DEPLOY_REGISTRY_ECR_ROLLOUT is at-once: change the setting back"
    other = _of_registry(version).filter(state__in=[*MOVING, STOPPED]).first()
    if other is not None:
        return f"active, and version {other.number} is {other.state_words}: roll that one back first"
    return ""


def _ask(
    version: PolicyVersion, action: str, states: list[VersionState], state: str, reason: str, by: str, trail: Trail,
    values: dict[str, Any],
) -> None:  # fmt: skip
    version.refresh_from_db()
    before = version.state
    try:
        with trail.change(action, version, before={"state": before}, after={"state": str(state), "reason": reason}):
            if before not in states or not _move(version, state, reason=reason, by=by, **values):
                raise refusal("version_state", version=version, state=version.state_words)
    except IntegrityError:  # another process changed what counts at the same time
        raise refusal("busy", what=str(version)) from None


def _move(version: PolicyVersion, state: str, *, reason: str = "", by: str = OURS, **values: Any) -> bool:
    """Change the state, if it is still the one that was read, with all that belongs to it. False: it is another.

    Raises IntegrityError if the configuration that counts changes at the same time.
    """
    with transaction.atomic():
        same = PolicyVersion.objects.filter(pk=version.pk, state=version.state, stage=version.stage)
        if state == ACTIVE or (state == UNDOING and version.state == ACTIVE):
            _change_active(version, active=state == ACTIVE)
        if not same.update(state=state, reason=reason, changed_at=Now(), changed_by=by[:300], **values):
            transaction.set_rollback(True)
            return False
        if state == UNDOING and version.state == ACTIVE and version.follows is not None:
            PolicyVersion.objects.filter(pk=version.follows.pk).update(state=ACTIVE, reason="", changed_at=Now())
        if state in (STOPPED, UNDOING):
            policy_versions.take_back(version)
        if (version.state, state) not in _SAME_TEXTS:
            generation.activate_again(by=by, reason=f"{version}: {VersionState(state).label.lower()}.")
    write = log.warning if state in (STOPPED, UNDOING) else log.info
    write("policy_version.changed", version=version.number, before=version.state, state=str(state), reason=reason)
    return True


def _change_active(version: PolicyVersion, *, active: bool) -> None:
    """Make room for another active version. What each repository shall have stays the same."""
    same = _of_registry(version)
    if active:  # every repository of ours shall have `version` by now
        ended = {"state": VersionState.SUPERSEDED, "reason": f"Version {version.number} is active."}
        same.filter(state=ACTIVE).update(**ended, changed_at=Now())
        Repository.objects.filter(policy_version__in=same.values("pk")).update(policy_version=None)
    else:
        # The version that waits was compared with this one. `generation.propose_again` proposes its text again.
        ended = {"state": VersionState.SUPERSEDED, "reason": f"Version {version.number} was undone."}
        same.filter(state=VersionState.WAITING).update(**ended, changed_at=Now())
        Repository.objects.filter(pk__in=_written(version).values("repository"), policy_version=None).update(
            policy_version=version
        )


def _of_registry(version: PolicyVersion) -> QuerySet[PolicyVersion]:
    return PolicyVersion.objects.filter(
        account=version.account, region=version.region, namespace=version.namespace
    ).order_by()


# ------------------------------------------------------------------------------------------------------------- facts


def due() -> int:
    """The number of roll-outs that a worker can take a step of."""
    return PolicyVersion.objects.filter(state__in=MOVING).exclude(state=WATCHING, watched_until__gt=Now()).count()


def target_of(version: PolicyVersion, configuration: Configuration) -> Target | None:
    """The configured registry of a version; None: the settings name it no more."""
    for target in targets.configured(configuration):
        place = (target.registry.account, target.registry.region, target.config.namespace)
        if place == (version.account, version.region, version.namespace):
            return target
    return None


def preview(version: PolicyVersion, configuration: Configuration) -> what_if.Rehearsal:
    """What the version would change in each repository, by its last observation. No call to AWS.

    Raises Refusal if the settings do not name the registry of the version.
    """
    target = target_of(version, configuration)
    if target is None:
        raise refusal("version_state", version=version, state="of a registry that the settings do not name")
    return what_if.rehearse(
        text=version.text.text,
        target=target,
        allow_public=configuration.allow_public_policy,
        enforce=configuration.enforce,
    )


def lost_pulls(version: PolicyVersion, target: Target) -> list[tuple[str, str, str]]:
    """(repository, account, verdict) of each account that could pull when the repository's turn came, and cannot now.

    By the policies of the repository and of the registry, as they were last read. The verdict is one of
    `policy.effective` other than yes. Without repositories that are gone, or are not managed any more: from these the
    version took nothing.
    """
    looked_at = version.steps.exclude(state__in=[StepState.PLANNED, StepState.LEFT]).exclude(pulled_before=[])
    registry = registry_policies.seen(account=version.account, region=version.region)
    return [
        (step.repository.name, account, verdict)
        for step in looked_at.filter(repository__management__in=MANAGED).select_related("repository")
        for account, verdict in _verdicts(step.repository, step.pulled_before, target, registry).items()
        if verdict != "yes"
    ]


def _verdicts(
    row: Repository, accounts: Iterable[str], target: Target, registry: policy.RegistryPolicy | None
) -> dict[str, str]:
    """Whether each of these accounts can pull from the repository, as it was last read.

    `registry`: the registry policy; None: it was never read, and the repository policy alone decides.
    """
    found = desired.pullers(
        row.policy_text,
        registry or policy.RegistryPolicy(text=""),
        sorted(set(accounts) - {row.account}),
        arn=target.registry.repository_arn(row.name),
        partition=target.registry.partition,
    )
    return {account: pull.verdict for account, pull in found.items()}


def _written(version: PolicyVersion) -> QuerySet[PolicyStep]:
    """The steps of repositories that the version was written to, and that are not put back."""
    ended = [StepState.UNDONE, StepState.KEPT]
    return PolicyStep.objects.filter(version=version, before__isnull=False).exclude(state__in=ended)


# ------------------------------------------------------------------------------------------------------------- steps


def advance(
    *,
    configuration: Configuration,
    trial: Trial = lambda row, target: "",
    seconds: float = 30.0,
    stopping: Callable[[], bool] = lambda: False,
) -> bool:
    """Take the next step of each roll-out. True if one was taken, so that the next one may be possible.

    It ends soon after `seconds`, or once `stopping` returns true. `configuration` is the process's own. A process that
    cannot use the configuration that counts does nothing. `trial` is called for each canary that was written and read
    back; it may call AWS.
    """
    moved, until = False, time.monotonic() + seconds
    for version in PolicyVersion.objects.filter(state__in=MOVING).select_related("text", "sweep", "follows"):
        try:
            in_force = generation.in_force(configuration)
            target = target_of(version, in_force)
            if target is not None:
                over = lambda: stopping() or time.monotonic() > until  # noqa: E731
                moved = _Step(version, target, in_force, trial, over).take() or moved
        except RegistryError as error:
            _record_wait(version, str(error))
        except IntegrityError:
            moved = True  # another process was faster: look again
    return moved


def _record_wait(version: PolicyVersion, reason: str) -> None:
    """Record why no step can be taken now; one log line for each reason. The reason of an undo stays on its row."""
    rows = PolicyVersion.objects.filter(pk=version.pk, state=version.state).exclude(reason=reason)
    if version.state == UNDOING or rows.update(reason=reason):
        log.warning("policy_version.waits", version=version.number, error=reason)


class _Step:
    """One step of one roll-out."""

    def __init__(
        self,
        version: PolicyVersion,
        target: Target,
        configuration: Configuration,
        trial: Trial,
        over: Callable[[], bool],
    ) -> None:
        self.version, self.target, self.configuration, self.trial = version, target, configuration, trial
        self.over = over
        self.steps = PolicyStep.objects.filter(version=version, stage=version.stage)

    def _same(self) -> QuerySet[PolicyVersion]:
        """The row, if no other process has taken the step."""
        return PolicyVersion.objects.filter(pk=self.version.pk, state=self.version.state, stage=self.version.stage)

    def take(self) -> bool:
        """Take the step. False: it is not possible yet."""
        version = self.version
        if writes_pause.current() is not None:
            return False
        if version.state == UNDOING:
            return self._undo()
        if version.state == WATCHING and version.watched_until is not None and version.watched_until > clock.now():
            return False
        if version.state != WATCHING:
            if not self.steps.exists():
                return self._plan() or _move(version, ACTIVE)
            if self.steps.filter(state=StepState.PLANNED).exists():
                return self._open()
        sweep = version.sweep
        if sweep is None:
            return self._sweep()
        if sweep.status == SweepStatus.RUNNING:
            return False
        if sweep.status != SweepStatus.DONE:
            how = sweep.error or f"Sweep {sweep.pk} was stopped."
            return self._stop(f"The repositories of this stage were not all looked at. {how}")
        if WritesPause.objects.filter(lifted_at__gt=sweep.started_at).exists():
            return bool(self._same().filter(sweep=sweep).update(sweep=None))  # what it could not write is written now
        if reason := self._judge():
            return self._stop(reason)
        return self._next_stage()

    def _next_stage(self) -> bool:
        version = self.version
        if version.state == CANARIES:
            watch = self.configuration.watch if version.pauses else None
            until = Now() if watch is None else Now() + watch
            return _move(version, WATCHING, sweep=None, watched_until=until)
        return _move(version, BATCHES, sweep=None, stage=version.stage + 1)

    # ------------------------------------------------------------------------------------------- the repositories

    def _candidates(self) -> QuerySet[Repository]:
        """The managed repositories that have no step yet, the one that was deployed to least recently first."""
        has_step = Exists(PolicyStep.objects.filter(version=self.version, repository=OuterRef("pk")))
        rows = Repository.objects.filter(~has_step, self.target.rows, management__in=MANAGED)
        return rows.annotate(deployed_at=Max("deployments__created_at")).order_by(
            F("deployed_at").asc(nulls_first=True), "pk"
        )

    def _plan(self) -> bool:
        """Choose the repositories of the stage. False: none is left."""
        rows = self._candidates()
        if self.version.state == CANARIES:
            chosen = list(rows.filter(name__in=self.configuration.canaries)) or list(rows[: _canaries(rows.count())])
        elif self.version.at_once:
            chosen = list(rows)
        else:
            before = PolicyStep.objects.filter(version=self.version, stage=self.version.stage - 1).count()
            chosen = list(rows[: min(max(2 * before, 2), MOST_IN_BATCH)])
        with transaction.atomic():
            # The UPDATE locks the row: of two workers, the second finds the steps of the first.
            if self._same().update(stage=F("stage")) and not self.steps.exists():
                new = [PolicyStep(version=self.version, repository=row, stage=self.version.stage) for row in chosen]
                PolicyStep.objects.bulk_create(new, ignore_conflicts=True)
        return bool(chosen)

    def _open(self) -> bool:
        """Give the version to the repositories whose lease nobody holds. False: all that are left are held."""
        opened = False
        registry = registry_policies.seen(account=self.version.account, region=self.version.region)
        for step in self.steps.filter(state=StepState.PLANNED).select_related("repository"):
            row = step.repository
            if not (row.is_managed and self.target.has(row)):
                opened = self._end(step, StepState.LEFT, "The repository is not managed any more.") or opened
                continue
            if row.policy_version_id == self.version.pk:  # a new one, which got the version when it was created
                opened = self._end(step, StepState.UNCHANGED, "") or opened
                continue
            with transaction.atomic():
                # The UPDATE locks the row: no repository gets the version after a stop or an undo.
                if not self._same().update(stage=F("stage")):
                    return True
                same = Repository.objects.filter(free(), pk=row.pk, lease_epoch=row.lease_epoch)
                if same.update(policy_version=self.version, checked_digest=""):
                    accounts = [*self.target.config.consumer_accounts, *_ACCOUNT.findall(row.policy_text)]
                    verdicts = _verdicts(row, accounts, self.target, registry)
                    pulled = [account for account, verdict in verdicts.items() if verdict == "yes"]
                    PolicyStep.objects.filter(pk=step.pk, state=StepState.PLANNED).update(
                        state=StepState.OPEN, pulled_before=pulled, version_before=row.policy_version_id
                    )
                    opened = True
        return opened

    def _sweep(self) -> bool:
        """Start the sweep of the stage. While the canaries are watched, it only reads them."""
        names = list(self.steps.exclude(state=StepState.LEFT).values_list("repository__name", flat=True))
        with transaction.atomic():
            sweep = sweep_record.start(
                trigger=SweepTrigger.ROLLOUT,
                requested_by=f"roll-out of version {self.version.number}",
                names=names or ["none"],  # an empty list would be all repositories
                dry_run=self.version.state == WATCHING,
            )
            if not self._same().filter(sweep=None).update(sweep=sweep):
                transaction.set_rollback(True)  # another worker was faster
        return True

    def _judge(self) -> str:
        """Record the result of each repository of the stage. Returns why the roll-out stops; empty: it goes on."""
        problems: list[str] = []
        for step in self.steps.exclude(state=StepState.LEFT).select_related("repository", "before"):
            row = step.repository
            if left := _not_written(row, self.version, enforce=self.configuration.enforce):
                self._end(step, StepState.LEFT, left)
            elif problem := _problem(row):
                problems.append(f"{row.name}: {problem}")
            else:
                written = step.before_id is not None
                after = policy_versions.text_row(row.policy_text) if written else None
                self._end(step, StepState.WRITTEN if written else StepState.UNCHANGED, "", after=after)
                if self.version.state == WATCHING and (words := self._tried(row)):
                    problems.append(f"{row.name}: {words}")
        if not self.version.at_once:
            lost: dict[tuple[str, str], list[str]] = {}
            for name, account, verdict in lost_pulls(self.version, self.target):
                if account not in self.version.accepted:
                    lost.setdefault((account, verdict), []).append(name)
            for (account, verdict), names in lost.items():
                now = "cannot pull now" if verdict == "no" else "it is not certain that it can pull now"
                problems.append(f"Account {account} could pull, and {now}: {_named(names)}.")
        more = f" And {len(problems) - NAMED} more." if len(problems) > NAMED else ""
        return " ".join(problems[:NAMED]) + more

    def _tried(self, row: Repository) -> str:
        """Why a trial pull failed; empty: none did. Raises RegistryError if it is to be tried again."""
        try:
            return self.trial(row, self.target)
        except RegistryError as error:
            if error.retryable:
                raise
            return str(error)

    def _end(self, step: PolicyStep, state: StepState, words: str, *, after: Any = None) -> bool:
        """Record the result of a step. A step that was written keeps what was written first."""
        values: dict[str, Any] = {"state": state, "words": words}
        if after is not None and step.after_id is None:
            values |= {"after": after, "written_at": Now()}
        return bool(PolicyStep.objects.filter(pk=step.pk, state=step.state).update(**values))

    def _stop(self, reason: str) -> bool:
        return _move(self.version, STOPPED, reason=reason, resumes=self.version.state)

    # ------------------------------------------------------------------------------------------------- the way back

    def _undo(self) -> bool:
        """Put back the policies, one repository after another. False: other processes hold the leases that are left."""
        done = False
        for step in _written(self.version).select_related("repository", "before", "after"):
            if self.over():
                return done
            done = self._put_back(step) or done
        if done or _written(self.version).exists():
            return done
        # The others shall have the version before again: those that got this one without a write, and new ones.
        rest = Repository.objects.filter(policy_version=self.version)
        before = PolicyStep.objects.filter(version=self.version, repository=OuterRef("pk")).values("version_before")
        rest.filter(free()).update(policy_version=Subquery(before[:1]), checked_digest="")
        # A write that had begun before the undo may have ended since.
        left = rest.exists() or _written(self.version).exists()
        return not left and _move(self.version, VersionState.UNDONE, reason=self.version.reason)

    def _put_back(self, step: PolicyStep) -> bool:
        lease = repositories.claim(step.repository)
        if lease is None:
            return False
        try:
            if lease.activation != self.configuration.activation:
                lease.give_up()
                return False
            since = step.written_at or self.version.started_at
            lost = RepositoryEvent.objects.filter(repository=step.repository_id, kind=EventKind.MISSING, at__gt=since)
            gone = not lease.row.is_managed or lost.exists()
            if not gone:
                ecr = self.target.ecr(before_attempt=lease.require_time, settings={})
                observation = ecr.observe(step.repository.name, details=False)
                gone = not observation.exists
            if gone:
                lease.give_up()
                return self._end(step, StepState.KEPT, _GONE)
            if isinstance(observation.policy, RegistryError):
                raise observation.policy
            live, before = observation.policy or "", step.before.text if step.before is not None else ""
            words = self._why_kept(step, lease.row, live)
            writes = not words and not self._same_access(live, before)
            if writes:
                lease.require_writable()
                message = f"{self.version} was undone: the policy before it was put back."
                RepositoryEvent.objects.create(
                    repository_id=step.repository_id, kind=EventKind.POLICY_APPLIED, message=message,
                    cause=self.version.changed_by[:100], policy_before=live,
                )  # fmt: skip
                ecr.set_policy(step.repository.name, before)
        except RegistryError as error:
            lease.give_up()
            self._end(step, StepState(step.state), str(error))
            log.warning("policy_version.not_put_back", repository=step.repository.name, error=str(error))
            return False
        except BaseException:
            lease.give_up()
            raise
        with transaction.atomic():
            self._end(step, StepState.KEPT if words else StepState.UNDONE, words)
            lease.row.policy_version_id = step.version_before_id
            repositories.record_policy(
                lease=lease,
                config=policy_versions.for_repository(self.target.config, lease.row),
                partition=self.target.registry.partition,
                text=live if words else before,
                cause=self.version.changed_by[:100],
                written=writes,
                also={"policy_version_id": step.version_before_id},
            )
        return True

    def _why_kept(self, step: PolicyStep, row: Repository, live: str) -> str:
        """Why the policy before is not put back, in sentences; empty: it is."""
        before, partition = step.before.text if step.before is not None else "", self.target.registry.partition
        if self._same_access(live, before):
            return ""
        if step.after is not None:
            after = step.after.text
        else:  # the process that wrote it ended before it said so
            services = repositories.trust(row, self.target.config)
            after = desired.policy_beside(self.version.text.text, before, partition=partition, trust=services)
        if not self._same_access(live, after):
            return f"It was changed since. {desired.written_words(after, live, partition=partition)}"
        if not before:
            return "The repository had no policy before. The next sweep writes the version before."
        if not self.configuration.allow_public_policy and policy.openness(before, partition=partition) == "open":
            return "The policy before lets everybody in. The next sweep writes the version before."
        return ""

    def _same_access(self, a: str, b: str) -> bool:
        found = policy.compare(a or None, b or None, partition=self.target.registry.partition)
        return found.level in ("identical", "cosmetic")


def _named(names: list[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more}"


def _canaries(number: int) -> int:
    """How many of so many repositories are canaries: a twentieth, at least one and at most MOST_CANARIES."""
    return max(1, min(MOST_CANARIES, number // 20))


def _not_written(row: Repository, version: PolicyVersion, *, enforce: bool) -> str:
    """Why nothing is written to a repository, which is no reason to stop; empty: it is written to."""
    if not row.is_managed or row.policy_version_id != version.pk:
        return _GONE
    incomparable = next((each for each in row.differences if each.is_incomparable), None)
    if incomparable is not None:
        return incomparable.words
    corrects = repositories.corrects(row, enforce=repositories.effective_enforce(row, enforce, clock.now()))
    if not corrects and _policy_words(row):
        return "The repository is only observed, so its policy was not written."
    return ""


def _policy_words(row: Repository) -> str:
    return " ".join(each.words for each in row.differences if each.part is Part.POLICY)


def _problem(row: Repository) -> str:
    """Why a repository does not have the version although it was looked at; empty: it has it."""
    return row.last_error or _policy_words(row)
