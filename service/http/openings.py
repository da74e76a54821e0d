"""What answers begin with: a status, and headers that are the same in one after the other."""

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

Headers = list[tuple[bytes, bytes]]


class Opening:
    """The beginning of answers with status 200: uvicorn's own headers, which it makes anew every second, and these."""

    __slots__ = ("_headers", "_made_of", "_text")

    def __init__(self, headers: bytes) -> None:
        self._headers = headers
        self._made_of: Headers | None = None
        self._text = b""

    def text(self, uvicorns: Headers) -> bytes:
        """It, with uvicorn's headers as they are now."""
        if self._made_of is not uvicorns:
            self._made_of, self._text = uvicorns, opening(200, uvicorns) + self._headers
        return self._text


def opening(status: int, uvicorns: Headers) -> bytes:
    """The beginning of any answer."""
    return b"".join((STATUS_LINE[status], *(b"%b: %b\r\n" % field for field in uvicorns)))
