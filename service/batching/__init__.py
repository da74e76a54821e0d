"""Requests become batches, and find a session: in this process, or over a socket to a worker."""
