"""A real S3-compatible server (moto's), and one that only ever refuses."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from streamcore.checkpoint.objects import ObjectStore

KEY_ID = "AKIATESTKEYID"
SECRET = "do-not-show-this"
START_S = 60.0


class S3Server:
    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
        port = self.endpoint.rpartition(":")[2]
        run = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", port]
        self._process = subprocess.Popen(run, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._wait()

    def bucket(self, name: str) -> str:
        with urllib.request.urlopen(urllib.request.Request(f"{self.endpoint}/{name}", method="PUT")):
            return name

    def store(self, bucket: str, prefix: str = "") -> ObjectStore:
        return ObjectStore(bucket, prefix, config(self.endpoint))

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _wait(self) -> None:
        until = time.monotonic() + START_S
        while True:
            try:
                with urllib.request.urlopen(f"{self.endpoint}/moto-api/"):
                    return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > until:
                    raise
                time.sleep(0.02)


def config(endpoint: str) -> dict[str, str]:
    return {
        "endpoint": endpoint,
        "access_key_id": KEY_ID,
        "secret_access_key": SECRET,
        "region": "us-east-1",
    }


@contextmanager
def refusing(status: int, code: str) -> Iterator[ObjectStore]:
    """A store whose server answers everything with this status and code, and repeats the key id as S3 does."""
    body = (
        f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message>"
        f"<AWSAccessKeyId>{KEY_ID}</AWSAccessKeyId></Error>"
    ).encode()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = answer

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield ObjectStore("bucket", "prefix", config(f"http://127.0.0.1:{server.server_port}"))
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
