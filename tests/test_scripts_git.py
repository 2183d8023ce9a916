"""Scripts from git over real HTTPS: a server on loopback with an authority of its own."""

from __future__ import annotations

import base64
import contextlib
import gzip
import io
import os
import signal
import socket
import ssl
import subprocess
import sys
import tarfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
import trustme

from teckochecker.addresses import Allowed
from teckochecker.domain import Secret
from teckochecker.errors import Fault, InvalidInput
from teckochecker.scripts import shelf as shelves
from teckochecker.scripts.git import Access, Fetched, NotMoved, Repository, check, refresh
from teckochecker.scripts.git_command import GitError
from teckochecker.scripts.tree import MIB, SCRIPT, Bounds

HOST = "git.example.test"  # nobody's name: only a pinned address leads anywhere
TOKEN = "ghp_planted/4f9aQ+x7Zk"
LONG_S = 30.0  # for waits that end by themselves
COMMITTER = {
    "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@example.test",
    "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@example.test",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "PATH": os.environ["PATH"],
}


class Request(NamedTuple):
    method: str
    path: str
    authorization: str | None
    body: bytes

    @property
    def fetches(self) -> bool:
        return b"command=fetch" in self.body


Behaviour = Callable[["Handler"], bool]
"""Plays a request; True when it has answered, False to let git answer."""


class Handler(BaseHTTPRequestHandler):
    """`git http-backend` behind HTTPS; each request is noted first."""

    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        self.play(b"")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        zipped = self.headers.get("content-encoding") == "gzip"
        self.play(gzip.decompress(body) if zipped else body)

    def play(self, body: bytes) -> None:
        asked = Request(self.command, self.path, self.headers["authorization"], body)
        self.server.requests.append(asked)
        with contextlib.suppress(OSError):
            if not self.server.behaviour(self):
                self.serve(body)

    def serve(self, body: bytes) -> None:
        parts = urlsplit(self.path)
        env = COMMITTER | {
            "GIT_PROJECT_ROOT": str(self.server.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": parts.path,
            "QUERY_STRING": parts.query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("content-type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "GIT_PROTOCOL": self.headers.get("git-protocol", ""),
        }
        done = subprocess.run(
            ["git", "http-backend"], input=body, env=env, capture_output=True, check=False
        )
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if line)
        self.answer(int(headers.pop("Status", "200 OK").split()[0]), content, headers)

    def answer(
        self, status: int, content: bytes = b"", headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, root: Path, authority: trustme.CA) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(HOST, "127.0.0.1").configure_cert(context)
        self.context = context
        self.root = root
        self.requests: list[Request] = []
        self.connections = 0
        self.behaviour: Behaviour = lambda _: False
        self.port: int = self.server_address[1]
        self.let_go = threading.Event()

    def finish_request(self, request: Any, client_address: Any) -> None:
        self.connections += 1
        with contextlib.suppress(OSError), self.context.wrap_socket(request, True) as secure:
            Handler(secure, client_address, self)

    def hang(self, _: Handler) -> bool:
        self.let_go.wait(LONG_S)
        return True


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server(tmp_path: Path, authority: trustme.CA) -> Iterator[Server]:
    root = tmp_path / "served"
    root.mkdir()
    with Server(root, authority) as made:
        threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True).start()
        yield made
        made.let_go.set()
        made.shutdown()


class Upstream:
    """A repository that the server serves: `commit` writes files and gives the new commit."""

    def __init__(self, server: Server, name: str = "checks", *options: str) -> None:
        self.folder = server.root / name
        self.git("init", "--quiet", "--initial-branch=main", *options, str(self.folder), at=None)
        self.url = f"https://{HOST}:{server.port}/{name}"

    def git(self, *arguments: str, at: Path | None = Path(), stdin: bytes = b"") -> str:
        place = () if at is None else ("-C", str(self.folder / at))
        done = subprocess.run(
            ["git", *place, *arguments], env=COMMITTER, input=stdin, check=True, capture_output=True
        )
        return done.stdout.decode().strip()

    def commit(self, files: dict[str, bytes], message: str = "m") -> str:
        for path, content in files.items():
            file = self.folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        self.git("add", "--all")
        return self.record(message)

    def record(self, message: str = "m") -> str:
        self.git("commit", "--quiet", "--allow-empty", "-m", message)
        return self.git("rev-parse", "HEAD")

    def commit_tree(self, lines: bytes) -> str:
        """Commit a tree as `git mktree -z` reads it, whatever its names."""
        tree = self.git("mktree", "-z", "--missing", stdin=lines)
        commit = self.git("commit-tree", tree, "-m", "m")
        self.git("update-ref", "refs/heads/main", commit)
        return commit

    def blob(self, content: bytes = b"x") -> str:
        return self.git("hash-object", "-w", "--stdin", stdin=content)


@pytest.fixture
def upstream(server: Server) -> Upstream:
    return Upstream(server)


class Client:
    """`refresh` as a check calls it, with what it needs to reach the server."""

    def __init__(self, server: Server, folder: Path, authority: trustme.CA) -> None:
        self.shelf = folder / "scripts"
        bundle = folder / "authorities.pem"
        authority.cert_pem.write_to_path(str(bundle))
        self.asked: list[str] = []
        self.addresses = ["127.0.0.1"]
        self.access = Access(
            allowed=Allowed.parse("127.0.0.1"), resolve=self.resolve, ca_bundle=bundle
        )

    def resolve(self, host: str, port: int, **_: object) -> list[Any]:
        self.asked.append(host)
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in self.addresses
        ]

    def __call__(
        self,
        url: str,
        branch: str = "main",
        subfolder: str = "",
        secret: str | None = None,
        known: str | None = None,
        *,
        access: Access | None = None,
        entrypoint: str = "main.py",
        deadline_s: float = LONG_S,
        checkpoint: Callable[[], None] = lambda: None,
        bounds: Bounds = SCRIPT,
    ) -> Fetched | NotMoved:
        credentials = None if secret is None else Secret(secret)
        return refresh(
            Repository(url=url, branch=branch, subfolder=subfolder, credentials=credentials),
            self.shelf,
            entrypoint=entrypoint,
            known_commit=known,
            access=access or self.access,
            deadline_s=deadline_s,
            checkpoint=checkpoint,
            bounds=bounds,
        )

    def fetched(self, *arguments: Any, **options: Any) -> Fetched:
        found = self(*arguments, **options)
        assert isinstance(found, Fetched)
        return found

    def refused(self, *arguments: Any, **options: Any) -> GitError:
        with pytest.raises(GitError) as refusal:
            self(*arguments, **options)
        assert refusal.value.code == 2004
        assert self.leftovers() == []
        return refusal.value

    def leftovers(self) -> list[str]:
        """Files that are no scripts, and processes that still work in the shelf."""
        files = [path.name for path in self.shelf.glob("*") if path.suffix != ".tar"]
        return files + [line for line, _ in processes() if str(self.shelf) in line]

    def content(self, found: Fetched) -> dict[str, bytes]:
        data = shelves.read(self.shelf, found.script.sha256)
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            files = {member.name: archive.extractfile(member) for member in archive}
            return {name: file.read() for name, file in files.items() if file is not None}


def processes() -> Iterator[tuple[str, str]]:
    """Command line, and environment, of everything that runs here."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command, environment = (folder / name for name in ("cmdline", "environ"))
            yield (
                command.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"),
                environment.read_bytes().replace(b"\0", b"\n").decode("utf-8", "replace"),
            )


@pytest.fixture
def client(server: Server, tmp_path: Path, authority: trustme.CA) -> Client:
    return Client(server, tmp_path, authority)


def test_a_branch_becomes_a_script_byte_for_byte(client: Client, upstream: Upstream) -> None:
    files = {
        "main.py": b"print(1)\r\n",
        "requirements.txt": b"httpx\n",
        "lib/\xc5\xbe.py".encode("latin1").decode(): b"\0\xff" * 9000,
        "version.txt": b"$Id$ $Format:%H$\n",
        ".gitattributes": b"* text eol=lf export-subst ident filter=evil\nlib export-ignore\n",
    }
    commit = upstream.commit({})
    upstream.git("config", "core.autocrlf", "false")
    (upstream.folder / "main.py").write_bytes(files["main.py"])
    upstream.git("add", "main.py")
    commit = upstream.commit(files)

    found = client.fetched(upstream.url)

    assert found.commit == commit
    assert client.content(found) == files
    assert found.script.files == 5
    assert found.script.entrypoint == "main.py"
    assert [path for path, _ in found.script.dependencies] == ["requirements.txt"]
    assert client.leftovers() == []
