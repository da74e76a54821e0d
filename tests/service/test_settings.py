import os

import pytest
from pydantic import SecretStr

from service.__main__ import port_is_taken
from service.settings import BadSettings, Settings, read_settings


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch):
    for variable in list(os.environ):
        if variable.startswith(("ROWCAST_", "LIT_")):
            monkeypatch.delenv(variable)


def refusal(monkeypatch, **environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BadSettings) as caught:
        read_settings()
    return str(caught.value)


def test_the_environment_says_how_to_serve(monkeypatch):
    monkeypatch.setenv("ROWCAST_PORT", "9000")
    monkeypatch.setenv("ROWCAST_API_KEY", "a long secret")
    settings = read_settings()
    assert (settings.port, settings.repository.as_posix()) == (9000, "models/published")
    assert settings.api_key == SecretStr("a long secret")


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch):
    monkeypatch.setenv("ROWCAST_DEFAULT_MODEL", "")
    assert read_settings().default_model is None


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"ROWCAST_TRUSTED_PROXIES": "10.0.0.0/8, proxy"}, "ROWCAST_TRUSTED_PROXIES: 'proxy' does not appear to be"),
        ({"ROWCAST_TRUSTED_PROXIES": "10.0.0.1/8"}, "ROWCAST_TRUSTED_PROXIES: 10.0.0.1/8 has host bits set"),
        ({"ROWCAST_RATE_LIMIT": "0"}, "ROWCAST_RATE_LIMIT: input should be greater than or equal to 0.001"),
        ({"ROWCAST_RATE_BURST": "5"}, "ROWCAST_RATE_BURST is set and ROWCAST_RATE_LIMIT is not"),
        ({"ROWCAST_TLS_KEY": "k.pem"}, "ROWCAST_TLS_KEY is set and ROWCAST_TLS_CERTIFICATE is not"),
        ({"ROWCAST_TLS_CLIENT_CA": "k.pem"}, "ROWCAST_TLS_CLIENT_CA is set and ROWCAST_TLS_CERTIFICATE is not"),
        ({"ROWCAST_TLS_MINIMUM": "1.1"}, "ROWCAST_TLS_MINIMUM: input should be '1.2' or '1.3'"),
        ({"ROWCAST_METRICS_PORT": "8000"}, "ROWCAST_METRICS_PORT must not be ROWCAST_PORT"),
        ({"ROWCAST_ACCESS_LOG": "2"}, "ROWCAST_ACCESS_LOG: input should be less than or equal to 1"),
        ({"ROWCAST_ACCESS_LOG": "nan"}, "ROWCAST_ACCESS_LOG: "),
        ({"ROWCAST_RATE_LIMIT": "inf"}, "ROWCAST_RATE_LIMIT: "),
        ({"ROWCAST_HEALTH_PATH": "/ready?deep=1"}, "ROWCAST_HEALTH_PATH: string should match pattern"),
        ({"ROWCAST_PREDICT_PATH": "/my%20model"}, "ROWCAST_PREDICT_PATH: string should match pattern"),
        ({"ROWCAST_DRIFT_ROWS": "299"}, "ROWCAST_DRIFT_ROWS: must be 0 or at least 500"),
    ],
)
def test_what_cannot_be_or_needs_another_setting_is_refused(monkeypatch, environment, sentence):
    assert sentence in refusal(monkeypatch, **environment)


@pytest.mark.parametrize("name", ["API_KEY", "API_KEYS_FILE", "TLS_CERTIFICATE", "TLS_CLIENT_CA"])
def test_an_empty_variable_opens_no_server_that_was_to_be_closed(monkeypatch, name):
    variable = f"ROWCAST_{name}"
    assert f"{variable} is empty, which would leave the server open" in refusal(monkeypatch, **{variable: ""})


def test_proxies_are_networks_or_addresses(monkeypatch):
    monkeypatch.setenv("ROWCAST_TRUSTED_PROXIES", " 10.0.0.0/8,::1, ")
    assert [str(network) for network in read_settings().proxies] == ["10.0.0.0/8", "::1/128"]


def test_a_misspelled_setting_is_refused_with_the_nearest_one(monkeypatch):
    assert refusal(monkeypatch, ROWCAST_PROT="9000") == "ROWCAST_PROT is not a setting; did you mean ROWCAST_PORT?"


def test_an_unheard_of_setting_is_refused_with_all_there_are(monkeypatch):
    assert "there are ROWCAST_REPOSITORY, ROWCAST_HOST" in refusal(monkeypatch, ROWCAST_XYZZY="1")


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("ROWCAST_PORT", "eighty", "ROWCAST_PORT: input should be a valid integer"),
        ("ROWCAST_PORT", "80", "ROWCAST_PORT: input should be greater than or equal to 1024, got '80'"),
        ("ROWCAST_HOST", "10.0.0.1", "ROWCAST_HOST: input should be '0.0.0.0', '127.0.0.1' or '::', got '10.0.0.1'"),
        ("ROWCAST_DEADLINE_S", "inf", "ROWCAST_DEADLINE_S: input should be a finite number"),
        ("ROWCAST_POLL_S", "1e9", "ROWCAST_POLL_S: input should be less than or equal to 1000000, got '1e9'"),
        ("ROWCAST_BACKEND", "tensorflow", "ROWCAST_BACKEND: input should be 'onnx' or 'torchscript'"),
        ("ROWCAST_MAX_ROWS", "999999999", "ROWCAST_MAX_ROWS must not be more than ROWCAST_MAX_WAITING_ROWS"),
    ],
)
def test_a_wrong_value_is_refused_in_one_sentence(monkeypatch, variable, value, sentence):
    said = refusal(monkeypatch, **{variable: value})
    assert said.startswith(sentence)
    assert "\n" not in said


def test_a_key_never_enters_a_sentence(monkeypatch):
    said = refusal(monkeypatch, ROWCAST_API_KEY="short")
    assert said.startswith("ROWCAST_API_KEY: ")
    assert "short" not in said.replace("shorter", "")


@pytest.mark.parametrize("key", ["a long secret\n", " a long secret", "a long\tsecret", "a long \udcff secret"])
def test_a_key_that_no_header_can_carry_is_refused(monkeypatch, key):
    """`echo KEY | base64` puts a line break into a Kubernetes Secret; every request would be answered 401."""
    said = refusal(monkeypatch, ROWCAST_API_KEY=key)
    assert said == (
        "ROWCAST_API_KEY: a line break, a blank at an end or what is not printable can never come in a header"
    )


def test_litserves_own_key_is_refused_since_it_would_lock_the_probes_out(monkeypatch):
    """Fact 6: LIT_SERVER_API_KEY puts /health behind the key."""
    assert "set ROWCAST_API_KEY instead" in refusal(monkeypatch, LIT_SERVER_API_KEY="whatever")


def test_every_setting_says_what_it_is():
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_an_address_that_this_machine_lacks_is_said_to_be_a_matter_of_the_host():
    """Such as `::` where there is no IPv6."""
    said = port_is_taken("192.0.2.1", 8000)  # of no machine: RFC 5737
    assert said == "port 8000 of 192.0.2.1 cannot be listened on: Cannot assign requested address; set ROWCAST_HOST"
