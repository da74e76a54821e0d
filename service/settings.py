"""How to serve: every setting with its meaning, read from the environment and nowhere else."""

import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from models.errors import RowcastError, nearest, shown

PREFIX = "ROWCAST_"
PATH = r'^/[!"$&->@-~]{0,500}$'  # as it is once decoded and without a query
KEEP_VERSIONS = 4
_FEWEST_DRIFT_ROWS = 500  # nothing is said of drift over less than 300 rows, to which few would never add up
_CLOSES = frozenset({"API_KEY", "API_KEYS_FILE", "TLS_CERTIFICATE", "TLS_CLIENT_CA"})
Count = Annotated[int, Field(ge=1)]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Seconds = Annotated[float, Field(gt=0, le=1_000_000, allow_inf_nan=False)]  # the kernel waits for 24 days at most


class BadSettings(RowcastError):
    """The environment does not say how to serve.

    Attributes:
        reason: what is wrong, naming the variable.
    """

    code = "bad_settings"
    reason: str


class Settings(BaseSettings):
    """What an operator can set. `ROWCAST_PORT=9000` sets `port`."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", env_ignore_empty=True)

    repository: Annotated[Path, Field(description="Folder of the published versions.")] = Path("models/published")
    host: Annotated[
        Literal["0.0.0.0", "127.0.0.1", "::"],  # noqa: S104 - a container's port is published by its host
        Field(description="Address to listen on: `0.0.0.0`, `127.0.0.1` or `::`; LitServe knows these three."),
    ] = "0.0.0.0"  # noqa: S104
    port: Annotated[int, Field(ge=1024, le=65535, description="Port to listen on.")] = 8000
    default_model: Annotated[
        str | None,
        Field(description="The model of requests that name none. Unset: the only one, if there is one alone."),
    ] = None
    api_key: Annotated[
        SecretStr | None,
        Field(
            min_length=8,
            description="A key with all scopes. With it or a file of keys, all requests but probes must carry one.",
        ),
    ] = None
    page: Annotated[bool, Field(description="The web page at / and /docs.")] = True
    health_path: Annotated[
        str | None, Field(pattern=PATH, description="One more path that answers as `/ping` does.")
    ] = None
    predict_path: Annotated[
        str | None, Field(pattern=PATH, description="One more path that answers as `/invocations` does.")
    ] = None
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Field(description="The least important lines that are logged: `debug`, `info`, `warning` or `error`."),
    ] = "info"

    api_processes: Annotated[
        Count | None,
        Field(
            le=64, description="Processes that speak HTTP. Unset: one per core that a container may use, four at most."
        ),
    ] = None
    workers: Annotated[Count, Field(le=64, description="Inference workers (per GPU, where there are GPUs).")] = 1
    backend: Annotated[
        Literal["onnx", "torchscript"],
        Field(description="What runs the network: `onnx`, or `torchscript`, which needs torch installed."),
    ] = "onnx"
    device: Annotated[
        Literal["auto", "cpu", "cuda"],
        Field(
            description="Where networks run: `cpu`, `cuda`, or `auto`: on a GPU if there is one, "
            "but for batches that an API process computes sooner by itself."
        ),
    ] = "auto"

    max_body_bytes: Annotated[Count, Field(description="Longest request body.")] = 64 * 1024 * 1024
    max_connections: Annotated[
        Count, Field(description="Most connections of one API process; one more is answered 503 and closed.")
    ] = 4096
    max_rows: Annotated[Count, Field(description="Most rows in one request.")] = 100_000
    max_batch_rows: Annotated[Count, Field(description="Most rows in a batch of several requests.")] = 8192
    max_waiting_rows: Annotated[
        Count, Field(description="Most rows that wait in one API process; beyond it 503 with Retry-After.")
    ] = 200_000
    max_wait_s: Annotated[
        Seconds,
        Field(
            description="Longest wait in the queue, by the pace of the last batches, that a request is let in to; "
            "beyond it 503 with Retry-After."
        ),
    ] = 0.5
    receive_s: Annotated[
        Seconds,
        Field(description="How long a client may take to send headers, then a body, and to go on reading an answer."),
    ] = 10.0
    deadline_s: Annotated[Seconds, Field(description="How long a request may take before it is answered 504.")] = 30.0
    drain_s: Annotated[Seconds, Field(description="How long requests in flight may take once the server ends.")] = 20.0
    inline_s: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="A batch that takes no longer is computed in the API process itself, on a CPU and with onnx; "
            "0: workers compute all of them.",
        ),
    ] = 0.001
    spin_s: Annotated[
        float,
        Field(
            ge=0,
            le=0.01,
            description="How long an API process looks for the next request before it sleeps, while a client or two "
            "send one after the other; 0: it sleeps at once, for where its share of a core is limited.",
        ),
    ] = 0.0002
    hang_s: Annotated[
        Seconds,
        Field(
            description="A process that is at one thing, such as a batch, for longer is killed and replaced, as is one "
            "that is stopped for a fiftieth of it."
        ),
    ] = 10.0
    drift_rows: Annotated[
        int,
        Field(
            ge=0,
            le=1_000_000,
            description="Drift is measured over about so many of the latest rows of a version, at least 500; "
            "0 turns it off.",
        ),
    ] = 2000
    poll_s: Annotated[Seconds, Field(description="How often the repository is looked at for new versions.")] = 2.0
    keep_versions: Annotated[
        Count, Field(description="How many of a model's newest versions are live, beside those that labels name.")
    ] = KEEP_VERSIONS
    control: Annotated[
        bool, Field(description="Whether models are loaded and unloaded, and labels set and removed, by request.")
    ] = False

    api_keys_file: Annotated[
        Path | None, Field(description="TOML file of API keys, read again when it changes; see how-to/securing.md.")
    ] = None
    rate_limit: Annotated[
        float | None,
        Field(
            ge=0.001, le=1_000_000, description="Requests per second of each client: its key's name, else its address."
        ),
    ] = None
    rate_burst: Annotated[
        Count | None,
        Field(le=1_000_000, description="Requests that a client may send at once; unset: those of one second."),
    ] = None
    trusted_proxies: Annotated[
        str | None,
        Field(description="Networks, such as `10.0.0.0/8,::1`, whose X-Forwarded-For says who a client is."),
    ] = None
    tls_certificate: Annotated[
        Path | None,
        Field(description="PEM file of the certificate and its chain; with it the port speaks HTTPS alone."),
    ] = None
    tls_key: Annotated[
        Path | None, Field(description="PEM file of the certificate's key; unset: it is in the same.")
    ] = None
    tls_client_ca: Annotated[
        Path | None,
        Field(description="PEM file of authorities; if set, a client must show a certificate of one of them."),
    ] = None
    tls_minimum: Annotated[
        Literal["1.2", "1.3"], Field(description="The oldest version of TLS that is spoken: `1.2` or `1.3`.")
    ] = "1.2"
    metrics_port: Annotated[
        int | None,
        Field(ge=1024, le=65535, description="A second port, for `/metrics` and the health probes alone; plain HTTP."),
    ] = None
    log_format: Annotated[
        Literal["text", "json"], Field(description="How a line of the log is written: `text` or `json`.")
    ] = "text"
    access_log: Annotated[
        float,
        Field(
            ge=0, le=1, description="Share of requests that get a line in the log; those answered 5xx all do, unless 0."
        ),
    ] = 0.0
    tracing: Annotated[
        Literal["off", "otlp"],
        Field(description="otlp: send spans as the OTEL_* variables say; needs the dependency group `otel`."),
    ] = "off"

    @field_validator("api_key")
    @classmethod
    def _can_be_sent(cls, key: SecretStr | None) -> SecretStr | None:
        secret = "" if key is None else key.get_secret_value()
        if not secret.isprintable() or secret != secret.strip():
            raise ValueError("a line break, a blank at an end or what is not printable can never come in a header")
        return key

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, text: str | None) -> str | None:
        _networks_of(text)
        return text

    @property
    def proxies(self) -> tuple[Network, ...]:
        """The networks of the proxies that are trusted."""
        return _networks_of(self.trusted_proxies)

    @model_validator(mode="after")
    def _what_belongs_together_is_set_together(self) -> "Settings":
        for name, needed in (
            ("rate_burst", "rate_limit"),
            ("tls_key", "tls_certificate"),
            ("tls_client_ca", "tls_certificate"),
        ):
            if getattr(self, name) is not None and getattr(self, needed) is None:
                raise ValueError(f"{PREFIX}{name.upper()} is set and {PREFIX}{needed.upper()} is not")
        if self.metrics_port == self.port:
            raise ValueError(f"{PREFIX}METRICS_PORT must not be {PREFIX}PORT, which answers /metrics anyhow")
        return self

    @field_validator("drift_rows")
    @classmethod
    def _enough_to_say_something(cls, rows: int) -> int:
        if 0 < rows < _FEWEST_DRIFT_ROWS:
            raise ValueError(f"must be 0 or at least {_FEWEST_DRIFT_ROWS}, since of fewer rows nothing is said")
        return rows

    @model_validator(mode="after")
    def _a_request_fits_the_queue(self) -> "Settings":
        if self.max_rows > self.max_waiting_rows:
            raise ValueError(f"{PREFIX}MAX_ROWS must not be more than {PREFIX}MAX_WAITING_ROWS")
        return self


def _networks_of(text: str | None) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(part.strip()) for part in (text or "").split(",") if part.strip())


def read_settings() -> Settings:
    """The settings of this process's environment.

    Raises:
        BadSettings: a variable is no setting, or has a value that it cannot have.
    """
    if "LIT_SERVER_API_KEY" in os.environ:
        raise BadSettings(f"LIT_SERVER_API_KEY would lock the health probes out; set {PREFIX}API_KEY instead")
    known = [name.upper() for name in Settings.model_fields]
    for variable in sorted(os.environ):
        name = variable.upper().removeprefix(PREFIX)
        if variable.upper().startswith(PREFIX) and name not in known:
            near = nearest(name, known)
            hint = f"did you mean {PREFIX}{near}?" if near else f"there are {', '.join(PREFIX + k for k in known)}"
            raise BadSettings(f"{variable} is not a setting; {hint}")
        if name in _CLOSES and variable.upper().startswith(PREFIX) and not os.environ[variable]:
            raise BadSettings(f"{variable} is empty, which would leave the server open; unset it if that is meant")
    try:
        return Settings()
    except ValidationError as error:
        raise BadSettings("; ".join(_sentence(dict(fault)) for fault in error.errors(include_url=False))) from None


def _sentence(fault: Mapping[str, Any]) -> str:
    message = str(fault["msg"]).removeprefix("Value error, ")
    if not fault["loc"]:
        return message
    name = str(fault["loc"][0])
    got = "" if name == "api_key" else f", got {shown(fault['input'])}"  # a key never enters a log
    return f"{PREFIX}{name.upper()}: {message[0].lower()}{message[1:]}{got}"
