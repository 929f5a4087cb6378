"""What real faults need inside the application: tasks that fail, hang and die, slow views.

Loaded into the unchanged application through ``DJANGO_SETTINGS_MODULE=alert_settings``.
"""
