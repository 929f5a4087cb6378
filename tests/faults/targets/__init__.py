"""What the suite can hurt: the stack in containers, the stack as processes, and plain Celery."""
