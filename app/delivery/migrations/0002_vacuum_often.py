from django.db import migrations


class Migration(migrations.Migration):
    """Each delivery leaves three dead versions of its row. The defaults would wait for 20 % of the
    table: with ten million finished rows, two million dead ones in front of the few that are due.
    """

    dependencies = [("delivery", "0001_initial")]

    operations = [
        migrations.RunSQL(
            sql="""
                ALTER TABLE delivery_delivery SET (
                    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000,
                    autovacuum_analyze_scale_factor = 0.02)
            """,
            reverse_sql="""
                ALTER TABLE delivery_delivery RESET (
                    autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold,
                    autovacuum_analyze_scale_factor)
            """,
        )
    ]
