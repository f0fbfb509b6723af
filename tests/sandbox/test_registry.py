"""The data plane: real pushes and pulls, decided by the same policies as the control plane."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import urllib.request
from pathlib import Path
from typing import Any

import oras.client
import pytest

from sandbox import images
from sandbox.control import Sandbox
from tests.sandbox.asking import CLUSTER, HOST, OWNER, PULL, keys, policy, receive, refused, statement


def denied(status: int, act: Any) -> images.RegistryError:
    with pytest.raises(images.RegistryError) as caught:
        act()
    assert caught.value.status == status, str(caught.value)
    return caught.value


def test_an_image_that_was_pushed_is_the_image_that_ecr_shows(sandbox: Sandbox, ecr: Any, repository: str) -> None:
    image = images.build()
    digest = images.push(image, sandbox.url, *sandbox.login(), repository, "v1")

    (shown,) = ecr.describe_images(repositoryName=repository)["imageDetails"]
    (got,) = ecr.batch_get_image(repositoryName=repository, imageIds=[{"imageTag": "v1"}])["images"]

    assert shown["imageDigest"] == digest == image.digest
    assert shown["imageTags"] == ["v1"]
    assert shown["imageManifestMediaType"] == images.MANIFEST
    assert shown["imageSizeInBytes"] == sum(len(blob.content) for blob in image.blobs)
    assert got["imageManifest"].encode() == image.manifest.content
    assert images.pull(sandbox.url, *sandbox.login(), repository, "v1") == image


def test_the_cluster_account_is_refused_before_the_policy_and_served_after(
    sandbox: Sandbox, ecr: Any, repository: str
) -> None:
    image = images.build()
    images.push(image, sandbox.url, *sandbox.login(), repository, "v1")
    login = sandbox.login("cluster")

    def pull() -> images.Image:
        return images.pull(sandbox.url, *login, repository, "v1", registry=HOST)

    denied(403, pull)
    ecr.set_repository_policy(repositoryName=repository, policyText=policy())
    assert pull() == image
    ecr.delete_repository_policy(repositoryName=repository)
    denied(403, pull)


def test_a_manifest_without_its_layers_is_half_a_grant(sandbox: Sandbox, ecr: Any, repository: str) -> None:
    images.push(images.build(), sandbox.url, *sandbox.login(), repository, "v1")
    ecr.set_repository_policy(repositoryName=repository, policyText=policy(statement(action=PULL[0])))

    refusal = denied(403, lambda: images.pull(sandbox.url, *sandbox.login("cluster"), repository, "v1", registry=HOST))

    assert refusal.code == "DENIED"
    assert "ecr:GetDownloadUrlForLayer" in refusal.message


def test_a_grant_to_pull_is_no_grant_to_push(sandbox: Sandbox, ecr: Any, repository: str) -> None:
    ecr.set_repository_policy(repositoryName=repository, policyText=policy())

    refusal = denied(
        403,
        lambda: images.push(images.build(), sandbox.url, *sandbox.login("cluster"), repository, "v1", registry=HOST),
    )

    assert "ecr:InitiateLayerUpload" in refusal.message


@pytest.mark.parametrize("way", ["path", "ns", "header", "host"])
def test_a_client_can_name_the_registry_it_means(sandbox: Sandbox, ecr: Any, repository: str, way: str) -> None:
    images.push(images.build(), sandbox.url, *sandbox.login(), repository, "v1")
    ecr.set_repository_policy(repositoryName=repository, policyText=policy())
    path, headers = f"/v2/{repository}/manifests/v1", {}
    match way:
        case "path":
            path = f"/v2/{HOST}/{repository}/manifests/v1"
        case "ns":
            path += f"?ns={HOST}"
        case "header":
            headers = {"X-Sandbox-Registry": HOST}
        case "host":
            headers = {"Host": HOST}

    with images.RegistryClient(sandbox.url, *sandbox.login("cluster")) as client:
        assert client.request("GET", path, headers=headers)[0] == 200
        # Without a name it is the caller's own registry, and there is no such repository.
        denied(404, lambda: client.request("GET", f"/v2/{repository}/manifests/v1"))


def test_a_client_without_a_token_is_asked_for_one(sandbox: Sandbox) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", sandbox.port, timeout=5)
    connection.request("GET", "/v2/")
    response = connection.getresponse()
    response.read()
    connection.close()

    assert response.status == 401
    assert (response.getheader("WWW-Authenticate") or "").startswith("Basic realm=")
    denied(401, lambda: images.pull(sandbox.url, "AWS", "made up", "trigger/shop", "v1"))


def test_a_token_is_over_after_twelve_hours(sandbox: Sandbox, repository: str) -> None:
    login = sandbox.login()
    images.push(images.build(), sandbox.url, *login, repository, "v1")

    sandbox.advance(12 * 3600 + 1)

    refusal = denied(403, lambda: images.push(images.build(), sandbox.url, *login, repository, "v2"))
    assert "expired" in refusal.message or refusal.message == "Forbidden"


def test_nothing_is_pushed_to_a_repository_that_is_not_there(sandbox: Sandbox) -> None:
    with images.RegistryClient(sandbox.url, *sandbox.login()) as client:
        refusal = denied(404, lambda: client.request("POST", "/v2/trigger/nowhere/blobs/uploads/"))

    assert refusal.code == "NAME_UNKNOWN"
    assert OWNER in refusal.message


def test_an_immutable_tag_stays_and_an_excluded_one_moves(sandbox: Sandbox, ecr: Any, repository: str) -> None:
    ecr.put_image_tag_mutability(
        repositoryName=repository,
        imageTagMutability="IMMUTABLE_WITH_EXCLUSION",
        imageTagMutabilityExclusionFilters=[{"filterType": "WILDCARD", "filter": "cache*"}],
    )
    login = sandbox.login()
    first, second = images.build("one"), images.build("two")
    for tag in ("v1", "cache-1"):
        images.push(first, sandbox.url, *login, repository, tag)

    images.push(second, sandbox.url, *login, repository, "cache-1")
    images.push(second, sandbox.url, *login, repository, "cache-1")  # the same again is no change
    for image in (first, second):  # but not under an immutable tag
        with pytest.raises(images.RegistryError) as caught:
            images.push(image, sandbox.url, *login, repository, "v1")
        assert (caught.value.status, caught.value.code) == (400, "TAG_INVALID")
        assert caught.value.message == (
            f"The image tag 'v1' already exists in the '{repository}' repository and cannot be overwritten because "
            "the tag is immutable."
        )
    assert images.pull(sandbox.url, *login, repository, "v1").digest == first.digest
    assert images.pull(sandbox.url, *login, repository, "cache-1").digest == second.digest


@pytest.mark.parametrize(
    ("mode", "moves"), [("MUTABLE", True), ("IMMUTABLE", False), ("MUTABLE_WITH_EXCLUSION", False)]
)
def test_the_other_modes_of_mutability(sandbox: Sandbox, ecr: Any, repository: str, mode: str, moves: bool) -> None:
    filters = [{"filterType": "WILDCARD", "filter": "v*"}] if mode.endswith("EXCLUSION") else []
    more = {"imageTagMutabilityExclusionFilters": filters} if filters else {}
    ecr.put_image_tag_mutability(repositoryName=repository, imageTagMutability=mode, **more)
    login = sandbox.login()
    images.push(images.build("one"), sandbox.url, *login, repository, "v1")

    def move() -> None:
        images.push(images.build("two"), sandbox.url, *login, repository, "v1")

    if moves:
        move()
    else:
        denied(400, move)


def test_content_that_is_not_its_digest_is_refused(sandbox: Sandbox, repository: str) -> None:
    with images.RegistryClient(sandbox.url, *sandbox.login()) as client:
        where = client.request("POST", f"/v2/{repository}/blobs/uploads/")[1]["location"]
        wrong = "sha256:" + "0" * 64
        refusal = denied(400, lambda: client.request("PUT", f"{where}?digest={wrong}", b"x"))
        assert refusal.code == "BLOB_UPLOAD_INVALID"
        assert refusal.message == "None of the provided layer digests match the calculated layer digest"
        manifest = images.build().manifest
        path = f"/v2/{repository}/manifests/"
        refusal = denied(404, lambda: client.request("PUT", path + "v1", manifest.content))
        assert refusal.code == "BLOB_UPLOAD_UNKNOWN"
        assert f"required for pushing image into repository with name '{repository}'" in refusal.message
        refusal = denied(405, lambda: client.request("PUT", path + "v1", b"not json"))
        assert refusal.code == "UNSUPPORTED"
        assert refusal.message.endswith("'ImageManifest' failed to satisfy constraint: 'Invalid JSON syntax'")


def test_an_index_comes_back_with_its_platforms(sandbox: Sandbox, ecr: Any, repository: str) -> None:
    index = images.build_index()
    login = sandbox.login()
    with images.RegistryClient(sandbox.url, *login) as client:
        denied(
            404,
            lambda: client.request(
                "PUT", f"/v2/{repository}/manifests/v1", index.manifest.content, {"Content-Type": images.INDEX}
            ),
        )
    images.push(index, sandbox.url, *login, repository, "v1")

    assert images.pull(sandbox.url, *login, repository, "v1") == index
    listed = ecr.list_images(repositoryName=repository, filter={"tagStatus": "UNTAGGED"})["imageIds"]
    assert sorted(each["imageDigest"] for each in listed) == sorted(image.digest for image in index.images)
    failures = ecr.batch_delete_image(repositoryName=repository, imageIds=[{"imageDigest": index.images[0].digest}])[
        "failures"
    ]
    assert failures[0]["failureCode"] == "ImageReferencedByManifestList"


def test_ecrs_own_way_to_a_layer_leads_to_the_same_bytes(sandbox: Sandbox, ecr: Any, repository: str) -> None:
    image = images.build()
    config, layer = image.blobs
    images.push(image, sandbox.url, *sandbox.login(), repository, "v1")

    found = ecr.batch_check_layer_availability(
        repositoryName=repository, layerDigests=[layer.digest, "sha256:" + "0" * 64]
    )["layers"]
    url = ecr.get_download_url_for_layer(repositoryName=repository, layerDigest=config.digest)["downloadUrl"]

    assert [each["layerAvailability"] for each in found] == ["AVAILABLE", "UNAVAILABLE"]
    with urllib.request.urlopen(url, timeout=5) as response:
        assert response.read() == config.content


def test_an_image_can_be_put_through_the_control_plane(sandbox: Sandbox, ecr: Any, repository: str) -> None:
    image = images.build()
    for blob in image.blobs:
        upload = ecr.initiate_layer_upload(repositoryName=repository)["uploadId"]
        ecr.upload_layer_part(
            repositoryName=repository,
            uploadId=upload,
            partFirstByte=0,
            partLastByte=len(blob.content) - 1,
            layerPartBlob=blob.content,
        )
        ecr.complete_layer_upload(repositoryName=repository, uploadId=upload, layerDigests=[blob.digest])
    text = image.manifest.content.decode()
    ecr.put_image(repositoryName=repository, imageManifest=text, imageTag="v1")

    assert images.pull(sandbox.url, *sandbox.login(), repository, "v1") == image
    with refused("ImageAlreadyExistsException"):
        ecr.put_image(repositoryName=repository, imageManifest=text, imageTag="v1")


def test_an_image_that_is_gone_is_gone_everywhere(sandbox: Sandbox, ecr: Any, repository: str) -> None:
    images.push(images.build(), sandbox.url, *sandbox.login(), repository, "v1")
    ecr.batch_delete_image(repositoryName=repository, imageIds=[{"imageTag": "v1"}])

    denied(404, lambda: images.pull(sandbox.url, *sandbox.login(), repository, "v1"))
    with refused("ImageNotFoundException"):
        ecr.describe_images(repositoryName=repository, imageIds=[{"imageTag": "v1"}])
    answer = ecr.batch_get_image(repositoryName=repository, imageIds=[{"imageTag": "v1"}, {}])
    assert [each["failureCode"] for each in answer["failures"]] == ["ImageNotFound", "MissingDigestAndTag"]


def test_a_docker_zstd_layer_keeps_its_type(sandbox: Sandbox, repository: str) -> None:
    image = images.build_docker_zstd()
    images.push(image, sandbox.url, *sandbox.login(), repository, "v1")

    manifest = json.loads(images.pull(sandbox.url, *sandbox.login(), repository, "v1").manifest.content)

    assert manifest["layers"][0]["mediaType"] == images.DOCKER_ZSTD_LAYER


def test_our_own_client_looks_at_what_it_gets(sandbox: Sandbox, repository: str) -> None:
    """The demo says "pulled, digests verified": so they are."""
    image = images.build()
    images.push(image, sandbox.url, *sandbox.login(), repository, "v1")

    class Tampered(images.RegistryClient):
        def request(self, method: str, path: str, *rest: Any, **more: Any) -> Any:
            status, headers, content = super().request(method, path, *rest, **more)
            return status, headers, content[:-1] + b"!" if "/blobs/" in path else content

    with Tampered(sandbox.url, *sandbox.login()) as client, pytest.raises(ValueError, match="digest"):
        client.pull(repository, "v1")


@pytest.mark.costly
def test_oras_pushes_and_pulls(
    sandbox: Sandbox, ecr: Any, repository: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that we did not write: it probes, chunks and names things its own way."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.chdir(tmp_path)
    Path("hello.txt").write_text("hello")
    host = f"127.0.0.1:{sandbox.port}"

    def client(account: Any) -> oras.client.OrasClient:
        found = oras.client.OrasClient(insecure=True, hostname=host, auth_backend="basic")
        found.auth.set_basic_auth(*sandbox.login(account))
        return found

    client("owner").push(target=f"{host}/{repository}:v1", files=["hello.txt"])
    (shown,) = ecr.describe_images(repositoryName=repository)["imageDetails"]
    assert shown["imageTags"] == ["v1"]

    foreign = f"{host}/{HOST}/{repository}:v1"
    with pytest.raises(ValueError, match="Forbidden"):
        client("cluster").pull(target=foreign, outdir=str(tmp_path / "out"))
    ecr.set_repository_policy(repositoryName=repository, policyText=policy(statement(CLUSTER)))
    (pulled,) = client("cluster").pull(target=foreign, outdir=str(tmp_path / "out"))
    assert Path(pulled).read_text() == "hello"


def test_a_password_is_not_a_credential_of_anyone_else(sandbox: Sandbox) -> None:
    data = sandbox.client("ecr").get_authorization_token()["authorizationData"][0]
    user, _, password = base64.b64decode(data["authorizationToken"]).decode().partition(":")
    assert user == "AWS"

    with images.RegistryClient(sandbox.url, "root", password) as client:
        denied(401, lambda: client.request("GET", "/v2/"))
    with images.RegistryClient(sandbox.url, "AWS", password[:-8] + "AAAAAAAA") as client:
        denied(401, lambda: client.request("GET", "/v2/"))


# -- deletions, referrers, pages of tags -----------------------------------------------------------------------------


@pytest.mark.costly
def test_a_manifest_is_deleted_by_digest_and_a_tag_by_its_name(sandbox: Sandbox, ecr: Any, repository: str) -> None:
    login, image, index = sandbox.login(), images.build(), images.build_index("many")
    with images.RegistryClient(sandbox.url, *login) as client:
        for tag in ("v1", "v2"):
            client.push(image, repository, tag)
        client.push(index, repository, "many")

        def delete(reference: str) -> int:
            return client.request("DELETE", f"/v2/{repository}/manifests/{reference}")[0]

        assert delete("v1") == 202
        assert images.pull(sandbox.url, *login, repository, "v2") == image
        assert delete(image.digest) == 202
        denied(404, lambda: images.pull(sandbox.url, *login, repository, "v2"))
        assert denied(404, lambda: delete(image.digest)).code == "MANIFEST_UNKNOWN"
        assert "referenced by manifest list" in denied(400, lambda: delete(index.images[0].digest)).message
        ecr.set_repository_policy(repositoryName=repository, policyText=policy())
    with images.RegistryClient(sandbox.url, *sandbox.login("cluster"), registry=HOST) as client:
        path = f"/v2/{HOST}/{repository}/manifests/{index.digest}"
        assert "ecr:BatchDeleteImage" in denied(403, lambda: client.request("DELETE", path)).message


def signature_of(subject: images.Image, kind: str = "application/vnd.example.signature") -> images.Image:
    """A referrer: a manifest without layers whose subject is this image."""
    config = images.Blob(media_type="application/vnd.oci.empty.v1+json", content=b"{}")
    manifest = {
        "schemaVersion": 2,
        "mediaType": images.MANIFEST,
        "artifactType": kind,
        "config": config.descriptor,
        "layers": [config.descriptor],
        "subject": subject.manifest.descriptor,
        "annotations": {"made-by": "a test"},
    }
    content = json.dumps(manifest).encode()
    return images.Image(manifest=images.Blob(media_type=images.MANIFEST, content=content), blobs=(config,))


def test_the_referrers_of_an_image_are_listed_on_both_planes(sandbox: Sandbox, ecr: Any, repository: str) -> None:
    image = images.build()
    signature, bill = signature_of(image), signature_of(image, "application/spdx+json")
    with images.RegistryClient(sandbox.url, *sandbox.login()) as client:
        client.push(image, repository, "v1")
        client.push(signature, repository)
        client.push_blob(bill.blobs[0], repository)
        path = f"/v2/{repository}/manifests/{bill.digest}"
        put = client.request("PUT", path, bill.manifest.content, {"Content-Type": images.MANIFEST})
        assert put[1]["oci-subject"] == image.digest
        listed = json.loads(client.request("GET", f"/v2/{repository}/referrers/{image.digest}")[2])
        assert listed["mediaType"] == images.INDEX
        assert {each["digest"] for each in listed["manifests"]} == {signature.digest, bill.digest}
        found = client.request("GET", f"/v2/{repository}/referrers/{image.digest}?artifactType=application/spdx%2Bjson")
        (only,) = json.loads(found[2])["manifests"]
        assert (only["digest"], only["annotations"]) == (bill.digest, {"made-by": "a test"})
        assert found[1]["oci-filters-applied"] == "artifactType"
        nothing = client.request("GET", f"/v2/{repository}/referrers/sha256:{'0' * 64}")
        assert json.loads(nothing[2])["manifests"] == []

    subject = {"imageDigest": image.digest}
    pages = ecr.list_image_referrers(repositoryName=repository, subjectId=subject, maxResults=1)
    rest = ecr.list_image_referrers(repositoryName=repository, subjectId=subject, nextToken=pages["nextToken"])
    assert {each["digest"] for each in pages["referrers"] + rest["referrers"]} == {signature.digest, bill.digest}
    chosen = {"artifactTypes": ["application/spdx+json"]}
    (only,) = ecr.list_image_referrers(repositoryName=repository, subjectId=subject, filter=chosen)["referrers"]
    assert (only["digest"], only["artifactStatus"]) == (bill.digest, "ACTIVE")
    (detail,) = ecr.describe_images(repositoryName=repository, imageIds=[{"imageDigest": bill.digest}])["imageDetails"]
    assert (detail["subjectManifestDigest"], detail["artifactMediaType"]) == (image.digest, "application/spdx+json")


def test_who_may_pull_an_image_may_list_its_referrers(sandbox: Sandbox, ecr: Any, repository: str) -> None:
    def listed() -> Any:
        return sandbox.client("ecr", "cluster").list_image_referrers(
            registryId=OWNER, repositoryName=repository, subjectId={"imageDigest": f"sha256:{'0' * 64}"}
        )["referrers"]

    with refused("AccessDeniedException"):
        listed()
    ecr.set_repository_policy(repositoryName=repository, policyText=policy())
    assert listed() == []


@pytest.mark.costly
def test_a_referrer_has_events_of_its_own(sandbox: Sandbox, ecr: Any, repository: str) -> None:
    image = images.build()
    url = sandbox.events_to("ecr-changes")
    with images.RegistryClient(sandbox.url, *sandbox.login()) as client:
        client.push(image, repository, "v1")
        client.push(signature_of(image), repository)

    found = receive(sandbox.client("sqs"), url, count=4)

    kinds = [each["detail-type"] for each in found if each["detail-type"].startswith("ECR")]
    assert kinds == ["ECR Image Action", "ECR Referrer Action"]


def test_a_referrer_leaves_with_its_subject_at_the_next_run(sandbox: Sandbox, ecr: Any, repository: str) -> None:
    image = images.build()
    with images.RegistryClient(sandbox.url, *sandbox.login()) as client:
        client.push(image, repository, "v1")
        client.push(signature_of(image), repository)
    rules = [
        {
            "rulePriority": 1,
            "selection": {
                "tagStatus": "untagged",
                "countType": "sinceImagePushed",
                "countUnit": "days",
                "countNumber": 1,
            },
            "action": {"type": "expire"},
        }
    ]
    ecr.put_lifecycle_policy(repositoryName=repository, lifecyclePolicyText=json.dumps({"rules": rules}).ljust(100))

    def there() -> dict[str, str]:
        details = ecr.describe_images(repositoryName=repository, filter={"imageStatus": "ANY"})["imageDetails"]
        return {each["imageDigest"]: each["imageStatus"] for each in details}

    sandbox.advance(2 * 24 * 3600)  # no rule selects a referrer
    assert list(there().values()) == ["ACTIVE", "ACTIVE"]
    ecr.update_image_storage_class(repositoryName=repository, imageId={"imageTag": "v1"}, targetStorageClass="ARCHIVE")
    sandbox.run_lifecycle()
    assert list(there().values()) == ["ARCHIVED", "ARCHIVED"]
    with images.RegistryClient(sandbox.url, *sandbox.login()) as client:
        listed = client.request("GET", f"/v2/{repository}/referrers/{image.digest}")[2]
        assert json.loads(listed)["manifests"] == []
    ecr.batch_delete_image(repositoryName=repository, imageIds=[{"imageTag": "v1"}])
    sandbox.run_lifecycle()
    assert there() == {}


@pytest.mark.costly
def test_tags_are_listed_in_pages(sandbox: Sandbox, ecr: Any, repository: str) -> None:
    image = images.build()
    images.push(image, sandbox.url, *sandbox.login(), repository, "v000")
    for number in range(1, 105):
        manifest = image.manifest.content.decode()
        ecr.put_image(repositoryName=repository, imageManifest=manifest, imageTag=f"v{number:03}")

    with images.RegistryClient(sandbox.url, *sandbox.login()) as client:
        path, pages = f"/v2/{repository}/tags/list", []
        while path:
            _, headers, body = client.request("GET", path)
            pages.append(json.loads(body)["tags"])
            path = headers.get("link", "").removeprefix(f"<{sandbox.url}").partition(">")[0]
        assert [len(page) for page in pages] == [100, 5]
        assert sorted(pages[0] + pages[1]) == [f"v{number:03}" for number in range(105)]
        for query in ("n=1001", "last=v003"):
            refusal = denied(405, lambda query=query: client.request("GET", f"/v2/{repository}/tags/list?{query}"))
            assert refusal.code == "UNSUPPORTED"


@pytest.mark.parametrize(
    ("setting", "action", "encryption", "mounted"),
    [
        ("ENABLED", "ecr:GetDownloadUrlForLayer", "AES256", True),
        ("DISABLED", "ecr:GetDownloadUrlForLayer", "AES256", False),
        ("ENABLED", "ecr:BatchGetImage", "AES256", False),
        ("ENABLED", "ecr:GetDownloadUrlForLayer", "KMS", False),
    ],
)
def test_a_layer_is_mounted_where_the_registry_the_permission_and_the_encryption_allow_it(
    sandbox: Sandbox, ecr: Any, repository: str, setting: str, action: str, encryption: str, mounted: bool
) -> None:
    ecr.create_repository(repositoryName="platform/base", encryptionConfiguration={"encryptionType": encryption})
    ecr.put_account_setting(name="BLOB_MOUNTING", value=setting)
    image = images.build()
    images.push(image, sandbox.url, *sandbox.login(), "platform/base", "v1")
    arn = f"arn:aws:ecr:us-east-1:{OWNER}:repository/"
    statements = [
        {"Effect": "Allow", "Action": "ecr:GetAuthorizationToken", "Resource": "*"},
        {"Effect": "Allow", "Action": "ecr:*", "Resource": arn + repository},
        {"Effect": "Allow", "Action": action, "Resource": arn + "platform/base"},
    ]
    session = sandbox.client("sts").get_federation_token(
        Name="deploy", Policy=json.dumps({"Version": "2012-10-17", "Statement": statements})
    )
    digest = image.blobs[0].digest

    with images.RegistryClient(sandbox.url, *sandbox.login(keys(session))) as client:
        path = f"/v2/{HOST}/{repository}/blobs/"
        status, headers, _ = client.request("POST", f"{path}uploads/?mount={digest}&from={HOST}/platform/base")

        assert status == (201 if mounted else 202)
        assert ("docker-content-digest" in headers) is mounted
        if mounted:
            assert client.request("GET", path + digest)[2] == image.blobs[0].content


def test_a_layer_that_no_image_has_is_not_mounted(sandbox: Sandbox, ecr: Any, repository: str) -> None:
    ecr.create_repository(repositoryName="platform/base")
    ecr.put_account_setting(name="BLOB_MOUNTING", value="ENABLED")
    layer = images.build().blobs[1]
    with images.RegistryClient(sandbox.url, *sandbox.login()) as client:
        client.push_blob(layer, "platform/base")

        path = f"/v2/{repository}/blobs/uploads/?mount={layer.digest}&from=platform/base"
        assert client.request("POST", path)[0] == 202


def test_a_client_that_tries_tls_first_is_answered_at_once(sandbox: Sandbox) -> None:
    with socket.create_connection(("127.0.0.1", sandbox.port), timeout=5) as connection:
        connection.sendall(b"\x16\x03\x01\x02\x00\x01\x00")

        assert connection.recv(100).startswith(b"HTTP/1.1 400 ")
