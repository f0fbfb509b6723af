"""What is assumed of ECR's repositories: creation, lists, tag mutability, AWS tags."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from conformance.account import Account, allow, document, on, shown
from conformance.assumptions import assumed, expect
from conformance.ecr_policies import lifecycle


@assumed("repository-exists", "api:CreateRepository", "aws/ecr.py _existed")
def repository_exists(aws: Account) -> None:
    """CreateRepository of a repository that exists is RepositoryAlreadyExistsException."""
    name = aws.repository()
    aws.refused("RepositoryAlreadyExistsException", lambda: aws.ecr.create_repository(**on(name)))


@assumed("repository-visible", "not documented", "reconcile/repositories.py VISIBLE_SECONDS")
def repository_visible(aws: Account) -> None:
    """Twenty seconds after CreateRepository, ECR finds the repository: its policy can be written and read."""
    name = aws.repository()  # waits for DescribeRepositories
    found = aws.until(
        lambda: aws.answers(
            "RepositoryNotFoundException",
            lambda: aws.ecr.set_repository_policy(**on(name), policyText=document(allow(aws.root))),
        ),
        seconds=20,
    )
    expect(found, "RepositoryNotFoundException to SetRepositoryPolicy for 20 seconds")
    aws.ecr.get_repository_policy(**on(name))


@assumed("repository-missing", "api:GetRepositoryPolicy", "aws/ecr.py _MISSING; pull_failures.py _NAMED", makes="")
def repository_missing(aws: Account) -> None:
    """A read of a missing repository is RepositoryNotFoundException, whose message names it and the registry's id."""
    name, missing = aws.name, "RepositoryNotFoundException"
    message = aws.refused(missing, lambda: aws.ecr.describe_repositories(repositoryNames=[name]))
    wanted = f"The repository with name '{name}' does not exist in the registry with id '{aws.account}'"
    expect(message == wanted, message)
    aws.refused(missing, lambda: aws.ecr.get_repository_policy(**on(name)))
    aws.refused(missing, lambda: aws.ecr.get_lifecycle_policy(**on(name)))
    aws.refused(missing, lambda: aws.ecr.list_tags_for_resource(resourceArn=aws.arn))
    aws.refused(missing, lambda: aws.ecr.describe_images(**on(name)))
    aws.refused(missing, lambda: aws.ecr.batch_get_image(**on(name), imageIds=[{"imageTag": "none"}]))


@assumed("write-to-missing", "not documented", "aws/probes.py _absent", makes="")
def write_to_missing(aws: Account) -> None:
    """A permitted write to a missing repository is RepositoryNotFoundException: so the doctor tries permissions."""
    on_it, missing, policy = on(aws.name), "RepositoryNotFoundException", document(allow(aws.root))
    ecr, tags = aws.ecr, [{"Key": "a", "Value": "b"}]
    aws.refused(missing, lambda: ecr.put_image_tag_mutability(**on_it, imageTagMutability="IMMUTABLE"))
    aws.refused(missing, lambda: ecr.set_repository_policy(**on_it, policyText=policy))
    aws.refused(missing, lambda: ecr.tag_resource(resourceArn=aws.arn, tags=tags))
    rules = {"lifecyclePolicyText": lifecycle()}
    aws.refused(missing, lambda: ecr.put_lifecycle_policy(**on_it, **rules))
    aws.refused(missing, lambda: ecr.start_lifecycle_policy_preview(**on_it, **rules))


@assumed(
    "repository-pages", "api:DescribeRepositories", "aws/ecr.py LISTED_PER_PAGE", makes="repository repository-second"
)
def repository_pages(aws: Account) -> None:
    """DescribeRepositories gives pages of maxResults, up to 1,000, with a nextToken while there is more."""
    aws.repository()
    aws.repository("-second")
    first = aws.ecr.describe_repositories(maxResults=1)
    expect(len(first["repositories"]) == 1 and first.get("nextToken"), shown(first))
    second = aws.ecr.describe_repositories(maxResults=1000, nextToken=first["nextToken"])
    both = [each["repositoryName"] for answer in (first, second) for each in answer["repositories"]]
    expect(len(both) == len(set(both)) > 1, f"{len(both)} names, {len(set(both))} of them different")


@assumed("repository-shown", "api:Repository", "aws/ecr.py _listed; reconcile/repositories.py AWS_CLOCK_SKEW")
def repository_shown(aws: Account) -> None:
    """createdAt is AWS's time of the creation, within 60 seconds of a clock that is set, and stays. The URI has the
    host ACCOUNT.dkr.ecr.REGION. Without other wishes a repository is MUTABLE, and AES256 without a key.
    """
    before, skew = datetime.now(UTC), timedelta(seconds=60)
    name = aws.repository()
    found = aws.describe(name)
    encryption, at = found["encryptionConfiguration"], found["createdAt"]
    host, _, path = found["repositoryUri"].partition("/")
    expect(host.startswith(f"{aws.account}.dkr.ecr.{aws.region}.") and path == name, found["repositoryUri"])
    expect(before - skew <= at <= datetime.now(UTC) + skew, f"createdAt {at}, and here it was {before}")
    expect(aws.describe(name)["createdAt"] == at, "another createdAt at the second look")
    plain = encryption["encryptionType"] == "AES256" and "kmsKey" not in encryption
    expect(plain and found["imageTagMutability"] == "MUTABLE", shown(found))


@assumed("tag-mutability", "api:PutImageTagMutability", "aws/ecr.py put_mutability; sandbox/ecr.py _mutability")
def tag_mutability(aws: Account) -> None:
    """IMMUTABLE_WITH_EXCLUSION comes back with its filters; it is InvalidParameterException without a filter, and with
    three wildcards in one.
    """
    mode = "IMMUTABLE_WITH_EXCLUSION"

    def filters(*texts: str) -> dict[str, Any]:
        return {"imageTagMutabilityExclusionFilters": [{"filterType": "WILDCARD", "filter": each} for each in texts]}

    name = aws.repository(imageTagMutability=mode, **filters("cache", "dev-*"))
    found = aws.describe(name)
    kept = sorted(each["filter"] for each in found["imageTagMutabilityExclusionFilters"])
    expect((found["imageTagMutability"], kept) == (mode, ["cache", "dev-*"]), shown(found))
    put, changed = aws.ecr.put_image_tag_mutability, {**on(name), "imageTagMutability": mode}
    aws.refused("InvalidParameterException", lambda: put(**changed, **filters()))
    aws.refused("InvalidParameterException", lambda: put(**changed, **filters("*a*b*")))


@assumed("aws-tags", "api:TagResource", "aws/ecr.py put_tags; ecr_rules.py reserved")
def aws_tags(aws: Account) -> None:
    """TagResource adds to the tags of the creation; a key that begins with aws: is InvalidTagParameterException, and
    more than 50 tags are TooManyTagsException.
    """
    aws.repository(tags={"first": "1"})
    aws.ecr.tag_resource(resourceArn=aws.arn, tags=[{"Key": "second", "Value": "2"}])
    found = {each["Key"]: each["Value"] for each in aws.ecr.list_tags_for_resource(resourceArn=aws.arn)["tags"]}
    expect(found.items() >= {("first", "1"), ("second", "2")}, found)

    def put(*keys: str) -> object:
        return aws.ecr.tag_resource(resourceArn=aws.arn, tags=[{"Key": key, "Value": ""} for key in keys])

    aws.refused("InvalidTagParameterException", lambda: put("aws:no"))
    aws.refused("TooManyTagsException", lambda: put(*(f"k{each}" for each in range(50))))
