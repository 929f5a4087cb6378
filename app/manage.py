#!/usr/bin/env python
"""Django's command line with this project's settings."""

import os
import sys

from config import hidden_imports

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    hidden_imports.hide()
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)
