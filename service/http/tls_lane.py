"""The fast lane over TLS: a connection that is closed is gone within a second."""

from service.http.fast_lane import FastLane

_GOODBYE_S = 1.0


class TlsLane(FastLane):
    """One connection over TLS.

    To close means to say so and to wait until the other side has said so too, for 30 s in uvloop. A client that keeps
    an idle connection does not read from it, and would hold a server that ends for longer than it may take.
    """

    def shutdown(self) -> None:
        """Take no further request; uvicorn calls this as the server ends."""
        super().shutdown()
        self._leave_soon()

    def on_response_complete(self) -> None:
        """Go on with the connection, or be done with it."""
        super().on_response_complete()
        self._leave_soon()

    def timeout_keep_alive_handler(self) -> None:
        """Nothing has come for a long time."""
        super().timeout_keep_alive_handler()
        self._leave_soon()

    def _leave_soon(self) -> None:
        if self.transport.is_closing():
            self.loop.call_later(_GOODBYE_S, self._leave)

    def _leave(self) -> None:
        if self.transport.get_write_buffer_size():  # of an answer that its client reads slowly
            self._leave_soon()
        else:
            self.transport.abort()
