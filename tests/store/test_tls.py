"""The S3 server behind TLS: certificates are verified unless a bundle says whom else to trust."""

from __future__ import annotations

import contextlib
import datetime
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlparse

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from raybench.config.experiment import parse_experiment
from raybench.config.plan import open_experiment_store
from raybench.errors import InputError, StoreUnreachable
from raybench.store import Store, open_store
from raybench.store.server import EmbeddedServer

Key = ec.EllipticCurvePrivateKey


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def certificate(subject: str, key: Key, issuer: str, issuer_key: Key, *extensions: x509.ExtensionType) -> bytes:
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(
        issuer_name=name(issuer),
        subject_name=name(subject),
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=now - datetime.timedelta(hours=1),
        not_valid_after=now + datetime.timedelta(hours=1),
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@pytest.fixture
def authority(tmp_path: Path) -> tuple[Path, Callable[[str], Path]]:
    """The bundle of a new authority, and what issues a certificate for an IP address, key included."""
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_id = x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key())
    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    ca = tmp_path / "ca.pem"
    ca.write_bytes(certificate("ca", ca_key, "ca", ca_key, x509.BasicConstraints(True, None), ca_id, usage))

    def issue(address: str) -> Path:
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))])
        issued_by = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ca_id)
        path = tmp_path / f"{address}.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + certificate(address, key, "ca", ca_key, names, issued_by)
        )
        return path

    return ca, issue


@contextlib.contextmanager
def tls_before(server: EmbeddedServer, identity: Path) -> Iterator[str]:
    """An https endpoint that hands everything on to the server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity)
    upstream = urlparse(server.endpoint_url)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=handle, args=(plain,), daemon=True).start()

    def handle(plain: socket.socket) -> None:
        with (
            contextlib.suppress(OSError),
            plain,
            context.wrap_socket(plain, server_side=True) as client,
            socket.create_connection((str(upstream.hostname), upstream.port or 80)) as behind,
        ):
            to = {client: behind, behind: client}
            while True:
                ready = [client] if client.pending() else select.select([client, behind], [], [])[0]
                for source in ready:
                    if not (data := source.recv(65536)):
                        return
                    to[source].sendall(data)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"https://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()


def works(store: Store) -> bool:
    store.put("k", b"1")
    return store.get("k") == b"1"


@pytest.mark.usefixtures("short_pauses")
def test_only_a_trusted_certificate_is_taken(
    server: EmbeddedServer,
    bucket: Store,
    authority: tuple[Path, Callable[[str], Path]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ca, issue = authority
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    with tls_before(server, issue("127.0.0.1")) as endpoint:
        with pytest.raises(StoreUnreachable, match=r"not trusted.*AWS_CA_BUNDLE"):
            open_store(bucket.uri(), endpoint_url=endpoint).get("k")
        assert works(open_store(bucket.uri(), endpoint_url=endpoint, ca_bundle=str(ca)))
        experiment = parse_experiment(
            f"name: n\nstore: {bucket.uri()}\nlines: [a]\nmodels: [fake]\n"
            f"storage: {{endpoint_url: '{endpoint}', ca_bundle: '{ca}'}}\n"
        )
        assert works(open_experiment_store(experiment))
        monkeypatch.setenv("AWS_CA_BUNDLE", str(ca))
        assert works(open_store(bucket.uri(), endpoint_url=endpoint))
    with tls_before(server, issue("127.0.0.2")) as endpoint, pytest.raises(StoreUnreachable, match="not trusted"):
        open_store(bucket.uri(), endpoint_url=endpoint).get("k")


def test_a_bundle_that_is_not_there(bucket: Store) -> None:
    with pytest.raises(InputError, match="no such file"):
        open_store(bucket.uri(), ca_bundle="/nowhere/ca.pem").get("k")
