from django.conf import settings
from django.db import migrations


class Migration(migrations.Migration):
    """Callers with a token are called token:NAME from here on, so that a user of the same name has
    keys of its own. Earlier jobs with a key: who is no user was a token.
    """

    dependencies = [
        ("jobs", "0003_rate_bucket"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.RunSQL(
            sql="""
                UPDATE jobs_job SET requested_by = left('token:' || requested_by, 150)
                WHERE idempotency_key IS NOT NULL AND requested_by NOT LIKE 'token:%'
                    AND NOT EXISTS (SELECT FROM auth_user WHERE username = requested_by)
            """,
            reverse_sql="""
                UPDATE jobs_job SET requested_by = substr(requested_by, 7)
                WHERE requested_by LIKE 'token:%'
            """,
        )
    ]
