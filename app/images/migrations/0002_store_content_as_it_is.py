"""Content is compressed already: PostgreSQL need not try, and may read a part of it alone."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("images", "0001_initial")]

    operations = [
        migrations.RunSQL(
            "ALTER TABLE images_file ALTER COLUMN content SET STORAGE EXTERNAL",
            "ALTER TABLE images_file ALTER COLUMN content SET STORAGE EXTENDED",
        )
    ]
