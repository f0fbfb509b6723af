"""The next steps of an answer, and the commands in them. Names of a message are quoted for a shell."""

from __future__ import annotations

import shlex

from django.conf import settings

from deployments import policy
from deployments.models import Repository
from deployments.pull_failures import PullFailure
from deployments.reconcile.why.answer import Layer, Step, Why
from deployments.reconcile.why.facts import Case, time_words


def who(failure: PullFailure) -> str:
    """Who asked, as the message names them."""
    return failure.principal or (f"account {failure.caller}" if failure.caller else "the node")


def by_both(case: Case, access: policy.Access) -> str:
    """The verdict of the repository policy and the registry policy together, with the age of the second."""
    at = f" (the registry policy as read {time_words(case.registry_read_at)})" if case.registry_read_at else ""
    return f"By both policies{at}: {access.words}"


def allowing(both: bool) -> str:
    """The policies that allow a pull, as the subject of a sentence."""
    return "the repository policy and the registry policy let" if both else "the repository policy lets"


def agrees(case: Case, answer: policy.Answer) -> str:
    """The verdict of the observed policy, with its time."""
    return f"By the repository policy as seen {time_words(case.seen_at)}: {answer.words}"


def by_policy(case: Case, says: str, *, certain: bool, steps: tuple[Step, ...] = ()) -> Why:
    """An answer that the repository policy refuses. `steps` empty: to write the policy again, and to read it."""
    row = case.row
    if not steps:
        look = Step(words="Read the policy:", command=aws_command(case, "get-repository-policy"))
        steps = (_write_again(case, row), look) if row is not None and row.is_managed else (look,)
    return Why(failure=case.failure, layer=Layer.REPOSITORY_POLICY, certain=certain, says=says, steps=steps)


def _write_again(case: Case, row: Repository) -> Step:
    command = f"{settings.COMMAND} reconcile {shlex.quote(row.name)}"
    default = case.target.config.default_repository_policy if case.target else None
    principal = case.failure.principal or case.failure.caller
    verdict = case.answer(default or "", principal).verdict if principal else "depends"
    if verdict == "yes":
        return Step(words="The default policy allows it. Write the policy again:", command=command)
    if verdict == "no":
        return Step(
            words="The default policy does not allow it either. Add the account of the node to "
            "DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY, restart, and write the policy again:",
            command=command,
        )
    return Step(words="If the default policy allows it, write the policy again:", command=command)


def aws_command(case: Case, operation: str, *more: str, repository: bool = True) -> str:
    """A command of AWS's CLI about the repository. A part that the message does not name is a word in capitals."""
    failure = case.failure
    words = ["aws", "ecr", operation]
    if repository:
        name = failure.repository or "NAME"
        words += ["--registry-id", failure.account or "ACCOUNT"]
        words += ["--repository-names" if operation == "describe-repositories" else "--repository-name", name]
    return shlex.join([*words, *more, "--region", failure.region or "REGION"])


def look_step(case: Case) -> tuple[Step, ...]:
    """The step to ask AWS; none if AWS was asked, or cannot be."""
    if case.look is not None or case.target is None or not case.failure.repository:
        return ()
    return (Step(words="Ask AWS about the repository and the image now:", command=f"{settings.COMMAND} why --look -"),)


def _image_id(case: Case) -> str:
    failure = case.failure
    return f"imageDigest={failure.digest}" if failure.digest else f"imageTag={failure.tag or 'TAG'}"


def image_steps(case: Case) -> tuple[Step, ...]:
    """The steps to look for the image."""
    more = ("--image-ids", _image_id(case), "--filter", "imageStatus=ANY")
    return (Step(words="With AWS's CLI:", command=aws_command(case, "describe-images", *more)), *deploy_again(case))


def deploy_again(case: Case) -> tuple[Step, ...]:
    """The step to get an image that can be pulled."""
    if case.current:
        return (Step(words="The image is current: roll back to a deployment whose image exists, or deploy again."),)
    return (Step(words="Correct the tag or the digest, or deploy again."),)


def restore_command(case: Case) -> str:
    """The command of AWS's CLI that restores the image from the archive."""
    return aws_command(
        case, "update-image-storage-class", "--image-id", _image_id(case), "--target-storage-class", "STANDARD"
    )


def inspect_command(case: Case) -> str:
    """docker's command that shows which platforms the image has."""
    failure = case.failure
    end = f"@{failure.digest}" if failure.digest else f":{failure.tag or 'TAG'}"
    image = f"{failure.host}/{failure.repository}{end}" if failure.host and failure.repository else "IMAGE"
    return shlex.join(["docker", "buildx", "imagetools", "inspect", image])


def full_message(case: Case) -> tuple[Step, ...]:
    """docker shows AWS's reason, which containerd and ECS leave out."""
    host, region = case.failure.host or "HOST", case.failure.region or "REGION"
    pull = shlex.join(["docker", "pull", f"{host}/{case.failure.repository or 'NAME'}:{case.failure.tag or 'TAG'}"])
    return (
        Step(words="docker shows AWS's reason, which containerd and ECS leave out. With the node's role:"),
        Step(words="log in,", command=_docker_log_in(host, region)),
        Step(words="pull, and paste the answer here.", command=pull),
        *look_step(case),
    )


def _docker_log_in(host: str, region: str) -> str:
    log_in = shlex.join(["aws", "ecr", "get-login-password", "--region", region])
    return f"{log_in} | {shlex.join(['docker', 'login', '--username', 'AWS', '--password-stdin', host])}"


def log_in_steps(case: Case) -> tuple[Step, ...]:
    """The steps to log the node in."""
    if case.is_other:
        return (
            Step(words="Log in to the registry again:", command=shlex.join(["docker", "login", case.failure.host])),
        )
    return (
        Step(
            words="docker: log in again, or install the credential helper of ECR.",
            command=_docker_log_in(case.failure.host or "HOST", case.failure.region or "REGION"),
        ),
        Step(words="kubelet: check its credential provider.", command="journalctl -u kubelet | grep -i credential"),
        Step(words="The node's role needs ecr:GetAuthorizationToken in its IAM policy."),
    )


def identity_steps(case: Case) -> tuple[Step, ...]:
    """The steps to correct the node's IAM policy."""
    failure = case.failure
    action = failure.action or "ecr:BatchGetImage"
    role = _role_of(failure)
    resource = (
        f"arn:{failure.partition or 'aws'}:ecr:{failure.region}:{failure.account}:repository/{failure.repository}"
    )
    on = [] if action == "ecr:GetAuthorizationToken" or not failure.repository else ["--resource-arns", resource]
    simulate = ["aws", "iam", "simulate-principal-policy", "--policy-source-arn", role or "ROLE_ARN"]
    return (
        Step(
            words=f"Add {action} to the IAM policy of the role, and check its permissions boundary. A pull needs "
            "ecr:GetAuthorizationToken, ecr:BatchGetImage and ecr:GetDownloadUrlForLayer.",
        ),
        Step(
            words="In the account of the role, AWS says what its policies allow:",
            command=shlex.join([*simulate, "--action-names", action, *on]),
        ),
    )


def _role_of(failure: PullFailure) -> str:
    """The ARN of the role of a session; a role's path is not in it. A user's ARN is its own."""
    kind, _, rest = failure.principal.rpartition(":")[2].partition("/")
    if kind != "assumed-role":
        return failure.principal
    partition = failure.principal.split(":")[1]
    return f"arn:{partition}:iam::{failure.caller}:role/{rest.partition('/')[0]}"


def endpoints(case: Case) -> Step:
    """The step to look at the network and at its VPC endpoints."""
    region = case.failure.region or "REGION"
    services = ",".join(f"com.amazonaws.{region}.{each}" for each in ("ecr.api", "ecr.dkr", "s3"))
    return Step(
        words="Check the route, the security groups and, in a network without internet access, at its endpoints for "
        "ecr.api, ecr.dkr and S3, with their policies:",
        command=shlex.join(
            [
                "aws",
                "ec2",
                "describe-vpc-endpoints",
                "--filters",
                f"Name=service-name,Values={services}",
                "--region",
                region,
            ]
        ),
    )
