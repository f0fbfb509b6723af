"""What is assumed of STS and IAM: sessions, their limits, and the error codes of bad credentials."""

from __future__ import annotations

import secrets
from email.utils import parsedate_to_datetime

from botocore.exceptions import ClientError

from conformance.account import Account, Clients, Keys, document, shown
from conformance.assumptions import NotRun, assumed, expect
from conformance.journal import code_of


@assumed("caller-identity", "sts:GetCallerIdentity", "aws/probes.py identity", makes="")
def caller_identity(aws: Account) -> None:
    """GetCallerIdentity gives account and ARN, and the header Date of its answer is AWS's clock."""
    answer = aws.sts.get_caller_identity()
    expect(answer["Account"] == aws.account and f"::{aws.account}:" in answer["Arn"], shown(answer))
    date = answer["ResponseMetadata"]["HTTPHeaders"].get("date", "")
    try:
        parsedate_to_datetime(date)
    except ValueError:
        expect(False, f"the header Date “{date}”")


@assumed(
    "role-refused",
    "iam:id_roles_create_for-user_externalid",
    "catalogue.py AWS does not say; sandbox/sts.py missing role",
    makes="role",
)
def role_refused(aws: Account) -> None:
    """AssumeRole of a missing role, and with a wrong external id, is AccessDenied: “is not authorized to perform:
    sts:AssumeRole”.
    """
    missing = f"arn:{aws.partition}:iam::{aws.account}:role/{aws.short}-missing"
    request = {"RoleSessionName": "conformance"}
    said = [aws.refused("AccessDenied", lambda: aws.sts.assume_role(RoleArn=missing, **request))]
    role = aws.role(external_id="right")
    aws.assume(role, ExternalId="right")
    wrong = {**request, "RoleArn": role, "ExternalId": "wrong"}
    said.append(aws.refused("AccessDenied", lambda: aws.sts.assume_role(**wrong)))
    expect(all("is not authorized to perform: sts:AssumeRole on resource:" in each for each in said), said)


@assumed(
    "session-limits",
    "sts:AssumeRole",
    "deploys/push_credentials.py SHORTEST_SESSION_SECONDS; deploys/push_credentials.py SESSION_SECONDS",
    makes="role",
)
def session_limits(aws: Account) -> None:
    """A session of less than 900 seconds, of more than the role's maximum, and of more than an hour with another
    session's keys is a ValidationError.
    """
    role = aws.role("ecr:BatchGetImage")
    session = aws.assume(role)

    def code(clients: Clients, seconds: int) -> str:
        try:
            clients("sts").assume_role(RoleArn=role, RoleSessionName="conformance", DurationSeconds=seconds)
        except ClientError as error:
            return code_of(error)
        return "a session"

    expect(aws.until(lambda: code(session, 900) == "a session", seconds=60), "AccessDenied to a second session")
    codes = [code(aws.clients, 899), code(aws.clients, 3601), code(session, 3601)]
    expect(codes == ["ValidationError"] * 3, f"{codes} to 899 seconds, to 3601, and to 3601 with a session's keys")


@assumed(
    "packed-policy",
    "sts:AssumeRole; the limit of the packed form is not documented",
    "deploys/push_credentials.py PackedPolicyTooLarge; sandbox/sts.py PACKED_BYTES",
    makes="role",
)
def packed_policy(aws: Account) -> None:
    """A short session policy has a PackedPolicySize. One that names 18 random repositories, in less than 2,048
    characters, is PackedPolicyTooLarge. One of more characters is a ValidationError.
    """
    role = aws.role("ecr:BatchGetImage")
    aws.assume(role)

    def session(names: list[str], to: int = 0) -> object:
        arns = [f"arn:{aws.partition}:ecr:{aws.region}:{aws.account}:repository/{each}" for each in names]
        policy = document({"Effect": "Allow", "Action": "ecr:BatchGetImage", "Resource": arns}).ljust(to)
        request = {"RoleArn": role, "RoleSessionName": "conformance", "DurationSeconds": 900}
        return aws.sts.assume_role(**request, Policy=policy)["PackedPolicySize"]

    small = session([aws.name])
    expect(isinstance(small, int) and 0 < small <= 100, f"PackedPolicySize {small}")
    random = [secrets.token_hex(20) for _ in range(18)]
    aws.refused("PackedPolicyTooLarge", lambda: session(random))
    aws.refused("ValidationError", lambda: session([aws.name], to=2049))


@assumed(
    "federation-needs-user",
    "sts:GetFederationToken",
    "deploys/push_credentials.py ecr.federate; sandbox/sts.py _only_for_users",
    makes="role",
)
def federation_needs_user(aws: Account) -> None:
    """GetFederationToken with the keys of a session is AccessDenied, also where a policy allows it."""
    session = aws.assume(aws.role("ecr:BatchGetImage"))
    aws.refused("AccessDenied", lambda: session("sts").get_federation_token(Name="conformance"))


@assumed("federated-session", "sts:GetFederationToken", "deploys/push_credentials.py federate", makes="")
def federated_session(aws: Account) -> None:
    """A federated session of an IAM user's keys does what its session policy allows, and nothing else."""
    if ":user/" not in aws.caller:
        raise NotRun("the keys of an IAM user")
    policy = document({"Effect": "Allow", "Action": "ecr:GetAuthorizationToken", "Resource": "*"})
    made = aws.sts.get_federation_token(Name="conformance", DurationSeconds=900, Policy=policy)["Credentials"]
    keys = Keys(access_key=made["AccessKeyId"], secret=made["SecretAccessKey"], token=made["SessionToken"])
    ecr = aws.clients.other(keys)("ecr")
    ecr.get_authorization_token()
    aws.refused("AccessDeniedException", lambda: ecr.describe_repositories(maxResults=1))


@assumed(
    "bad-credentials",
    "docs:STS/latest/APIReference/CommonErrors",
    "catalogue.py UnrecognizedClientException; sandbox/iam.py InvalidClientTokenId",
    makes="role",
)
def bad_credentials(aws: Account) -> None:
    """An unknown key is UnrecognizedClientException of ECR and InvalidClientTokenId of STS; a wrong secret is
    InvalidSignatureException of ECR and SignatureDoesNotMatch of STS.
    """
    unknown = aws.clients.other(Keys(access_key="AKIAIOSFODNN7EXAMPLE", secret="no-secret"))  # noqa: S106
    aws.refused("UnrecognizedClientException", lambda: unknown("ecr").get_authorization_token())
    aws.refused("InvalidClientTokenId", lambda: unknown("sts").get_caller_identity())
    role = aws.role()
    request = {"RoleArn": role, "RoleSessionName": "conformance"}
    made = aws.until(lambda: aws.answers("AccessDenied", lambda: aws.sts.assume_role(**request)), seconds=60)
    if made is None:
        raise NotRun("a caller that may assume a role of its own account")
    real = made["Credentials"]
    wrong = aws.clients.other(
        Keys(access_key=real["AccessKeyId"], secret="wrong", token=real["SessionToken"])  # noqa: S106
    )
    aws.refused("InvalidSignatureException", lambda: wrong("ecr").get_authorization_token())
    aws.refused("SignatureDoesNotMatch", lambda: wrong("sts").get_caller_identity())
