"""Which versions are live, and which of them answers a request."""
