from tests.server.conftest import repository, start

__all__ = ["repository", "start"]
