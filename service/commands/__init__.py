"""What `python -m service` does beside serving: look after a repository, predict files, measure a server."""
