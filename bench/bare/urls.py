"""A view that begins a deployment as somebody would write it with Django's ORM and our models.

All statements of a deploy in one transaction, and no check besides them, no log line, no metrics.
`tests/test_bench.py` holds that these are the statements of a deploy.
"""

from __future__ import annotations

import hashlib
import json
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Subquery
from django.db.models.functions import Now
from django.http import HttpRequest, JsonResponse
from django.urls import path

from deployments import clock, images
from deployments.access import keys
from deployments.aws.partitions import registry_of
from deployments.models import AccessKey, ConfigurationActivation, Deployment, Environment, Project, Repository


def deploy(request: HttpRequest) -> JsonResponse:
    """Begin a deployment. A key or a repository that is missing is an error 500."""
    body = json.loads(request.body)
    text = request.headers["Authorization"].partition(" ")[2]
    repeated = request.headers["x-trigger-request-idempotency-key"]
    config = settings.CONFIGURATION.v4
    registry: Any = registry_of(config.host)
    newest = ConfigurationActivation.objects.order_by("-id").values("id")[:1]
    day, now = clock.DAY[connection.vendor], clock.NOW[connection.vendor]
    with transaction.atomic():
        known = AccessKey.objects.select_related("user", "environment__project").annotate(db_now=Now())
        key = known.get(keys.live(), digest=keys.digest(text))
        environment: Any = key.environment
        Deployment.objects.filter(environment=environment, idempotency_key=repeated).first()
        newest.first()
        name = f"{config.namespace}/{environment.project.ref}"
        rows = Repository.objects.annotate(db_now=Now(), activation=Subquery(newest))
        repository = rows.get(account=registry.account, region=registry.region, name=name)
        project = Project.objects.select_for_update(no_key=True).get(pk=environment.project_id)
        with connection.cursor() as cursor:
            cursor.execute(
                f"UPDATE {Environment._meta.db_table} SET "  # noqa: S608  (no input is part of the text)
                f"version_number = CASE WHEN version_day >= {day} THEN version_number + 1 ELSE 1 END, "
                f"version_day = CASE WHEN version_day >= {day} THEN version_day ELSE {day} END "
                f"WHERE id = %s RETURNING version_day, version_number, {now}",
                [environment.pk],
            )
            version_day, version_number, read = cursor.fetchone()
        at, short_code = clock.read(read), images.new_short_code()
        deployment = Deployment.objects.create(
            project=project,
            environment=environment,
            repository=repository,
            short_code=short_code,
            version_day=version_day,
            version_number=version_number,
            status="BUILDING",
            type=body["type"],
            content_hash=body["contentHash"],
            image_ref=f"{config.host}/{name}:{version_day}.{version_number}.production.{short_code}",
            image_platform="linux/amd64",
            runtime=body["runtime"],
            git=body["gitMeta"],
            triggered_via=body["triggeredVia"],
            triggered_by=str(key),
            idempotency_key=repeated,
            request_digest=hashlib.sha256(request.body).hexdigest(),
            created_at=at,
            started_at=at,
            deadline=at + timedelta(minutes=8),
            last_request_at=at,
        )
    response = JsonResponse(
        {
            "id": deployment.id,
            "contentHash": deployment.content_hash,
            "shortCode": deployment.short_code,
            "version": f"{version_day}.{version_number}",
            "imageTag": deployment.image_ref,
            "imagePlatform": deployment.image_platform,
            "outcome": "created",
        }
    )
    response["Content-Length"] = str(len(response.content))  # without it, the server would answer in chunks
    return response


urlpatterns = [path("api/v1/deployments", deploy)]
