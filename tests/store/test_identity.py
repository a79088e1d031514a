"""Keys of an hour from a token service, as the component `workload-identity` of the manifests gives them.

The service here takes any token and answers with the keys of the SeaweedFS server: whether a token is good is the
service's business, that the store is reached by what it answers is ours.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from raybench.store import Store, open_store
from raybench.store.server import HOST, EmbeddedServer

pytestmark = pytest.mark.s3
ANSWER = """<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
<AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>{}</AccessKeyId><SecretAccessKey>{}</SecretAccessKey>
<SessionToken></SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials>
</AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"""


@pytest.fixture
def asked(server: EmbeddedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, str]]]:
    """What the service is asked, in an environment without static keys."""
    found: list[dict[str, str]] = []

    class Service(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            found.append({name: value for name, (value, *_) in parse_qs(body).items()})
            data = ANSWER.format(server.access_key, server.secret_key).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    (tmp_path / "token").write_text("token of the service account")
    service = ThreadingHTTPServer((HOST, 0), Service)
    threading.Thread(target=service.serve_forever, daemon=True).start()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_ROLE_ARN": "arn:aws:iam::1:role/raybench",
        "AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "token"),
        "AWS_ENDPOINT_URL_STS": f"http://{HOST}:{service.server_port}",
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_CONFIG_FILE": os.devnull,
        "NO_PROXY": HOST,
    }.items():
        monkeypatch.setenv(name, value)
    yield found
    service.shutdown()
    service.server_close()


def test_a_service_account_reaches_the_store(bucket: Store, asked: list[dict[str, str]], tmp_path: Path) -> None:
    store = open_store(bucket.uri())
    assert store.put_if_absent("key", b"value")
    assert store.get("key") == b"value"
    (request,) = asked
    assert request["Action"] == "AssumeRoleWithWebIdentity"
    assert request["WebIdentityToken"] == (tmp_path / "token").read_text()
