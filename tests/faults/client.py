"""A client that costs little, so that the server is what is measured."""

import asyncio


class Client(asyncio.Protocol):
    """One connection: asks, and hears one answer at a time."""

    def connection_made(self, transport):
        self.transport, self.heard, self.raw = transport, None, b""

    def ask(self, body, path="/predict", *headers):
        """Status, head in small letters, and body of the answer."""
        self.heard = asyncio.get_running_loop().create_future()
        lines = [f"POST {path} HTTP/1.1", "Host: x", *headers, f"Content-Length: {len(body)}", "", ""]
        self.transport.write("\r\n".join(lines).encode() + body)
        return self.heard

    def data_received(self, data):
        self.raw += data
        head, end, rest = self.raw.partition(b"\r\n\r\n")
        if not end:
            return
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        if len(rest) >= length:
            self.raw = b""
            self.heard.set_result((int(head[9:12]), head.lower(), rest[:length]))

    def connection_lost(self, exc):
        if self.heard is not None and not self.heard.done():
            self.heard.set_exception(exc or ConnectionResetError("closed"))
