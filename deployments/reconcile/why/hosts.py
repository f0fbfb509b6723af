"""The answer where the image ref names another registry than ours, or no registry."""

from __future__ import annotations

from deployments.reconcile import targets
from deployments.reconcile.why.answer import Layer, Step, Why
from deployments.reconcile.why.facts import Case


def elsewhere(case: Case) -> Why | None:
    """The answer if the image ref names a registry that is not ours; None if the registry is ours or is not named."""
    failure = case.failure
    if case.row is not None or case.target is not None:
        return None
    if case.elsewhere and failure.partition:
        other = case.elsewhere[0]
        return Why(
            failure=failure,
            layer=Layer.WRONG_HOST,
            certain=True,
            says=f"The image ref names account {failure.account} in {failure.region}, but the repository "
            f"{failure.repository} that is known here is in account {other.account}, region {other.region}.",
            steps=(Step(words=f"Use this in the image ref: {other.host}/{other.name}"),),
        )
    configured = {config.host for config in case.configuration.registries}
    if failure.host in configured:
        return None
    if failure.host and not failure.partition:
        return wrong_host(case) if resembles_ecr(failure.host) else _not_ours(case, failure.host)
    if failure.account and failure.region:
        ours = {(each.registry.account, each.registry.region) for each in targets.configured(case.configuration)}
        if (failure.account, failure.region) not in ours:
            return _not_ours(case, f"account {failure.account} in {failure.region}")
    return None


def _not_ours(case: Case, what: str) -> Why:
    return Why(
        failure=case.failure,
        layer=Layer.NOT_OURS,
        certain=True,
        says=f"The image is in the registry {what}, which this installation does not manage.",
        steps=(Step(words="Ask the operator of that registry, or correct the image ref."),),
    )


def resembles_ecr(host: str) -> bool:
    """Whether a host that is no ECR registry looks like one."""
    return ".dkr.ecr" in host or ".dkr-ecr" in host


def wrong_host(case: Case) -> Why:
    """The answer for a host that looks like an ECR registry and is none."""
    known = sorted({config.host for config in case.configuration.registries if config.host})
    return Why(
        failure=case.failure,
        layer=Layer.WRONG_HOST,
        certain=True,
        says=f"{case.failure.host} is not the name of an ECR registry in any AWS partition.",
        steps=(Step(words=f"Correct the host in the image ref. Configured here: {', '.join(known)}."),)
        if known
        else (),
    )
