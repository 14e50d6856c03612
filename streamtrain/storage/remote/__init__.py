"""Object stores and web servers: one file system, requests with timeouts and retries."""
