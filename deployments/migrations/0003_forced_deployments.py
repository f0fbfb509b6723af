from django.db import migrations, models


class Migration(migrations.Migration):
    """Which forced deployment another one was canceled for. Only added to, so version 0.1.0 may go on meanwhile."""

    dependencies = [("deployments", "0002_one_configuration_counts")]

    operations = [
        migrations.AddField(
            model_name="deployment",
            name="replaced_by",
            field=models.ForeignKey(
                blank=True,
                editable=False,
                null=True,
                on_delete=models.deletion.SET_NULL,
                related_name="replaced",
                to="deployments.deployment",
            ),
        ),
        migrations.AlterField(  # the words that the code knows; no change to the database
            model_name="deployment",
            name="status",
            field=models.CharField(
                choices=[
                    ("BUILDING", "Building"),
                    ("DEPLOYING", "Deploying"),
                    ("DEPLOYED", "Deployed"),
                    ("FAILED", "Failed"),
                    ("CANCELED", "Canceled"),
                    ("TIMED_OUT", "Timed out"),
                ],
                max_length=12,
            ),
        ),
    ]
