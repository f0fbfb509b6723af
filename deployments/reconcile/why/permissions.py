"""The answers about policies, identities and log-ins."""

from __future__ import annotations

from dataclasses import replace

from deployments import policy
from deployments.reconcile.why import advice, hosts
from deployments.reconcile.why.answer import Layer, Step, Why
from deployments.reconcile.why.facts import Case, allowed_since, refused_since

PULL = ("ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer")


def granted_by_no_resource_policy(case: Case) -> Why:
    """AWS says that no resource policy allows it."""
    if elsewhere := hosts.elsewhere(case):
        return elsewhere
    failure, text = case.failure, case.policy_text
    who = advice.who(failure)
    says = f"AWS says that no resource policy allows {who} to use {failure.action or 'the repository'}."
    if text is None or not failure.caller:
        return advice.by_policy(case, says, certain=True)
    answer = case.answer(text, failure.principal or failure.caller)
    if answer.verdict == "no":
        since, words = refused_since(case)
        return replace(
            advice.by_policy(case, says, certain=True),
            since=since,
            since_words=words,
            facts=(advice.agrees(case, answer),),
        )
    if answer.verdict == "yes":
        since, words = allowed_since(case)
        says += " The policy that was seen last allows it, so another policy was in force when the node asked."
        return replace(
            advice.by_policy(
                case, says, certain=True, steps=(Step(words="Let the node try again."), *advice.look_step(case))
            ),
            since=since,
            since_words=words,
            facts=(advice.agrees(case, answer),),
        )
    return replace(advice.by_policy(case, says, certain=True), facts=(advice.agrees(case, answer),))


def denied_by_resource_policy(case: Case) -> Why:
    """AWS says that a resource policy denies it."""
    if elsewhere := hosts.elsewhere(case):
        return elsewhere
    failure, text = case.failure, case.policy_text
    says = f"AWS says that a resource policy explicitly denies {failure.action or 'the pull'} to {advice.who(failure)}."
    if text is None or not failure.caller:
        return replace(advice.by_policy(case, says, certain=False), possible=(Layer.REGISTRY_POLICY,))
    answer = case.answer(text, failure.principal or failure.caller)
    if answer.denied:  # a “no” can also be that of an Allow, which an address keeps from applying
        since, words = refused_since(case)
        return replace(
            advice.by_policy(case, says, certain=True),
            since=since,
            since_words=words,
            facts=(advice.agrees(case, answer),),
        )
    if answer.verdict == "depends":
        return replace(
            advice.by_policy(case, says, certain=False),
            possible=(Layer.REGISTRY_POLICY,),
            facts=(advice.agrees(case, answer),),
        )
    access = case.access(failure.principal or failure.caller)
    if access.verdict == "no" and access.layer == policy.REGISTRY:
        return replace(
            _by_registry_policy(case, says, certain=True),
            facts=(advice.agrees(case, answer), advice.by_both(case, access)),
        )
    return replace(
        _by_registry_policy(
            case,
            f"{says} The repository policy that was seen last has no such Deny, so it is in the registry policy, or "
            "the repository policy was changed.",
            certain=False,
        ),
        possible=(Layer.REPOSITORY_POLICY,),
        facts=(advice.agrees(case, answer),),
    )


def _by_registry_policy(case: Case, says: str, *, certain: bool) -> Why:
    read = Step(
        words="Read the registry policy:", command=advice.aws_command(case, "get-registry-policy", repository=False)
    )
    return Why(
        failure=case.failure,
        layer=Layer.REGISTRY_POLICY,
        certain=certain,
        says=says,
        steps=(read, *advice.look_step(case)),
    )


def refused(case: Case) -> Why:
    """403 without the kind of policy: the observed repository policy decides what can be said."""
    if elsewhere := hosts.elsewhere(case):
        return elsewhere
    failure, text = case.failure, case.policy_text
    if case.is_other:
        return replace(
            no_log_in(case), says=f"The registry {failure.host} refused the log-in of the node.", possible=()
        )
    others: tuple[Layer, ...] = (Layer.REGISTRY_POLICY, Layer.IDENTITY, Layer.ORGANIZATION, Layer.LOG_IN, Layer.NETWORK)
    unknown = Why(
        failure=failure,
        layer=Layer.UNKNOWN,
        certain=False,
        possible=(Layer.REPOSITORY_POLICY, *others),
        says="The registry refused the pull, and the message does not say why.",
        steps=advice.full_message(case),
    )
    if text is None:
        return unknown
    consumers = case.target.config.consumer_accounts if case.target else ()
    callers = [failure.principal or failure.caller] if failure.caller else consumers
    answers = {caller: case.answer(text, caller) for caller in callers}
    facts = tuple(advice.agrees(case, answer) for answer in answers.values())
    verdicts = {answer.verdict for answer in answers.values()}
    both = [case.access(caller) for caller in callers] if failure.action in ("", *PULL) else []
    facts += tuple(advice.by_both(case, access) for access in both if access.layer == policy.REGISTRY)
    if both and all(access.verdict == "no" and access.layer == policy.REGISTRY for access in both):
        who = advice.who(failure) if failure.caller else "the configured consumer accounts"
        says = f"The registry refused the pull, and the registry policy denies it to {who}."
        return replace(
            _by_registry_policy(case, says, certain=bool(failure.caller)),
            facts=facts,
            possible=() if failure.caller else (Layer.REPOSITORY_POLICY, *others[1:]),
        )
    allowed = bool(both) and all(access.verdict == "yes" for access in both)
    if allowed:
        others = others[1:]  # both policies were read, and together they allow the pull
    own = failure.caller == failure.account != ""
    if own and all(answer.statement is None for answer in answers.values()):
        return replace(
            unknown,
            layer=Layer.IDENTITY,
            possible=(Layer.REGISTRY_POLICY, Layer.ORGANIZATION, Layer.NETWORK),
            says="The node's role is of the registry's own account, which needs no repository policy: its own IAM "
            "policy has to allow the pull.",
            steps=advice.identity_steps(case),
        )
    if verdicts == {"no"} and not allowed:
        since, words = refused_since(case)
        who = advice.who(failure) if failure.caller else "the configured consumer accounts"
        says = f"The registry refused the pull, and the repository policy does not let {who} pull."
        return replace(
            advice.by_policy(case, says, certain=bool(failure.caller)),
            facts=facts, since=since, since_words=words, possible=() if failure.caller else others,
        )  # fmt: skip
    if verdicts == {"yes"} or allowed:
        who = advice.who(failure) if failure.caller else "each configured consumer account"
        return replace(
            unknown,
            possible=others if failure.caller else (*others, Layer.REPOSITORY_POLICY),
            facts=facts,
            says=f"The registry refused the pull, but {advice.allowing(allowed)} {who} pull. Another layer refused it; "
            "the message does not say which one."
            + ("" if failure.caller else " A node of another account is refused by the repository policy."),
        )
    return replace(unknown, facts=facts)


def identity(case: Case) -> Why:
    """AWS says that the node's identity is not allowed to do it."""
    failure = case.failure
    return Why(
        failure=failure,
        layer=Layer.IDENTITY,
        certain=True,
        says=f"The IAM side of {advice.who(failure)} does not allow {failure.action or 'the pull'}. "
        "A repository policy cannot correct this.",
        steps=advice.identity_steps(case),
    )


def organization(case: Case) -> Why:
    """AWS says that a policy of the organization denies it."""
    return Why(
        failure=case.failure,
        layer=Layer.ORGANIZATION,
        certain=True,
        says="A service control policy or a resource control policy of the AWS organization refuses the request.",
        steps=(Step(words="Ask the administrators of the AWS organization; the message names the kind of policy."),),
    )


def endpoint_policy(case: Case) -> Why:
    """AWS says that the policy of a VPC endpoint does not allow it."""
    return Why(
        failure=case.failure,
        layer=Layer.NETWORK,
        certain=True,
        says="The policy of the VPC endpoint that the node uses refuses the request.",
        steps=(advice.endpoints(case),),
    )


def log_in_expired(case: Case) -> Why:
    """The log-in of the node has expired."""
    # GetAuthorizationToken: “The authorization token is valid for 12 hours.”
    return Why(
        failure=case.failure,
        layer=Layer.LOG_IN,
        certain=True,
        says="The log-in that the node sent has expired: a log-in for ECR is valid for 12 hours.",
        steps=advice.log_in_steps(case),
    )


def no_log_in(case: Case) -> Why:
    """The node sent no log-in."""
    return Why(
        failure=case.failure,
        layer=Layer.LOG_IN,
        certain=False,
        possible=(Layer.IDENTITY,),
        says="The node sent no log-in that the registry knows. Its credential provider is missing or failed, or its "
        "role may not get a log-in (ecr:GetAuthorizationToken).",
        steps=advice.log_in_steps(case),
    )
