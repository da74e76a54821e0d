"""What is wrong with a certificate is said in one sentence, and never spoils one that serves."""

import os
import ssl
from pathlib import Path

import pytest
import trustme

from service.access.tls import Tls, make_context
from service.settings import BadSettings, Settings


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def files(authority, tmp_path):
    """Settings of a certificate with its key in one file, in two, and another's key."""
    mine, other = authority.issue_cert("localhost"), authority.issue_cert("localhost")
    mine.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "both.pem"))
    mine.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    other.private_key_pem.write_to_path(str(tmp_path / "another.pem"))
    mine.cert_chain_pems[0].write_to_path(str(tmp_path / "certificate.pem"))
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    (tmp_path / "text.pem").write_text("hello")
    return tmp_path


def settings_of(files, **names):
    return Settings(**{name: files / file if file.endswith(".pem") else file for name, file in names.items()})


@pytest.mark.parametrize("minimum", ["1.2", "1.3"])
@pytest.mark.parametrize(
    "names", [{"tls_certificate": "both.pem"}, {"tls_certificate": "certificate.pem", "tls_key": "key.pem"}]
)
def test_a_certificate_may_stand_beside_its_key_or_with_it(files, names, minimum):
    context = make_context(settings_of(files, **names, tls_minimum=minimum))
    assert context.minimum_version == {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}[minimum]
    assert context.verify_mode == ssl.CERT_NONE


def test_with_an_authority_clients_must_show_a_certificate(files):
    context = make_context(settings_of(files, tls_certificate="both.pem", tls_client_ca="authority.pem"))
    assert context.verify_mode == ssl.CERT_REQUIRED


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ({"tls_certificate": "nothing.pem"}, "ROWCAST_TLS_CERTIFICATE '.*nothing.pem' cannot be read: No such file"),
        ({"tls_certificate": "certificate.pem", "tls_key": "nothing.pem"}, "ROWCAST_TLS_KEY '.*' cannot be read: No"),
        ({"tls_certificate": "certificate.pem"}, "must be a PEM certificate and its own unencrypted key"),
        ({"tls_certificate": "text.pem"}, "ROWCAST_TLS_CERTIFICATE '.*' must be a PEM certificate"),
        ({"tls_certificate": "certificate.pem", "tls_key": "another.pem"}, "and ROWCAST_TLS_KEY '.*another.pem' must"),
        ({"tls_certificate": "both.pem", "tls_client_ca": "text.pem"}, "ROWCAST_TLS_CLIENT_CA '.*' must be PEM cert"),
        ({"tls_certificate": "both.pem", "tls_client_ca": "nothing.pem"}, "ROWCAST_TLS_CLIENT_CA '.*' cannot be read"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(files, names, sentence):
    with pytest.raises(BadSettings, match=sentence):
        make_context(settings_of(files, **names))


def test_an_encrypted_key_is_refused_and_nobody_is_asked_for_its_password(files):
    (files / "locked.pem").write_bytes((files / "key.pem").read_bytes())
    locked = files / "locked.pem"
    assert os.system(f"openssl pkey -aes256 -passout pass:x -in {files}/key.pem -out {locked} 2>/dev/null") == 0
    with pytest.raises(BadSettings, match="its own unencrypted key"):
        make_context(settings_of(files, tls_certificate="certificate.pem", tls_key="locked.pem"))


def test_what_does_not_fit_together_leaves_the_certificate_that_there_was(files, authority, caplog):
    tls = Tls(settings_of(files, tls_certificate="certificate.pem", tls_key="key.pem"))
    context = tls.context()
    old = handshake(context, authority)
    (files / "certificate.pem").write_bytes(authority.issue_cert("localhost").cert_chain_pems[0].bytes())
    tls.refresh()
    assert handshake(context, authority) == old
    assert caplog.records[-1].message.endswith("the certificate that was read before stays")
    new = authority.issue_cert("localhost")
    new.private_key_pem.write_to_path(str(files / "key.pem"))
    new.cert_chain_pems[0].write_to_path(str(files / "certificate.pem"))
    tls.refresh()
    assert handshake(context, authority) != old


def test_a_certificate_that_is_away_for_a_moment_stays(files, authority, monkeypatch):
    tls = Tls(settings_of(files, tls_certificate="both.pem"))
    context = tls.context()
    old = handshake(context, authority)

    def away(*_, **__):
        raise PermissionError

    with monkeypatch.context() as while_away:
        while_away.setattr(Path, "stat", away)
        tls.refresh()
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(files / "both.pem"))
    tls.refresh()
    assert handshake(context, authority) != old


def handshake(server, authority):
    """The certificate that a client of this context is shown."""
    client = ssl.create_default_context()
    authority.configure_trust(client)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server, server_hostname="localhost")
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for side in (ours, theirs):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return ours.getpeercert(binary_form=True)
