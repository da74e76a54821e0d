"""The fast lane reads JSON alone: what comes, or is to be answered, in another form goes to the application."""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.fast_lane import FastLane
from service.wire import forms

_FORMS = tuple(name.encode() for name, kind in forms.KINDS.items() if kind != "json")


class FormLane(FastLane):
    """One connection."""

    def on_headers_complete(self) -> None:
        """Choose who answers; uvicorn calls this when a request's headers are there."""
        if any(name in (b"content-type", b"accept") and _names_a_form(value) for name, value in self.headers):
            HttpToolsProtocol.on_headers_complete(self)
        else:
            super().on_headers_complete()


def _names_a_form(value: bytes) -> bool:
    lower = value.lower()
    return any(form in lower for form in _FORMS)
