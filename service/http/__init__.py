"""Connections, and the fast lane: predictions answered from within uvicorn's HTTP protocol."""
