"""The real settings, and an address with a bug (``view_addresses``)."""

from __future__ import annotations

from config.settings import *  # noqa: F403 - all of them

ROOT_URLCONF = "tests.support.view_addresses"
