"""The answers about a repository, an image or a platform that is not there."""

from __future__ import annotations

from dataclasses import replace

from deployments.errors import RegistryError
from deployments.models import EventKind, RepositoryStatus
from deployments.reconcile.why import advice, hosts
from deployments.reconcile.why.answer import Layer, Step, Why
from deployments.reconcile.why.facts import Case


def no_repository(case: Case) -> Why:
    """The registry says that there is no such repository."""
    if elsewhere := hosts.elsewhere(case):
        return elsewhere
    failure, row = case.failure, case.row
    says = f"The registry has no repository {failure.repository or 'of this name'}."
    if row is not None and row.status == RepositoryStatus.MISSING:
        event = row.events.filter(kind=EventKind.MISSING).first()
        return Why(
            failure=failure, layer=Layer.NO_IMAGE, certain=True, says=says,
            since=event.at if event else None,
            since_words="A check found then that it was deleted." if event else "",
            steps=(Step(words="The next deploy recreates the repository, without its images. Deploy again."),),
        )  # fmt: skip
    if case.look is not None and case.look.exists:
        return Why(
            failure=failure,
            layer=Layer.UNKNOWN,
            certain=False,
            possible=(Layer.WRONG_HOST,),
            says=f"The registry has the repository {failure.repository} now. It was made after the node asked.",
            steps=(Step(words="Let the node try again."),),
        )
    steps = (
        (Step(words="List the repositories:", command=advice.aws_command(case, "describe-repositories")),)
        if failure.account
        else ()
    )
    return Why(failure=failure, layer=Layer.NO_IMAGE, certain=True, says=says, steps=(*steps, *advice.look_step(case)))


def no_image(case: Case) -> Why:
    """The registry says that there is no such image."""
    if elsewhere := hosts.elsewhere(case):
        return elsewhere
    failure, look = case.failure, case.look
    what = failure.digest or (f"the tag {failure.tag}" if failure.tag else "this image")
    why = Why(
        failure=failure,
        layer=Layer.NO_IMAGE,
        certain=False,
        possible=(Layer.ARCHIVED,),
        says=f"The registry does not give out {what}: it does not exist, or it is archived. AWS answers both alike.",
        steps=advice.image_steps(case),
    )
    if case.is_other:
        says = f"The registry {failure.host} does not have {what}."
        return replace(why, certain=True, possible=(), says=says, steps=advice.deploy_again(case))
    if look is None or not look.asked_for_image or isinstance(look.image, RegistryError):
        return replace(why, steps=(*advice.look_step(case), *why.steps))
    if look.image is None:
        return replace(
            why, certain=True, possible=(), says=f"The registry does not have {what}.", steps=advice.deploy_again(case)
        )
    if look.image.status == "ACTIVATING":
        says = f"The image {what} is being restored from the archive of ECR. Until it is active, nothing can pull it."
        again = (Step(words="Let the node try again later."),)
        return replace(why, layer=Layer.ARCHIVED, certain=True, possible=(), says=says, steps=again)
    if look.image.status != "ACTIVE":
        page = "on the page of the repository's images, or " if case.row else ""
        step = Step(words=f"Restore it {page}with AWS's CLI (up to 20 minutes):", command=advice.restore_command(case))
        return replace(
            why, layer=Layer.ARCHIVED, certain=True, possible=(), since=look.image.archived_at,
            since_words="It was archived then." if look.image.archived_at else "",
            says=f"The image {what} is in the archive of ECR ({look.image.status}), from which nothing can be pulled.",
            steps=(step,),
        )  # fmt: skip
    return replace(
        why,
        layer=Layer.UNKNOWN,
        possible=(Layer.WRONG_HOST,),
        says=f"The registry has {what} now. It came after the node asked, or the node asked a mirror.",
        steps=(Step(words="Let the node try again."),),
    )


def platform(case: Case) -> Why:
    """The image has no platform that the node can run."""
    wanted = case.failure.platform
    facts = tuple(
        f"Deployment {row.version} was built for {row.image_platform}."
        for row in case.deployments
        if row.image_platform
    )
    return Why(
        failure=case.failure,
        layer=Layer.PLATFORM,
        certain=True,
        says=f"The image exists, but has no variant for {wanted or 'the platform of the node'}.",
        facts=facts,
        steps=(
            Step(words="Compare the platforms of the image with the node's:", command=advice.inspect_command(case)),
            Step(
                words="Build for the node's platform (docker buildx build --platform), or use a node of another type."
            ),
        ),
    )
