"""A real object store for drills and tests: MinIO, as a child process on a free loopback port.

It is a context manager with a folder of its own, and can be killed, paused and started again with its data.
A server is ended by the process id that was started here, never by name.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlencode

from drills.ports import free_port
from drills.tools import find_tool

ACCESS_KEY, SECRET_KEY, REGION = "ponor-test", "ponor-test-secret", "us-east-1"
READY_S_MAX = 30.0
_START_ATTEMPTS = 3
"""Between picking a free port and the server's bind somebody else may take it."""


class StoreServer:
    """One S3 server process. `folder` holds its data and its output."""

    name = ""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.data.mkdir(parents=True, exist_ok=True)
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What AWS clients, Ponor among them, have to be told."""
        return {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_REGION": REGION}

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} is not running"
        return self._process.pid

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    def url(self, bucket: str, prefix: str = "", **options: str) -> str:
        """The object store URL, as `open_store` and `--object-store` take it."""
        query = urlencode({"endpoint": self.endpoint, "region": REGION, **options}, safe=":/")
        return f"s3://{bucket}{'/' if prefix else ''}{prefix}?{query}"

    def create_bucket(self, bucket: str) -> None:
        """One that exists is fine."""
        import boto3
        from botocore.config import Config

        client = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            region_name=REGION,
            config=Config(s3={"addressing_style": "path"}),
        )
        with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou, client.exceptions.BucketAlreadyExists):
            client.create_bucket(Bucket=bucket)

    def start(self) -> None:
        """Returns when the server answers. The port is picked at the first start and kept for later ones."""
        for attempt in range(_START_ATTEMPTS):
            port = self.port or free_port()
            with self.log.open("ab") as output:
                self._process = subprocess.Popen(
                    self._command(port),
                    env={**os.environ, **self._server_environment()},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
            if self._wait_ready(port):
                self.port = port
                return
            self.stop()
            if attempt == _START_ATTEMPTS - 1:
                raise RuntimeError(f"{self.name} did not start:\n{self.log.read_text(errors='replace')[-4000:]}")

    def stop(self) -> None:
        """End it in good order; a server that does not want to is killed."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def kill(self) -> None:
        """kill -9."""
        process, self._process = self._process, None
        assert process is not None, f"{self.name} is not running"
        process.kill()
        process.wait()

    def restart(self) -> None:
        """Start it again on the same port with the same data, after `kill` or while it runs."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """It keeps its connections and answers nothing, until `resume`."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def __enter__(self) -> StoreServer:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _command(self, port: int) -> list[str]:
        raise NotImplementedError

    def _server_environment(self) -> dict[str, str]:
        return {}

    def _ready_path(self) -> str:
        return "/"

    def _wait_ready(self, port: int) -> bool:
        deadline = time.monotonic() + READY_S_MAX
        while time.monotonic() < deadline:
            assert self._process is not None
            if self._process.poll() is not None:
                return False
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}{self._ready_path()}", timeout=1):
                    return True
            except urllib.error.HTTPError as error:
                # Any answer of the S3 API will do: an anonymous request is refused by a server that is ready.
                if error.code < 500:
                    return True
            except OSError:
                pass
            time.sleep(0.02)
        return False


class MinioServer(StoreServer):
    name = "minio"

    def _command(self, port: int) -> list[str]:
        return [
            str(find_tool("minio")), "server", "--quiet", "--address", f"127.0.0.1:{port}",
            "--console-address", f"127.0.0.1:{free_port()}", str(self.data),
        ]  # fmt: skip

    def _server_environment(self) -> dict[str, str]:
        return {
            "MINIO_ROOT_USER": ACCESS_KEY,
            "MINIO_ROOT_PASSWORD": SECRET_KEY,
            "MINIO_BROWSER": "off",
            "MINIO_UPDATE": "off",
            "MINIO_CALLHOME_ENABLE": "off",
        }

    def _ready_path(self) -> str:
        return "/minio/health/ready"
