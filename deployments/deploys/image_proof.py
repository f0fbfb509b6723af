"""Image verification before a promotion: the image exists, is complete, has the right platform, and can be pulled.

The result is a receipt on the deployment. A failed check refuses the promotion, with a sentence that names the account,
the permission and what to do. A check without an answer refuses too, except for a registry that is not ECR and that
this server cannot reach or log in to: then the receipt says that the image was not verified.

The pull of a consumer account is checked in two ways: this module evaluates the repository policy and the registry
policy that AWS has now, and with a probe role in the account it makes the two calls of a pull as that role. Only a
certain no refuses: where a condition decides or a policy was not read, the receipt says on what the answer rests. The
probe role stands for the role of the cluster's nodes: if the policy of the nodes' role allows less than the policy of
the probe role, that is not found.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from django.utils import timezone

from deployments import policy
from deployments.aws.ecr import Ecr, ecr_of
from deployments.config import Access, RegistryConfig
from deployments.deploys import oci_registry
from deployments.errors import Refusal, RegistryError, refusal, registry_error
from deployments.models import Repository
from deployments.reconcile import kept_images, registry_policies
from deployments.reconcile.targets import Target
from deployments.row_values import ProvedPull, Receipt

#: Takes a sentence about the progress of a verification.
Report = Callable[[str], object]

MAX_DEPTH = 3  # index → index → image
MAX_MANIFESTS = 100
PULL = ("ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer")
MANIFESTS_PER_CALL = 25  # ECR accepts 100 in one call, but its answer contains the whole text of each manifest
#: A registry may show an image some seconds after the push. botocore itself retries AWS's errors.
RETRY_PAUSES_SECONDS = (0.5, 1.5)
#: Docker's media type for zstd layers: buildx writes it with oci-mediatypes=false; container runtimes do not know it.
UNPULLABLE_LAYERS = ("application/vnd.docker.image.rootfs.diff.tar.zstd",)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLocation:
    """Host, repository name and tag of an image ref. The CLI pushed this ref, whatever the settings are now."""

    host: str
    name: str
    tag: str

    @classmethod
    def of(cls, image_ref: str) -> ImageLocation:
        """The parts of `host/name:tag`."""
        host, _, rest = image_ref.partition("/")
        name, _, tag = rest.rpartition(":")
        return cls(host=host, name=name, tag=tag)

    def __str__(self) -> str:
        return f"{self.host}/{self.name}"


class Source(Protocol):
    """A repository from which images are read. Each method raises RegistryError."""

    def tagged(self, tag: str) -> tuple[str, str] | None:
        """(digest, manifest text) of a tag; None if the tag does not exist."""
        ...

    def manifests(self, digests: Sequence[str]) -> dict[str, str]:
        """{digest: manifest text} of the manifests that exist."""
        ...

    def configuration(self, digest: str) -> bytes | None:
        """The JSON of an image's configuration; None if it does not exist."""
        ...

    def not_active(self, *, digest: str = "", tag: str = "") -> Refusal | None:
        """The refusal of an image that exists and cannot be pulled, because it is archived; None for any other."""
        ...


@dataclass(slots=True)
class Tree:
    """What `_read` found in an image: its platforms, and how many manifests and layers it has."""

    digest: str
    manifests: int = 0
    layers: int = 0
    platforms: list[str] = field(default_factory=list)
    #: (manifest, blob of this manifest) of a wanted platform; a trial pull fetches both.
    sample: tuple[str, str] | None = None


def prove(
    *,
    image_ref: str,
    digest: str | None,
    platforms: Sequence[str],
    config: RegistryConfig,
    report: Report = lambda sentence: None,
    reconcile: Callable[[], None] = lambda: None,
) -> Receipt:
    """Verify an image and return the receipt. Raises Refusal.

    `digest`: the digest that the CLI reported; None: read the tag. `platforms`: the accepted platforms (linux/amd64).
    If the repository policy does not let a consumer account pull, `reconcile` is called once and the policy is read
    again, because somebody may have changed the policy since the deployment began.
    """
    location = ImageLocation.of(image_ref)
    ecr = ecr_of(config, location.host)
    report("Looking for the image in the registry.")
    try:
        if ecr is None:
            return _prove_in_other_registry(location, digest, platforms, config, report)
        tree = _read(_InEcr(ecr, location.name), location, digest, platforms)
        report(_found(tree))
        return _prove_pulls(ecr, location, tree, config, report, reconcile)
    except RegistryError as error:
        raise refusal("image_undecided", reason=error.sentence, retryable=error.retryable) from error


def try_pulls(row: Repository, target: Target) -> str:
    """Why a probe role cannot pull an image that is current in this repository, in a sentence.

    Empty: each probe role can pull each of these images, or there is no such role or image. Raises RegistryError if AWS
    does not answer. ECR counts each trial as a pull.
    """
    config, ecr = target.config, target.ecr()
    kept = kept_images.kept([row.pk], config=config).get(row.pk, []) if config.probe_role_arns else []
    for image in kept:
        if image.is_current and image.digest:
            location = ImageLocation.of(image.deployment.image_ref)
            try:
                platforms = image.deployment.image_platform.split(",")
                tree = _read(_InEcr(ecr, location.name), location, image.digest, platforms)
                for role in config.probe_role_arns:
                    _pull(ecr, location, tree, role.split(":")[4], role, config)
            except Refusal as refused:
                return str(refused)
    return ""


def is_there(*, image_ref: str, digest: str, config: RegistryConfig) -> bool | None:
    """Whether ECR has this image and it can be pulled, as DescribeImages shows it; None: not seen. One call at most."""
    location = ImageLocation.of(image_ref)
    ecr = ecr_of(config, location.host)
    try:
        found = ecr.image(location.name, digest=digest) if ecr is not None else None
    except RegistryError:
        return None
    return None if ecr is None else found is not None and found.status not in _NOT_ACTIVE


def unproved(reason: str, *, digest: str | None = None, code: str = "") -> Receipt:
    """The receipt of an image that was not verified. `code`: of the refusal, if it was one."""
    return Receipt(at=timezone.now().isoformat(), digest=digest or "", unproved=reason, code=code)


def _receipt(location: ImageLocation, tree: Tree) -> Receipt:
    return Receipt(
        at=timezone.now().isoformat(),
        repository=str(location),
        digest=tree.digest,
        platforms=tuple(tree.platforms),
        manifests=tree.manifests,
        layers=tree.layers,
    )


def _found(tree: Tree) -> str:
    size = f"{_counted(tree.manifests, 'manifest')}, {_counted(tree.layers, 'layer')}"
    return f"Found {tree.digest} for {', '.join(tree.platforms)}: {size}."


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


# ----------------------------------------------------------------------------------------------------------- the image


def _read(source: Source, location: ImageLocation, digest: str | None, platforms: Sequence[str]) -> Tree:
    """Read the image. Raises Refusal if it is missing or incomplete, has another platform, or cannot be pulled."""
    root = _patiently(lambda: _root(source, location, digest))
    if root is None:
        refused = source.not_active(digest=digest or "", tag=location.tag)
        raise refused or refusal("image_not_found", where=location, what=_what(digest, location.tag))
    tree = Tree(digest=root[0])
    wanted = [_platform(each) for each in platforms]
    found: list[tuple[str, str]] = []  # (platform, digest of its image)
    level: dict[str, tuple[str, str]] = {root[0]: (root[1], "")}  # digest → (text, platform in the index)
    for _ in range(MAX_DEPTH):
        children: dict[str, str] = {}
        for each, (text, said) in level.items():
            manifest = _Manifest.parse(text)
            tree.manifests += 1
            tree.layers += len(manifest.layers)
            children |= manifest.children
            if manifest.children or said == _ATTESTATION:
                continue
            platform = said or _configured(source, manifest)
            found.append((platform, each))
            if tree.sample is None and any(_fits(want, platform) for want in wanted):
                tree.sample = (each, next(iter([*manifest.layers, manifest.configuration])))
        if not children:
            break
        if tree.manifests + len(children) > MAX_MANIFESTS:
            raise refusal("manifest_unreadable", reason="it has too many parts")
        texts = source.manifests(list(children))
        missing = next((each for each in children if each not in texts), None)
        if missing is not None:
            raise source.not_active(digest=missing) or refusal("image_incomplete", digest=missing)
        level = {each: (texts[each], said) for each, said in children.items()}
    else:
        raise refusal("manifest_unreadable", reason="it is nested too deeply")
    tree.platforms = sorted({platform for platform, _ in found})
    if tree.sample is None:
        raise refusal(
            "platform_mismatch",
            found=", ".join(tree.platforms) or "no platform",
            wanted=" or ".join(platforms),
        )
    return tree


def _what(digest: str | None, tag: str) -> str:
    return f"digest {digest}" if digest else f"tag {tag}"


def _root(source: Source, location: ImageLocation, digest: str | None) -> tuple[str, str] | None:
    if digest is None:
        return source.tagged(location.tag)
    text = source.manifests([digest]).get(digest)
    return None if text is None else (digest, text)


def _patiently(attempt: Callable[[], tuple[str, str] | None]) -> tuple[str, str] | None:
    for pause in RETRY_PAUSES_SECONDS:
        found = attempt()
        if found is not None:
            return found
        time.sleep(pause)
    return attempt()


_ATTESTATION = "unknown/unknown"  # the platform of buildx's attestations, which are in the index but are not pulled


@dataclass(frozen=True, slots=True, kw_only=True)
class _Manifest:
    """The used parts of a manifest: an index has children, an image has a configuration and layers."""

    children: dict[str, str]  # digest → platform; "" if the index does not say
    layers: tuple[str, ...]  # digests
    configuration: str

    @classmethod
    def parse(cls, text: str) -> _Manifest:
        """Raises Refusal for a text that is neither an index nor an image, and for layers that cannot be pulled."""
        try:
            manifest = json.loads(text)
            children = {str(each["digest"]): _said(each) for each in manifest.get("manifests", ())}
            layers = [(str(each["digest"]), str(each.get("mediaType", ""))) for each in manifest.get("layers", ())]
            configuration = "" if children else str(manifest["config"]["digest"])
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise refusal("manifest_unreadable", reason="it is neither an image nor an index") from None
        for _, media_type in layers:
            if media_type.startswith(UNPULLABLE_LAYERS):
                raise refusal("layer_unpullable", media_type=media_type[:100])
        return cls(children=children, layers=tuple(digest for digest, _ in layers), configuration=configuration)


def _said(entry: Any) -> str:
    platform = entry.get("platform")
    return "" if platform is None else _named(platform)


def _named(description: Any) -> str:
    """linux/arm64/v8, from the three fields of an entry of an index or of an image's configuration."""
    parts = [str(description.get(part) or "")[:40] for part in ("os", "architecture", "variant")]
    return "/".join(part for part in parts if part)


def _configured(source: Source, manifest: _Manifest) -> str:
    """The platform in an image's configuration. An image without an index has its platform only there."""
    content = source.configuration(manifest.configuration)
    if content is None:
        raise refusal("image_incomplete", digest=manifest.configuration)
    try:
        return _named(json.loads(content)) or "no platform"
    except (ValueError, AttributeError, RecursionError):
        raise refusal("manifest_unreadable", reason="its configuration is not the configuration of an image") from None


def _platform(text: str) -> tuple[str, str, str]:
    """(system, architecture, variant), normalised like containerd: linux/arm64 and linux/arm64/v8 are equal."""
    system, architecture, variant, *_ = [*text.lower().split("/"), "", "", ""]
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}.get(architecture, architecture)
    if (architecture, variant) in (("arm64", "v8"), ("amd64", "v1")):
        variant = ""
    if architecture == "arm" and not variant:
        variant = "v7"
    return system, architecture, variant


def _fits(wanted: tuple[str, str, str], platform: str) -> bool:
    return wanted == _platform(platform)


# --------------------------------------------------------------------------------------------------------- the sources


@dataclass(frozen=True, slots=True)
class _InEcr:
    """A repository of ECR."""

    ecr: Ecr
    name: str

    def tagged(self, tag: str) -> tuple[str, str] | None:
        try:
            return next(iter(self.ecr.manifests(self.name, tag=tag).items()), None)
        except RegistryError as error:
            if error.code != _INACCESSIBLE:
                raise
            raise self.not_active(tag=tag) or error from None

    def manifests(self, digests: Sequence[str]) -> dict[str, str]:
        parts = [digests[start : start + MANIFESTS_PER_CALL] for start in range(0, len(digests), MANIFESTS_PER_CALL)]
        answers = self.ecr.side_by_side([_asking(self.ecr, self.name, part) for part in parts])
        texts: dict[str, str] = {}
        for part, answer in zip(parts, answers, strict=True):
            if isinstance(answer, RegistryError):
                if answer.code == _INACCESSIBLE:
                    raise next(filter(None, (self.not_active(digest=each) for each in part)), answer) from None
                raise answer
            texts |= answer
        return texts

    def configuration(self, digest: str) -> bytes | None:
        url = self.ecr.download_url(self.name, digest)
        if url is None:
            return None
        content = oci_registry.download(url)
        if content is None or oci_registry.digest_of(content) != digest:
            raise registry_error("StorageUnreachable", operation="GetDownloadUrlForLayer", name=self.name)
        return content

    def not_active(self, *, digest: str = "", tag: str = "") -> Refusal | None:
        try:
            found = self.ecr.image(self.name, digest=digest, tag=tag)
        except RegistryError:
            return None  # then the first answer, that the image was not read, is all that is known
        code = _NOT_ACTIVE.get(found.status) if found is not None else None
        return refusal(code, where=self.name, what=_what(digest, tag)) if code else None


#: BatchGetImage has this failure code; AWS does not document whether an archived image has it, or ImageNotFound.
_INACCESSIBLE = "ImageInaccessible"
#: DescribeImages' status of an image that is not pulled, and the refusal's code. (Amazon ECR User Guide, “Archiving an
#: image in Amazon ECR”)
_NOT_ACTIVE = {"ARCHIVED": "image_archived", "ACTIVATING": "image_restoring"}


def _asking(ecr: Ecr, name: str, digests: Sequence[str]) -> Callable[[], dict[str, str]]:
    return lambda: ecr.manifests(name, digests=digests)


@dataclass(frozen=True, slots=True)
class _InOtherRegistry:
    """A repository of another registry."""

    registry: oci_registry.Registry
    name: str

    def tagged(self, tag: str) -> tuple[str, str] | None:
        content = self.registry.manifest(self.name, tag)
        return None if content is None else (oci_registry.digest_of(content), self._text(content))

    def manifests(self, digests: Sequence[str]) -> dict[str, str]:
        found = ((digest, self.registry.manifest(self.name, digest)) for digest in digests)
        return {
            digest: self._text(content)
            for digest, content in found
            if content is not None and oci_registry.digest_of(content) == digest
        }

    def configuration(self, digest: str) -> bytes | None:
        content = self.registry.blob(self.name, digest)
        return content if content is not None and oci_registry.digest_of(content) == digest else None

    def not_active(self, *, digest: str = "", tag: str = "") -> Refusal | None:
        return None  # only ECR has an archive

    @staticmethod
    def _text(content: bytes) -> str:
        return content.decode(errors="replace")


def _prove_in_other_registry(
    location: ImageLocation, digest: str | None, platforms: Sequence[str], config: RegistryConfig, report: Report
) -> Receipt:
    client = oci_registry.Registry(host=location.host, username=config.username, password=config.password)
    try:
        tree = _read(_InOtherRegistry(client, location.name), location, digest, platforms)
    except RegistryError as error:
        if error.code not in ("RegistrySilent", "RegistryClosed"):  # D-not-proved
            raise
        report(error.sentence)
        return unproved(error.sentence, digest=digest)
    report(_found(tree))
    return _receipt(location, tree)


# ----------------------------------------------------------------------------------------------------------- the pulls


def _prove_pulls(
    ecr: Ecr,
    location: ImageLocation,
    tree: Tree,
    config: RegistryConfig,
    report: Report,
    reconcile: Callable[[], None],
) -> Receipt:
    """Find out for every consumer account whether it can pull; the receipt says so of each.

    Raises Refusal for the first account that certainly cannot pull.
    """
    receipt = _receipt(location, tree)
    probes: dict[str, list[str]] = {account: [] for account in config.consumer_accounts}
    for role in config.probe_role_arns:
        probes.setdefault(role.split(":")[4], []).append(role)
    if not probes:
        return receipt
    registry = registry_policies.look(ecr).policy
    text = _policy_of(ecr, location)
    answers = _answers(text, registry, probes, ecr, location)
    alone = _answers(text, policy.RegistryPolicy(text=""), probes, ecr, location)
    if any(
        answers[account].verdict != "yes" and (by_it.verdict == "no" or (by_it.verdict == "depends" and not roles))
        for (account, roles), by_it in zip(probes.items(), alone.values(), strict=True)
    ):
        reconcile()
        text = _policy_of(ecr, location)
        answers = _answers(text, registry, probes, ecr, location)
    for account, answer in answers.items():
        if answer.verdict == "no":
            raise _refusal(answer, account, text, ecr, location)
    trials: list[Callable[[], None]] = [
        functools.partial(_pull, ecr, location, tree, account, role, config)
        for account, roles in probes.items()
        for role in roles
    ]
    for result in ecr.side_by_side(trials) if trials else []:
        if isinstance(result, RegistryError):
            raise result
    pullers = {account: _proved(answers[account], roles) for account, roles in probes.items()}
    for account, puller in pullers.items():
        tried = f" {' and '.join(puller.roles)} tried." if puller.roles else ""
        report(f"Account {account} can pull it.{tried}" if puller.can_pull else _sentence(puller.words))
    return replace(
        receipt,
        policy=f"sha256:{hashlib.sha256(text.encode()).hexdigest()}" if text else "",
        pullers=pullers,
    )


def _policy_of(ecr: Ecr, location: ImageLocation) -> str:
    observation = ecr.observe(location.name, details=False)
    if isinstance(observation.policy, RegistryError):
        raise observation.policy
    return observation.policy or ""


def _answers(
    text: str, registry: policy.RegistryPolicy | None, accounts: Iterable[str], ecr: Ecr, location: ImageLocation
) -> dict[str, policy.Access]:
    arn, partition = ecr.registry.repository_arn(location.name), ecr.registry.partition
    return {account: policy.effective(text, registry, account, arn=arn, partition=partition) for account in accounts}


def _proved(answer: policy.Access, roles: Sequence[str]) -> ProvedPull:
    """A trial pull that succeeded shows more than the policies do."""
    return ProvedPull(
        verdict="yes" if roles else answer.verdict,
        how="trial" if roles else "policy",
        words=_sentence(answer.words),
        roles=tuple(roles),
        layer=answer.layer,
        statement=answer.statement or "",
        basis=answer.basis,
    )


def _refusal(answer: policy.Access, account: str, text: str, ecr: Ecr, location: ImageLocation) -> Refusal:
    words = _sentence(answer.words)
    if answer.layer == policy.REGISTRY:
        return refusal("registry_policy_denies", account=account, name=location.name, words=words)
    lacking: tuple[str, ...] = PULL
    with contextlib.suppress(policy.PolicyError):
        parsed, partition = policy.parse(text or "{}"), ecr.registry.partition
        lacking = tuple(one for one in PULL if policy.may(parsed, account, one, partition=partition).verdict != "yes")
    return refusal(
        "consumer_cannot_pull", account=account, name=location.name, words=words, permissions=" and ".join(lacking)
    )


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:]


def _pull(ecr: Ecr, location: ImageLocation, tree: Tree, account: str, role: str, config: RegistryConfig) -> None:
    """Make the two calls of a pull as a role of the consumer account. Raises Refusal or RegistryError."""
    access = Access(
        role_arn=role,
        external_id=config.assume_role_external_id,
        setting="DEPLOY_REGISTRY_ECR_PROBE_ROLE_ARNS",
    )
    probe = Ecr(registry=ecr.registry, access=access)
    manifest, blob = tree.sample or (tree.digest, "")
    calls: Iterable[tuple[str, Callable[[], object]]] = (
        ("ecr:BatchGetImage", lambda: probe.manifests(location.name, digests=sorted({tree.digest, manifest}))),
        ("ecr:GetDownloadUrlForLayer", lambda: probe.download_url(location.name, blob)),
    )
    for permission, call in calls:
        try:
            found = call()
        except RegistryError as error:
            if not error.denied or error.operation == "AssumeRole":
                raise
            raise refusal(
                "trial_pull_refused",
                account=account,
                role=role,
                reason=error.said,
                permission=permission,
                arn=ecr.registry.repository_arn(location.name),
            ) from error
        if not found:
            raise refusal("image_not_found", where=location, what=f"digest {manifest}")
