from django.db import migrations, models

from deployments.schema import AddIndexWhileServing


class Migration(migrations.Migration):
    """Indexes for the lists of a large installation. No table is locked while they are made."""

    atomic = False

    dependencies = [
        ('deployments', '0024_change_feed'),
    ]

    operations = [
        AddIndexWhileServing(
            model_name='auditentry',
            index=models.Index(condition=models.Q(('request_id', ''), _negated=True), fields=['request_id'], name='audit_entry_request'),
        ),
        AddIndexWhileServing(
            model_name='auditentry',
            index=models.Index(fields=['object_type', 'at', 'action', 'actor_kind'], name='audit_entry_of_type'),
        ),
        AddIndexWhileServing(
            model_name='auditentry',
            index=models.Index(fields=['action', 'at', 'object_type', 'actor_kind'], name='audit_entry_of_action'),
        ),
        AddIndexWhileServing(
            model_name='deployment',
            index=models.Index(condition=models.Q(('external_id', ''), _negated=True), fields=['external_id'], name='deployment_external'),
        ),
        AddIndexWhileServing(
            model_name='deployment',
            index=models.Index(fields=['environment', '-created_at'], name='deployment_environment_recent'),
        ),
        AddIndexWhileServing(
            model_name='deployment',
            index=models.Index(fields=['version_day', 'version_number'], name='deployment_version'),
        ),
        AddIndexWhileServing(
            model_name='sweep',
            index=models.Index(fields=['-started_at'], name='sweep_recent'),
        ),
        AddIndexWhileServing(
            model_name='sweep',
            index=models.Index(condition=models.Q(('status', 'running')), fields=['-started_at'], name='sweep_running'),
        ),
    ]
