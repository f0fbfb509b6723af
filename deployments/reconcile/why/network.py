"""The answers about the network between the node and the registry, and about throttling."""

from __future__ import annotations

import shlex
from dataclasses import replace

from deployments.reconcile.why import advice, hosts
from deployments.reconcile.why.answer import Layer, Step, Why
from deployments.reconcile.why.facts import Case


def layer_storage(case: Case) -> Why:
    """The storage of the layers did not answer."""
    # ECR User Guide, “Amazon ECR interface VPC endpoints”: the bucket is prod-REGION-starport-layer-bucket.
    return Why(
        failure=case.failure,
        layer=Layer.NETWORK,
        certain=True,
        says="The registry allowed the pull, but Amazon S3, which stores the layers, refused the download. Usually the "
        "policy of the S3 endpoint of the node's network does not allow the bucket of ECR.",
        steps=(advice.endpoints(case),),
    )


def no_host(case: Case) -> Why:
    """The name of the registry has no address."""
    failure = case.failure
    if failure.host and not failure.partition and hosts.resembles_ecr(failure.host):
        return hosts.wrong_host(case)
    return replace(
        network(case),
        says=f"The name {failure.host or 'of the registry'} has no address on the node: its DNS does not answer, or "
        "its network has no private DNS for the endpoint of ECR.",
    )


def certificate(case: Case) -> Why:
    """The node did not trust the registry's certificate."""
    return replace(
        network(case),
        says="The node does not trust the certificate that it was shown. Usually a proxy replaces the certificate, or "
        "the node's list of certificate authorities is too old.",
    )


def network(case: Case) -> Why:
    """The node did not reach the registry."""
    host = case.failure.host
    url = shlex.quote(f"https://{host}/v2/")
    reach = Step(words="From the node:", command=f"curl -sS -o /dev/null -w '%{{http_code}}\\n' {url}")
    return Why(
        failure=case.failure,
        layer=Layer.NETWORK,
        certain=True,
        says=f"The node did not reach {host or 'the registry'}, its API, or the storage of its layers. No policy is at "
        "fault.",
        steps=(*([reach] if host else []), advice.endpoints(case)),
    )


def throttled(case: Case) -> Why:
    """The registry asked for fewer requests."""
    return Why(
        failure=case.failure,
        layer=Layer.THROTTLED,
        certain=True,
        says="The registry asked for fewer requests. The same pull can succeed later.",
        steps=(Step(words="Wait; start fewer nodes at once, or ask AWS for a higher quota of the refused call."),),
    )
