"""Django and Celery settings: one file; what differs between places comes from the environment.

A missing or malformed variable stops start-up, and all faults are in one message. The variables
are described for operators in ``.env.example``; a test compares that file with this one.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from kombu import Queue

from config import environment, topology

env = environment.reader()

APP_DIRECTORY = Path(__file__).resolve().parent.parent

# ---------------------------------------------------------------------------------------------
# Core — https://docs.djangoproject.com/en/5.2/ref/settings/
# ---------------------------------------------------------------------------------------------
DEBUG = env.bool("DJANGO_DEBUG", False)
SECRET_KEY = env.secret("DJANGO_SECRET_KEY")
#: Earlier keys, so that sessions survive a change of key.
SECRET_KEY_FALLBACKS: list[str] = env.list("DJANGO_SECRET_KEY_FALLBACKS", [])
ALLOWED_HOSTS = env.list("DJANGO_ALLOWED_HOSTS", ["localhost", "127.0.0.1"])
CSRF_TRUSTED_ORIGINS: list[str] = env.list("DJANGO_CSRF_TRUSTED_ORIGINS", [])

#: What runs: reported at /version, in logs and as an image label.
VERSION = env.str("CELERIAC_VERSION", "0.1.0")
REVISION = env.str("CELERIAC_REVISION", "unknown")
#: Name of this process's service (web, worker, beat ...), for logs and database sessions.
SERVICE_NAME = env.str("SERVICE_NAME", "manage")

ROOT_URLCONF = "config.urls"
ASGI_APPLICATION = "config.asgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_I18N = False
USE_TZ = True

INSTALLED_APPS = [
    "config.apps.ProjectConfig",
    "console",
    "newsletters",
    "images",
    "capacity",
    "fault_injection",
    "housekeeping",
    "jobs",
    "telemetry",
    "delivery",
    "channels",
    "django_celery_beat",
    "django_celery_results",
    "django_htmx",
    "django_structlog",
    "ninja",
    "whitenoise.runserver_nostatic",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.humanize",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
]

MIDDLEWARE = [
    # First: probes must be answered whatever the Host header is, and without a redirect to TLS.
    "console.probes.ProbeMiddleware",
    "django_prometheus.middleware.PrometheusBeforeMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "csp.middleware.CSPMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django_structlog.middlewares.RequestMiddleware",
    "console.errors.ApiErrorMiddleware",
    "console.rate_limits.RateLimitMiddleware",
    "console.authentication.SessionKeyMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    # Last: as near to the view as can be. Its beginning is measured by the other one, above.
    "console.request_metrics.RequestMetricsMiddleware",
]

TEMPLATES: list[dict[str, Any]] = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "console.context_processors.version",
            ]
        },
    }
]

# ---------------------------------------------------------------------------------------------
# Who may enter
# ---------------------------------------------------------------------------------------------
#: Bearer tokens of the HTTP API: token -> name of the caller.
API_TOKENS = env.named_tokens("API_TOKENS", "")
#: Requests that one caller of the HTTP API may make in a minute, and at once; 0: without limit.
#: A person with a script needs a few in a second; a client in a loop gets 429.
API_RATE_LIMIT_PER_MINUTE = env.int(
    "API_RATE_LIMIT_PER_MINUTE", 600, validate=environment.between(0, 1_000_000)
)
API_RATE_LIMIT_BURST = env.int(
    "API_RATE_LIMIT_BURST", 100, validate=environment.between(1, 1_000_000)
)
#: Failed sign-ins and wrong tokens that one client address may make in a minute, and at once.
SIGN_IN_FAILURES_PER_MINUTE = env.int(
    "SIGN_IN_FAILURES_PER_MINUTE", 10, validate=environment.between(0, 10_000)
)
AUTHENTICATION_BACKENDS = ["console.rate_limits.SignInBackend"]
LOGIN_URL = "sign-in"
LOGIN_REDIRECT_URL = "console"
LOGOUT_REDIRECT_URL = "sign-in"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]

# ---------------------------------------------------------------------------------------------
# HTTP hardening
# ---------------------------------------------------------------------------------------------
#: True where TLS ends at a proxy in front: secure cookies, HSTS, redirect to https.
BEHIND_TLS = env.bool("DJANGO_BEHIND_TLS", False)
SECURE_SSL_REDIRECT = BEHIND_TLS
# Not SECURE_PROXY_SSL_HEADER, which believes everybody: uvicorn takes X-Forwarded-Proto from the
# addresses of FORWARDED_ALLOW_IPS only.
SECURE_HSTS_SECONDS = 31_536_000 if BEHIND_TLS else 0
SESSION_COOKIE_SECURE = BEHIND_TLS
CSRF_COOKIE_SECURE = BEHIND_TLS
SESSION_COOKIE_HTTPONLY = True
X_FRAME_OPTIONS = "DENY"
CSRF_FAILURE_VIEW = "console.errors.csrf_failed"
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'self'"],
        "img-src": ["'self'", "data:"],
        "frame-ancestors": ["'none'"],
        "form-action": ["'self'"],
        "base-uri": ["'none'"],
        "object-src": ["'none'"],
    }
}

#: Largest request body in bytes; more is refused before it is read (config/asgi.py).
MAX_REQUEST_BYTES = env.int(
    "MAX_REQUEST_BYTES", 12 * 1024 * 1024, validate=environment.between(65_536, 1 << 30)
)
#: Bytes of request bodies that one web process holds at the same moment; more get 503.
MAX_UPLOADS_BYTES = env.int(
    "MAX_UPLOADS_BYTES", 32 * 1024 * 1024, validate=environment.between(65_536, 1 << 32)
)
#: Largest body without files. 10,000 addresses of 254 characters are 2.5 MB.
DATA_UPLOAD_MAX_MEMORY_SIZE = 4 * 1024 * 1024
# Bodies and uploads stay in memory. Django would write those over 2.5 MB to /tmp, which is memory
# as well (tmpfs), but 64 MB only: a few uploads at a time would fill it.
FILE_UPLOAD_MAX_MEMORY_SIZE = MAX_REQUEST_BYTES

# ---------------------------------------------------------------------------------------------
# Database — https://docs.djangoproject.com/en/5.2/ref/databases/#postgresql-notes
# ---------------------------------------------------------------------------------------------
#: Connections that a web process may hold. 0: no pool, one kept connection per process (workers).
DATABASE_POOL_SIZE = env.int("DATABASE_POOL_SIZE", 0, validate=environment.between(0, 100))
_database_url = env.postgres_url("DATABASE_URL")
DATABASES: dict[str, dict[str, Any]] = {
    "default": {
        **environment.database_from_url(_database_url),
        # Each request has a thread of its own, so only a pool can keep connections there.
        "CONN_MAX_AGE": 0 if DATABASE_POOL_SIZE else 600,
        # A worker does without the query: it tries again what fails on a broken connection.
        "CONN_HEALTH_CHECKS": bool(DATABASE_POOL_SIZE),
        "OPTIONS": {
            "application_name": f"celeriac-{SERVICE_NAME}",
            "connect_timeout": 5,
            # A server that is gone without a word is noticed after 10 + 3 * 5 seconds.
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            # The same for a question that the other machine never acknowledges, in milliseconds.
            "tcp_user_timeout": 25_000,
            # The server's side of it: a machine that is gone must not keep its locks for hours, nor
            # a process that is frozen in a transaction. No task may last as long as that.
            "options": "-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 "
            "-c tcp_keepalives_count=3 -c idle_in_transaction_session_timeout=300s",
        },
    }
}
if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
    # Counts and times each statement, in the role that serves the numbers: the entry point sets it
    # for web alone, whatever the service is called.
    DATABASES["default"]["ENGINE"] = "django_prometheus.db.backends.postgresql"
if DATABASE_POOL_SIZE:
    DATABASES["default"]["OPTIONS"]["pool"] = {
        "min_size": 1,
        "max_size": DATABASE_POOL_SIZE,
        # Seconds a request waits for a free connection before it is answered with 503.
        "timeout": 5,
    }

# ---------------------------------------------------------------------------------------------
# Celery — https://docs.celeryq.dev/en/stable/userguide/configuration.html
# Reasons and measurements: docs/decisions/0008-worker-settings.md
# ---------------------------------------------------------------------------------------------
CELERY_BROKER_URL = env.redis_url("BROKER_URL")
_broker_timeout = env.float(
    "BROKER_SOCKET_TIMEOUT_SECONDS", 5.0, validate=environment.between(1, 60)
)
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "visibility_timeout": topology.VISIBILITY_TIMEOUT_SECONDS,
    # The default sweep for messages of dead workers is every 100 s (kombu/transport/redis.py).
    "unacked_restore_interval": 5,
    "unacked_restore_throttle": 1,
    # A publisher that meets a frozen Redis fails after seconds instead of hanging for ever.
    "socket_timeout": _broker_timeout,
    # Nor does it try to connect for longer; kombu's own limit is 4 s, and begins a last try then.
    "connect_retries_timeout": _broker_timeout,
    "socket_connect_timeout": 3,
    "socket_keepalive": True,
    "health_check_interval": 10,
}
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None
# Of plain tasks. What a durable one could not publish is left to the relay (delivery/tasks.py).
CELERY_TASK_PUBLISH_RETRY_POLICY = {"max_retries": 1, "interval_start": 0.2}

#: Keys of the signed messages, by id: the first signs, all verify (delivery/signing.py).
TASK_SIGNING_KEYS: dict[str, str] = env.signing_keys("TASK_SIGNING_KEYS")
#: Seconds after which a task's message is refused. Longer than any message may wait in a queue.
TASK_SIGNING_MAX_AGE_SECONDS = env.int(
    "TASK_SIGNING_MAX_AGE_SECONDS", 7 * 86_400, validate=environment.between(60, 90 * 86_400)
)
CELERY_TASK_SERIALIZER = "signed"
CELERY_ACCEPT_CONTENT = ["signed"]
CELERY_RESULT_SERIALIZER = "json"
CELERY_RESULT_ACCEPT_CONTENT = ["json"]
CELERY_EVENT_SERIALIZER = "json"
CELERY_TIMEZONE = TIME_ZONE
CELERY_ENABLE_UTC = True

CELERY_TASK_DEFAULT_QUEUE = topology.DEFAULT_QUEUE.name
CELERY_TASK_QUEUES = [Queue(queue.name) for queue in topology.QUEUES]
CELERY_TASK_ROUTES = [topology.route_task]
CELERY_TASK_ANNOTATIONS = [topology.TimeLimits()]
# A typing error in a queue name must fail at the caller, not fill a queue nobody reads.
CELERY_TASK_CREATE_MISSING_QUEUES = False

CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_TASK_RETRY_ON_WORKER_LOST = True
CELERY_WORKER_CONSUMER = "telemetry.consumer:WatchedConsumer"
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
# Tasks go on when the broker is lost. Their messages come back, and find the work done; cancelling
# would kill them in mid-work and do it again after the visibility timeout.
CELERY_WORKER_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS = False
#: Seconds that running tasks have after SIGTERM (delivery/graceful_stop.py).
WORKER_WARM_SHUTDOWN_SECONDS = env.int(
    "WORKER_WARM_SHUTDOWN_SECONDS",
    topology.WARM_SHUTDOWN_SECONDS,
    validate=environment.between(1, topology.LONGEST_WARM_SHUTDOWN_SECONDS),
)
CELERY_WORKER_MAX_TASKS_PER_CHILD = 1000
#: Kilobytes of resident memory after which a pool process is replaced (0: never).
CELERY_WORKER_MAX_MEMORY_PER_CHILD = env.int(
    "WORKER_MAX_MEMORY_PER_CHILD_KB", 300_000, validate=environment.between(0, 1 << 30)
)
CELERY_WORKER_SEND_TASK_EVENTS = True
CELERY_TASK_SEND_SENT_EVENT = True
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
# The fixup would close the database connection around every task; celery_guards keeps it and
# checks it instead. Any large number switches the fixup off (celery/fixups/django.py).
CELERY_DB_REUSE_MAX = 1 << 30

CELERY_RESULT_BACKEND = "delivery.results:DatabaseBackend"
CELERY_RESULT_BACKEND_ALWAYS_RETRY = True
# With growing pauses, some 10 s in all; then the result is given up, not the work.
CELERY_RESULT_BACKEND_MAX_RETRIES = 10
CELERY_RESULT_EXTENDED = True
CELERY_RESULT_EXPIRES = env.int(
    "RESULT_RETENTION_SECONDS", 7 * 86_400, validate=environment.between(60, 3650 * 86_400)
)
# A STARTED row is a second write for each task (research: +2.1 ms); -E events say the same.
CELERY_TASK_TRACK_STARTED = False

CELERY_BEAT_SCHEDULER = "telemetry.schedulers:WatchedDatabaseScheduler"
CELERY_BEAT_MAX_LOOP_INTERVAL = 5
CELERY_BEAT_SCHEDULE: dict[str, dict[str, Any]] = {
    name: {
        "task": task,
        "schedule": seconds,
        # While workers are away, one message is enough.
        "options": {"expire_seconds": seconds},
    }
    for name, task, seconds in [
        ("delete-old-jobs", "housekeeping.delete_old_jobs", 3600.0),
        ("delete-old-deliveries", "housekeeping.delete_old_deliveries", 3600.0),
        ("delete-old-quarantine", "housekeeping.delete_old_quarantine", 86_400.0),
        ("delete-expired-results", "housekeeping.delete_expired_results", 3600.0),
        ("delete-full-rate-buckets", "housekeeping.delete_full_rate_buckets", 3600.0),
        ("delete-expired-sessions", "housekeeping.delete_expired_sessions", 86_400.0),
    ]
}
#: One canary for each queue: what it finds is in ``housekeeping.models.Canary``.
CELERY_BEAT_SCHEDULE.update(
    {
        f"canary-{queue.name}": {
            "task": "housekeeping.canary",
            "args": [queue.name],
            "schedule": float(topology.CANARY_PERIOD_SECONDS),
            "options": {
                "queue": queue.name,
                "expire_seconds": queue.canary_patience_seconds,
            },
        }
        for queue in topology.QUEUES
    }
)
DJANGO_CELERY_BEAT_TZ_AWARE = True

#: Seconds a finished job and its rows are kept.
JOB_RETENTION_SECONDS = env.int(
    "JOB_RETENTION_SECONDS", 30 * 86_400, validate=environment.between(60, 3650 * 86_400)
)

#: Seconds an ended delivery is kept. Until then its id refuses a second one, and its result can be
#: read. Dead letters stay until somebody replays or discards them.
DELIVERY_RETENTION_SECONDS = env.int(
    "DELIVERY_RETENTION_SECONDS", 7 * 86_400, validate=environment.between(60, 3650 * 86_400)
)

# ---------------------------------------------------------------------------------------------
# Live progress — https://channels.readthedocs.io/
# ---------------------------------------------------------------------------------------------
CHANNEL_LAYERS = {
    "default": {
        # Not channels_redis.core: it keeps messages and members on the server, in more round trips.
        "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
        "CONFIG": {
            "hosts": [
                {
                    "address": env.redis_url("CHANNEL_LAYER_URL"),
                    # Progress is news, not truth: better dropped than waited for.
                    "socket_timeout": 10,
                    "socket_connect_timeout": 1,
                    "socket_keepalive": True,
                }
            ],
            "prefix": "celeriac-live",
        },
    }
}

# ---------------------------------------------------------------------------------------------
# Mail — https://docs.djangoproject.com/en/5.2/topics/email/
# ---------------------------------------------------------------------------------------------
EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
EMAIL_HOST = env.str("EMAIL_HOST", "localhost")
EMAIL_PORT = env.int("EMAIL_PORT", 25, validate=environment.between(1, 65_535))
EMAIL_HOST_USER = env.str("EMAIL_HOST_USER", "")
EMAIL_HOST_PASSWORD = env.str("EMAIL_HOST_PASSWORD", "")
EMAIL_USE_TLS = env.bool("EMAIL_USE_TLS", False)
#: Seconds for each answer of the mail server. Below the idle time a database session may have.
EMAIL_TIMEOUT = env.int("EMAIL_TIMEOUT_SECONDS", 20, validate=environment.between(1, 120))
DEFAULT_FROM_EMAIL = env.str("DEFAULT_FROM_EMAIL", "Celeriac <newsletter@localhost>")
#: Recipients that one message in the queue stands for.
NEWSLETTER_BATCH_SIZE = env.int("NEWSLETTER_BATCH_SIZE", 100, validate=environment.between(1, 1000))
#: Batches of one newsletter that are sent side by side. The others are not in the queue yet.
NEWSLETTER_PARALLEL_BATCHES = env.int(
    "NEWSLETTER_PARALLEL_BATCHES", 4, validate=environment.between(1, 1000)
)
#: Newsletters with fewer recipients share their batches with others; 0: none does.
NEWSLETTER_BUFFER_BELOW = env.int(
    "NEWSLETTER_BUFFER_BELOW", 10, validate=environment.between(0, 1000)
)

# ---------------------------------------------------------------------------------------------
# Static files: collected at image build, served by the web process with far-future headers
# ---------------------------------------------------------------------------------------------
STATIC_URL = "static/"
STATIC_ROOT = env.str("STATIC_ROOT", str(APP_DIRECTORY.parent / "static"))
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.InMemoryStorage"},
    "staticfiles": {
        "BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"
        if DEBUG
        else "whitenoise.storage.CompressedManifestStaticFilesStorage"
    },
}

# ---------------------------------------------------------------------------------------------
# Logs: one JSON object a line on standard output, request id and task id in each
# ---------------------------------------------------------------------------------------------
LOG_LEVEL = env.str("LOG_LEVEL", "INFO", validate=environment.one_of(*environment.LOG_LEVELS))
LOG_FORMAT = env.str("LOG_FORMAT", "json", validate=environment.one_of(*environment.LOG_FORMATS))
# Django would configure logging itself; telemetry.logs does it for every role alike.
LOGGING_CONFIG = "telemetry.logs.configure"
LOGGING = {"level": LOG_LEVEL, "format": LOG_FORMAT, "service": SERVICE_NAME}
DJANGO_STRUCTLOG_CELERY_ENABLED = True
DJANGO_STRUCTLOG_IP_LOGGING_ENABLED = False

# ---------------------------------------------------------------------------------------------
# Telemetry
# ---------------------------------------------------------------------------------------------
#: File in which worker and beat note that their loop turns; read by telemetry/probes.py.
HEARTBEAT_FILE = env.str("HEARTBEAT_FILE", "/tmp/celeriac-heartbeat")  # noqa: S108
#: Seconds that a message may wait, by queue.
QUEUE_WAIT_TARGETS = {queue.name: queue.wait_target_seconds for queue in topology.QUEUES}
#: Where worker, beat and relay serve their metrics; 0: nowhere. One port for all, because each has
#: an address of its own; the embedded stack, where they share one, gives each another.
METRICS_PORT = env.int("METRICS_PORT", 9811, validate=environment.between(0, 65_535))
#: Upper bounds in seconds of requests and of database statements (django-prometheus). Fewer than
#: its own: each is a series for each view and method.
PROMETHEUS_LATENCY_BUCKETS = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
    float("inf"),
)
#: Address that metrics are served on; all interfaces inside a container.
BIND_HOST = env.str("BIND_HOST", "0.0.0.0")  # noqa: S104
#: Base address of an OpenTelemetry collector that takes traces by OTLP over HTTP, without
#: ``/v1/traces``; empty: no traces. The names of these are OpenTelemetry's own.
OTEL_EXPORTER_OTLP_ENDPOINT = env.str(
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "",
    validate=environment.unless_empty(environment.url_with_scheme("http", "https")),
)
#: What is sent along, for a collector that wants a key: name=value,name=value.
OTEL_EXPORTER_OTLP_HEADERS = env.str("OTEL_EXPORTER_OTLP_HEADERS", "")
#: Share of the traces that are kept, from 0 to 1, decided where one begins.
OTEL_TRACES_SAMPLER_ARG = env.float(
    "OTEL_TRACES_SAMPLER_ARG", 1.0, validate=environment.between(0, 1)
)
#: Where errors are reported, in the form of Sentry's DSN; empty: nowhere.
SENTRY_DSN = env.str(
    "SENTRY_DSN",
    "",
    validate=environment.unless_empty(environment.url_with_scheme("http", "https")),
)
#: What the reports call this installation.
SENTRY_ENVIRONMENT = env.str("SENTRY_ENVIRONMENT", "production")
#: Links on the console to the tools beside it: name -> address in the reader's browser.
TOOL_LINKS: dict[str, str] = env.dict("TOOL_LINKS", {})

# ---------------------------------------------------------------------------------------------
# Faults on purpose: for local stacks
# ---------------------------------------------------------------------------------------------
#: Whether the console offers to break things, and workers obey. Not in production, which is where
#: TLS is.
FAULT_INJECTION = env.bool(
    "FAULT_INJECTION", False, validate=environment.false_if(BEHIND_TLS, "DJANGO_BEHIND_TLS")
)
#: Base address of the mail sink's HTTP API (Mailpit's), which can be told to refuse mails.
MAIL_SINK_URL = env.str(
    "MAIL_SINK_URL",
    "",
    validate=environment.unless_empty(environment.url_with_scheme("http", "https")),
)

environment.refuse_faults(env)
