"""`raybench store`: an S3 server on this machine."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from raybench.cli.terminal import out
from raybench.store import open_store
from raybench.store.server import embedded_server


def store(
    folder: Annotated[Path, typer.Argument(help="Where the data lives.")] = Path("out/store"),
    bucket: Annotated[str, typer.Option(help="Bucket to create.")] = "raybench",
) -> None:
    """Run an S3 server on this machine, on loopback, until stopped."""
    with embedded_server(folder) as server:
        open_store(f"s3://{bucket}").create()
        out.print(f"S3 server at {server.endpoint_url}, bucket {bucket!r}, data in {server.folder}", highlight=False)
        out.print("In another shell:", highlight=False)
        out.print(
            f"  export AWS_SHARED_CREDENTIALS_FILE={server.write_credentials()}",
            soft_wrap=True,
            highlight=False,
        )
        out.print(f"  export AWS_ENDPOINT_URL={server.endpoint_url} AWS_DEFAULT_REGION=us-east-1", highlight=False)
        out.print(f"  raybench pack FOLDER --line NAME --to s3://{bucket}/bench", highlight=False)
        _wait_for_stop()


def _wait_for_stop() -> None:
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()
