"""Stories in which each alert fires, and in which it stays quiet, judged by promtool."""
