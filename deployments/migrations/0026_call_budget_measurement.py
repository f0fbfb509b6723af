from django.db import migrations, models


class Migration(migrations.Migration):
    """What all workers of a registry have measured together of the calls that AWS accepts."""

    dependencies = [
        ('deployments', '0025_lists_at_size'),
    ]

    operations = [
        migrations.AddField(
            model_name='callbudget',
            name='measured_at',
            field=models.DateTimeField(null=True),
        ),
        migrations.AddField(
            model_name='callbudget',
            name='seconds',
            field=models.FloatField(db_default=60.0),
        ),
        migrations.AddField(
            model_name='callbudget',
            name='accepted',
            field=models.PositiveBigIntegerField(db_default=0),
        ),
        migrations.AddField(
            model_name='callbudget',
            name='empty',
            field=models.BooleanField(db_default=False),
        ),
    ]
