"""Why a node could not pull: the layer at fault, since when, and the next command.

`explain` joins what a message says (`deployments.pull_failures`) with what the rows know, and on request with what AWS
says now, with reads only (`Look`). It writes no row, nothing to AWS, and no line of the log with
the text.

It claims a layer only where the message or an observation shows it. Where several layers remain, `possible` names them,
and the answer says that it cannot be known from here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from deployments import pull_failures
from deployments.aws.partitions import partitions
from deployments.config import Configuration
from deployments.pull_failures import Cause
from deployments.reconcile.why import images, network, permissions
from deployments.reconcile.why.answer import Layer, Look, Step, Why
from deployments.reconcile.why.facts import Case, ask_aws

__all__ = ["Layer", "Look", "Step", "Why", "explain"]


def explain(*, text: str, configuration: Configuration, look: bool = False) -> Why:
    """Why the pull failed that this text is about. The text is at most `pull_failures.MAX_BYTES` long.

    `look`: also ask AWS, if the repository belongs to a configured registry; an error of AWS becomes a fact. Raises
    ConfigurationError if the configuration has problems.
    """
    failure = pull_failures.read(text, partitions())
    case = Case(failure=failure, configuration=configuration)
    case.find()
    if look and case.target is not None and case.failure.repository:
        case.look = ask_aws(case.target, case.failure)
    answer = _ANSWERS[failure.cause](case) if failure.cause else _no_form(case)
    return replace(
        answer,
        facts=(*case.facts(), *answer.facts),
        not_known=(*answer.not_known, *_not_seen(answer, case)),
        repository=case.row,
        deployments=tuple(case.deployments),
        can_look=case.target is not None and bool(case.failure.repository),
        look=case.look,
    )


def _not_seen(answer: Why, case: Case) -> Iterator[str]:
    """What no answer about permissions can know from here."""
    layers = {answer.layer, *answer.possible}
    about_policies = layers & {Layer.REPOSITORY_POLICY, Layer.REGISTRY_POLICY} and case.failure.account
    if about_policies and case.registry is None:
        yield f"The registry policy of account {case.failure.account} was not read."
    if layers & {Layer.IDENTITY, Layer.ORGANIZATION, Layer.REGISTRY_POLICY}:
        yield "IAM policies of the node's role and policies of the AWS organization cannot be seen from here."
    if Layer.NETWORK in layers:
        yield "The network of the node and the policies of its VPC endpoints cannot be seen from here."


def _no_form(case: Case) -> Why:
    return Why(
        failure=case.failure,
        layer=Layer.UNKNOWN,
        certain=False,
        says="The text has no form of message that Registry Admin knows.",
        steps=(
            Step(
                words="Paste the whole line with the reason. ErrImagePull and ImagePullBackOff alone do not have it:",
                command="kubectl describe pod NAME",
            ),
        ),
    )


_ANSWERS: dict[Cause, Callable[[Case], Why]] = {
    Cause.GRANTED_BY_NO_RESOURCE_POLICY: permissions.granted_by_no_resource_policy,
    Cause.DENIED_BY_RESOURCE_POLICY: permissions.denied_by_resource_policy,
    Cause.IDENTITY: permissions.identity,
    Cause.ORGANIZATION: permissions.organization,
    Cause.ENDPOINT_POLICY: permissions.endpoint_policy,
    Cause.REFUSED: permissions.refused,
    Cause.LOG_IN_EXPIRED: permissions.log_in_expired,
    Cause.NO_LOG_IN: permissions.no_log_in,
    Cause.NO_REPOSITORY: images.no_repository,
    Cause.NO_IMAGE: images.no_image,
    Cause.PLATFORM: images.platform,
    Cause.LAYER_STORAGE: network.layer_storage,
    Cause.NO_HOST: network.no_host,
    Cause.CERTIFICATE: network.certificate,
    Cause.NETWORK: network.network,
    Cause.THROTTLED: network.throttled,
}
