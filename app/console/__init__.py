"""The page people open first, and the HTTP API. May import the workloads and all below them."""
