"""The console in a real browser: tests, and the pictures of the documentation."""
