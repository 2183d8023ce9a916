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
        self.url = f"https://{HOST}:{self.port}/checks"
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
        """Files that are no scripts; processes at work there are gone in a moment, or it fails.

        What has been killed is still seen for as long as it takes to die.
        """
        wait_until(lambda: not self.processes())
        return [path.name for path in self.shelf.glob("*") if path.suffix != ".tar"]

    def processes(self) -> list[tuple[str, str]]:
        return [process for process in processes() if str(self.shelf) in " ".join(process)]

    def content(self, found: Fetched) -> dict[str, bytes]:
        data = shelves.read(self.shelf, found.script.sha256)
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            files = {member.name: archive.extractfile(member) for member in archive}
            return {name: file.read() for name, file in files.items() if file is not None}


def wait_until(wanted: Callable[[], bool]) -> None:
    until = time.monotonic() + LONG_S
    while not wanted():
        assert time.monotonic() < until
        time.sleep(0.02)


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
        ".gitattributes": b"* text eol=crlf export-subst ident\nlib export-ignore\n",
        "main.py": b"print(1)  # $Id$ $Format:%H$\n",
        "requirements.txt": b"httpx\n",
        "lib/\u017e.bin": b"\0\xff" * 9000,
        "lib/empty": b"",
    }
    commit = upstream.commit(files)

    found = client.fetched(upstream.url)

    assert found.commit == commit
    assert client.content(found) == files
    assert found.script.files == 5
    assert found.script.entrypoint == "main.py"
    assert [path for path, _ in found.script.dependencies] == ["requirements.txt"]
    assert client.leftovers() == []


def test_an_executable_stays_one(client: Client, upstream: Upstream) -> None:
    upstream.commit({"main.py": b"#!/usr/bin/python3\n", "data": b"x"})
    upstream.git("update-index", "--chmod=+x", "main.py")
    upstream.record()
    archive = shelves.path(client.shelf, client.fetched(upstream.url).script.sha256)
    with tarfile.open(archive) as opened:
        assert {member.name: member.mode for member in opened} == {"main.py": 0o555, "data": 0o444}


def test_a_commit_that_moves_is_a_new_script(client: Client, upstream: Upstream) -> None:
    first = client.fetched(upstream.url, known=upstream.commit({"main.py": b"1"})[:-1] + "x")
    commit = upstream.commit({"main.py": b"2"})
    second = client.fetched(upstream.url, known=first.commit)
    assert second.commit == commit
    assert client.content(second) == {"main.py": b"2"}
    assert second.script.sha256 != first.script.sha256


def test_nothing_is_fetched_while_the_commit_stays(
    client: Client, upstream: Upstream, server: Server
) -> None:
    commit = client.fetched(upstream.url, known=upstream.commit({"main.py": b"1"}) + "0").commit
    assert any(request.fetches for request in server.requests)
    server.requests.clear()

    assert client(upstream.url, known=commit) == NotMoved(commit=commit)

    assert [request.method for request in server.requests] == ["GET", "POST"]
    assert not any(request.fetches for request in server.requests)
    assert len(list(client.shelf.iterdir())) == 1


def test_a_commit_without_a_change_of_files_is_the_same_script(
    client: Client, upstream: Upstream
) -> None:
    first = client.fetched(upstream.url, known=upstream.commit({"main.py": b"1"}) + "0")
    upstream.record("only words")
    assert client.fetched(upstream.url, known=first.commit).script == first.script


def test_only_the_last_commit_is_fetched(client: Client, upstream: Upstream) -> None:
    upstream.commit({"main.py": b"1", "large": os.urandom(3 * MIB)})
    (upstream.folder / "large").unlink()
    upstream.commit({})
    bounds = Bounds(unpacked_bytes=MIB, entries=10, depth=5)
    assert client.content(client.fetched(upstream.url, bounds=bounds)) == {"main.py": b"1"}


def test_a_subfolder_is_the_script(client: Client, upstream: Upstream) -> None:
    upstream.commit({"checks/nightly/main.py": b"1", "checks/nightly/a/b": b"2", "main.py": b"3"})
    os.symlink("/etc/passwd", upstream.folder / "link")  # outside of the subfolder: no matter
    upstream.commit({})
    found = client.fetched(upstream.url, subfolder="./checks//nightly/")
    assert client.content(found) == {"main.py": b"1", "a/b": b"2"}


@pytest.mark.parametrize("subfolder", ["nosuch", "main.py", "checks/nosuch"])
def test_a_subfolder_that_is_none_is_not_found(
    client: Client, upstream: Upstream, subfolder: str
) -> None:
    upstream.commit({"main.py": b"1", "checks/main.py": b"1"})
    error = client.refused(upstream.url, subfolder=subfolder)
    assert error.fault is Fault.NOT_FOUND
    assert "correct the subfolder" in str(error)


def test_a_branch_may_have_slashes(client: Client, upstream: Upstream) -> None:
    commit = upstream.commit({"main.py": b"1"})
    upstream.git("branch", "release/2.1+x")
    upstream.git("checkout", "--quiet", "--orphan", "other")
    upstream.record()
    assert client.fetched(upstream.url, "release/2.1+x").commit == commit


def test_a_branch_that_does_not_exist_is_not_found(client: Client, upstream: Upstream) -> None:
    commit = upstream.commit({"main.py": b"1"})
    # ls-remote lists these too when asked for refs/heads/gone, and a tag is no branch.
    for ref in ("refs/x/refs/heads/gone", "refs/heads/a/refs/heads/gone", "refs/tags/gone"):
        upstream.git("update-ref", ref, commit)
    error = client.refused(upstream.url, "gone")
    assert error.fault is Fault.NOT_FOUND
    assert "branch gone" in str(error)


def test_sha256_repositories_work(client: Client, server: Server) -> None:
    upstream = Upstream(server, "modern", "--object-format=sha256")
    commit = upstream.commit({"main.py": b"1"})
    assert len(commit) == 64
    assert client.fetched(upstream.url).commit == commit


BRANCHES = (
    *("", "-", "--upload-pack=touch /tmp/x", "-u", "a..b", "a b", "main:x", "+main", "^main"),
    *("@{-1}", "x@{1}", "main~1", "*", "a?", "[a]", "/main", "main/", "a//b", ".a", "a/.b", "a."),
    *("x.lock", "x.lock/y", "a\\b", "a\nb", "a\0b", "HEAD^", "caf\u00e9", "b" * 201, "a/-b"),
)


@pytest.mark.parametrize("branch", BRANCHES)
def test_odd_branches_are_refused(branch: str) -> None:
    with pytest.raises(InvalidInput, match="can't be a branch"):
        check(Repository(url="https://github.com/a/b", branch=branch), Allowed())


URLS = (
    *("", "-u", "--upload-pack=x", "/etc", "file:///etc", "git://a.example/b", "ext::sh -c x"),
    *("ssh://git@a.example/b", "git@a.example:b", "ftp://a.example/b", "http://a.example/b"),
    *("https://", "https:///b", "https://a.example", "https://a.example/", "https://a.example//"),
    *("https://user@a.example/b", "https://user:pw@a.example/b", "https://a.example/b?x=1"),
    *("https://a.example/b#x", "https://a.example/b c", "https://a.example/b\nc"),
    *("https://a.example/b\\c", "https://a.example:0/b", "https://a.example:99999/b"),
    *("https://a.example/b;c", "https://a.example/'b'", "https://a.example/b\u0000"),
    *("https://localhost/b", "https://127.1/b", "https://[::1]/b", "https://169.254.169.254/b"),
    *("https://[::ffff:10.0.0.1]/b", "https://0x7f000001/b", "https://metadata.google.internal/b"),
)


@pytest.mark.parametrize("url", URLS)
def test_odd_urls_are_refused(url: str) -> None:
    with pytest.raises(InvalidInput):
        check(Repository(url=url), Allowed())


@pytest.mark.parametrize("listed", ["", "a.example", "a.example:80"])
@pytest.mark.parametrize("url", ["http://a.example/b", "HTTP://10.0.0.1/b", "http://u@a.example/b"])
def test_http_is_refused_for_itself_whatever_hosts_are_listed(url: str, listed: str) -> None:
    with pytest.raises(InvalidInput, match=r"^git repositories are fetched over https:// only$"):
        check(Repository(url=url), Allowed.parse(listed))


@pytest.mark.parametrize("url", ["https://github.com/a/b.git", "https://a.example:8443/g/r%20x/"])
def test_ordinary_urls_pass(url: str) -> None:
    check(Repository(url=url, branch="release/2024.1", subfolder="a/b"), Allowed())


@pytest.mark.parametrize("subfolder", ["/etc", "..", "a/../b", "a\\b", "C:/x", "a\nb"])
def test_odd_subfolders_are_refused(subfolder: str) -> None:
    with pytest.raises(InvalidInput, match="subfolder"):
        check(Repository(url="https://github.com/a/b", subfolder=subfolder), Allowed())


def basic(pair: str) -> str:
    return "Basic " + base64.b64encode(pair.encode()).decode()


def private(pair: str) -> Behaviour:
    """A server that wants these credentials."""

    def play(handler: Handler) -> bool:
        if handler.headers["authorization"] == basic(pair):
            return False
        handler.answer(401, b"no", {"www-authenticate": 'Basic realm="x"'})
        return True

    return play


@pytest.mark.parametrize(
    ("secret", "pair"),
    [
        (TOKEN, f"x-access-token:{TOKEN}"),
        (f"{TOKEN}\n", f"x-access-token:{TOKEN}"),
        (f"deploy:{TOKEN}", f"deploy:{TOKEN}"),
        ('we"i;r#d\\: [x]\n\tž', 'we"i;r#d\\: [x]\n\tž'),
    ],
)
def test_a_private_repository_opens_with_its_secret(
    client: Client, upstream: Upstream, server: Server, secret: str, pair: str
) -> None:
    upstream.commit({"main.py": b"1"})
    server.behaviour = private(pair)
    assert client.content(client.fetched(upstream.url, secret=secret)) == {"main.py": b"1"}
    assert {request.authorization for request in server.requests} == {basic(pair)}
    assert client.leftovers() == []


@pytest.mark.parametrize("secret", [None, "wrong-token"])
def test_wrong_credentials_are_told_apart(
    client: Client, upstream: Upstream, server: Server, secret: str | None
) -> None:
    upstream.commit({"main.py": b"1"})
    server.behaviour = private(f"x-access-token:{TOKEN}")
    error = client.refused(upstream.url, secret=secret)
    assert error.fault is Fault.CREDENTIALS
    assert "check the job's git secret" in str(error)


def test_a_secret_stands_on_no_command_line_in_no_environment_and_no_file(
    client: Client, upstream: Upstream, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream.commit({"main.py": b"1"})
    monkeypatch.setenv("SECRET_KEY", "the-daemon's-own-key")
    planted = [TOKEN.encode(), basic(f"x-access-token:{TOKEN}").encode(), b"the-daemon's-own-key"]
    seen: list[tuple[str, str]] = []
    files: list[bytes] = []

    def look(_: Handler) -> bool:
        seen.extend(client.processes())
        files.extend(path.read_bytes() for path in client.shelf.rglob("*") if path.is_file())
        return False

    server.behaviour = look
    client.fetched(upstream.url, secret=TOKEN)

    assert any("git-remote-https" in command or "remote-https" in command for command, _ in seen)
    assert files
    everything = [text.encode() for process in seen for text in process] + files
    assert not any(value in text for value in planted for text in everything)


def test_git_sees_nothing_of_our_environment(
    client: Client,
    upstream: Upstream,
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    upstream.commit({"main.py": b"1"})
    ours = tmp_path / "ours"
    Upstream(server, "../ours").git("config", "url.https://127.0.0.1:1/.insteadOf", "https://")
    monkeypatch.chdir(ours)
    for name in ("https_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("GIT_DIR", str(ours / ".git"))
    monkeypatch.setenv("GIT_CONFIG_PARAMETERS", "'http.sslVerify=false'")
    environments: list[str] = []

    def look(_: Handler) -> bool:
        environments.extend(env for line, env in client.processes() if "remote-https" in line)
        return False

    server.behaviour = look
    client.fetched(upstream.url)

    names = {line.partition("=")[0] for env in environments for line in env.split("\n")}
    assert names - {""} <= {
        *("PATH", "LC_ALL", "HOME", "PWD", "OLDPWD", "_"),
        *("GIT_CEILING_DIRECTORIES", "GIT_CONFIG_GLOBAL", "GIT_CONFIG_NOSYSTEM", "GIT_DIR"),
        *("GIT_ATTR_NOSYSTEM", "GIT_TERMINAL_PROMPT", "GIT_ALLOW_PROTOCOL"),
        *("GIT_CONFIG_PARAMETERS", "GIT_EXEC_PATH", "GIT_PREFIX"),
    }
    home = next(line for line in environments[0].split("\n") if line.startswith("HOME="))
    assert str(client.shelf) in home  # no .netrc of ours
    assert "sslVerify" not in environments[0]


def test_a_redirect_is_refused(client: Client, upstream: Upstream, server: Server) -> None:
    upstream.commit({"main.py": b"1"})

    def redirect(handler: Handler) -> bool:
        if handler.path.startswith("/moved"):
            target = handler.path.replace("/moved", "/checks")
            handler.answer(302, b"", {"location": f"https://{HOST}:{server.port}{target}"})
            return True
        return False

    server.behaviour = redirect
    error = client.refused(f"https://{HOST}:{server.port}/moved", secret=TOKEN)
    assert error.fault is Fault.REFUSED
    assert "redirects" in str(error)
    assert [request.path.split("/")[1] for request in server.requests] == ["moved"]


FORBIDDEN = (
    *("127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "0.0.0.0", "224.0.0.1"),
    *("169.254.169.254", "168.63.129.16", "::1", "::", "::ffff:127.0.0.1", "fe80::1", "fd00::1"),
    *(
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "2001:db8::1",
        "198.18.0.1",
        "192.0.2.1",
        "255.255.255.255",
    ),
)


@pytest.mark.parametrize("address", FORBIDDEN)
def test_a_name_that_leads_inside_is_not_connected_to(
    client: Client, server: Server, address: str
) -> None:
    client.addresses = ["140.82.121.3", address]  # one bad address is enough
    closed = Access(resolve=client.resolve, ca_bundle=client.access.ca_bundle)
    error = client.refused(server.url, access=closed)
    assert error.fault is Fault.REFUSED
    assert "public address" in str(error) or "metadata" in str(error)
    assert server.connections == 0


def test_our_own_address_is_never_asked(client: Client, server: Server) -> None:
    own = Access(
        allowed=Allowed.parse("127.0.0.1"),
        resolve=client.resolve,
        own=(("127.0.0.1", server.port),),
    )
    assert "TeckoChecker itself" in str(client.refused(server.url, access=own))
    assert server.connections == 0


def test_a_name_is_resolved_once(client: Client, upstream: Upstream) -> None:
    """A second answer could lead elsewhere; git gets the address that was checked."""
    upstream.commit({"main.py": b"1"})
    client.fetched(upstream.url)
    assert client.asked == [HOST]


def test_another_address_is_tried_where_one_is_dead(client: Client, upstream: Upstream) -> None:
    upstream.commit({"main.py": b"1"})
    client.addresses = ["127.0.0.2", "::1", "127.0.0.1"]  # the server listens on the last only
    client.access = Access(
        allowed=Allowed.parse("127.0.0.0/8, ::1"),
        resolve=client.resolve,
        ca_bundle=client.access.ca_bundle,
    )
    client.fetched(upstream.url)


def test_an_address_needs_no_name(client: Client, upstream: Upstream, server: Server) -> None:
    upstream.commit({"main.py": b"1"})
    client.fetched(f"https://127.0.0.1:{server.port}/checks")


def test_a_name_without_address_may_have_one_later(client: Client, server: Server) -> None:
    def resolve(*_: object, **__: object) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    error = client.refused(server.url, access=Access(resolve=resolve))
    assert error.fault is Fault.TRANSIENT
    assert "Name or service not known" in str(error)


def test_an_unknown_authority_is_refused(client: Client, upstream: Upstream) -> None:
    upstream.commit({"main.py": b"1"})
    distrustful = Access(allowed=client.access.allowed, resolve=client.resolve)
    error = client.refused(upstream.url, access=distrustful)
    assert error.fault is Fault.TRANSIENT
    assert "certificate" in str(error)


def test_a_certificate_of_another_host_is_refused(
    client: Client, upstream: Upstream, server: Server
) -> None:
    upstream.commit({"main.py": b"1"})
    error = client.refused(f"https://other.example.test:{server.port}/checks")
    assert "SSL" in str(error) or "certificate" in str(error)


@pytest.mark.parametrize(
    ("status", "fault"),
    [
        (403, Fault.CREDENTIALS),
        (404, Fault.NOT_FOUND),
        (410, Fault.NOT_FOUND),
        (429, Fault.RATE_LIMITED),
        (500, Fault.TRANSIENT),
        (503, Fault.TRANSIENT),
    ],
)
def test_a_server_s_refusal_has_its_kind(
    client: Client, server: Server, status: int, fault: Fault
) -> None:
    def play(handler: Handler) -> bool:
        handler.answer(status, b"no", {"content-type": "text/plain"})
        return True

    server.behaviour = play
    error = client.refused(server.url)
    assert error.fault is fault
    assert str(error).startswith(f"{HOST}:{server.port} ")


def test_something_else_than_git_is_not_found(client: Client, server: Server) -> None:
    def play(handler: Handler) -> bool:
        handler.answer(200, b"<html>", {"content-type": "text/html"})
        return True

    server.behaviour = play
    assert client.refused(server.url).fault is Fault.NOT_FOUND


def test_nobody_listens(client: Client, server: Server) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        error = client.refused(f"https://{HOST}:{unused.getsockname()[1]}/checks")
    assert error.fault is Fault.TRANSIENT


def test_an_echoed_secret_is_masked(client: Client, server: Server) -> None:
    def play(handler: Handler) -> bool:
        echo = f"you sent {handler.headers['authorization']}, that is {TOKEN}\x1b[31m".encode()
        handler.answer(500, echo, {"content-type": "text/plain"})
        return True

    server.behaviour = play
    error = client.refused(server.url, secret=TOKEN)
    assert "you sent" in error.answer
    for text in (str(error), error.answer, repr(error)):
        assert TOKEN not in text
        assert basic(f"x-access-token:{TOKEN}").removeprefix("Basic ")[20:-4] not in text
    assert "\x1b" not in str(error)


def test_a_dumb_server_is_refused(client: Client, upstream: Upstream, server: Server) -> None:
    upstream.commit({"main.py": b"1"})
    upstream.git("update-server-info")
    alternates = upstream.folder / ".git/objects/info/http-alternates"
    alternates.write_text(f"https://127.0.0.1:{server.port}/elsewhere/objects\n")

    def play(handler: Handler) -> bool:
        file = server.root / "checks/.git" / handler.path.split("?")[0].removeprefix("/checks/")
        handler.answer(*((200, file.read_bytes()) if file.is_file() else (404, b"")))
        return True

    server.behaviour = play
    error = client.refused(upstream.url)
    assert error.fault is Fault.REFUSED
    assert "smart HTTP" in str(error)
    assert not any("elsewhere" in request.path for request in server.requests)


def test_links_and_submodules_are_refused(client: Client, upstream: Upstream) -> None:
    commit = upstream.commit({"main.py": b"1"})
    os.symlink("/etc/passwd", upstream.folder / "config")
    upstream.commit({})
    error = client.refused(upstream.url)
    assert error.fault is Fault.REFUSED
    assert "links aren't allowed: config" in str(error)

    (upstream.folder / "config").unlink()
    upstream.git("add", "--all")
    upstream.git("update-index", "--add", "--cacheinfo", f"160000,{commit},vendored")
    upstream.record()
    assert "submodules aren't fetched: vendored" in str(client.refused(upstream.url))


def test_a_pointer_of_git_lfs_is_no_script(client: Client, upstream: Upstream) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    upstream.commit({"main.py": pointer})
    assert "Git LFS" in str(client.refused(upstream.url))
    upstream.commit({"main.py": b"1", "model.bin": pointer})
    assert client.content(client.fetched(upstream.url))["model.bin"] == pointer


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([b"a\\b"], "backslash"),
        ([b"a\nb"], "control"),
        ([b"a\x1b[31m"], "control"),
        ([b"C:x"], "drive letter"),
        ([b"\xff"], "UTF-8"),
        ([b"Lib", b"lib"], "same name"),
        (["\u00e9".encode(), "e\u0301".encode()], "same name"),
        ([b"n" * 256], "longer than"),
        (["a\u202eb".encode()], "invisible"),
    ],
)
def test_odd_names_are_refused(
    client: Client, upstream: Upstream, names: list[bytes], words: str
) -> None:
    blob = upstream.blob().encode()
    lines = b"".join(b"100644 blob %s\t%s\0" % (blob, name) for name in [*names, b"main.py"])
    upstream.commit_tree(lines)
    error = client.refused(upstream.url)
    assert error.fault is Fault.REFUSED
    assert words in str(error)
    assert str(error).isprintable()


@pytest.mark.parametrize("name", [b"..", b".", b".git", b".GIT", b"a/b", b"git~1"])
def test_names_that_git_itself_refuses_never_arrive(
    client: Client, upstream: Upstream, name: bytes
) -> None:
    blob = upstream.blob()
    entries = sorted((n, b"100644 %s\0" % n + bytes.fromhex(blob)) for n in (name, b"main.py"))
    raw = b"".join(entry for _, entry in entries)
    tree = upstream.git("hash-object", "-w", "--literally", "-t", "tree", "--stdin", stdin=raw)
    upstream.git("update-ref", "refs/heads/main", upstream.git("commit-tree", tree, "-m", "m"))
    assert client.refused(upstream.url).fault is Fault.REFUSED


@pytest.mark.parametrize("kind", ["tree", "commit", "nothing"])
def test_a_file_that_is_something_else_is_refused(
    client: Client, upstream: Upstream, kind: str
) -> None:
    commit = upstream.commit({"main.py": b"1"})
    ids = {"tree": upstream.git("rev-parse", "HEAD^{tree}"), "commit": commit, "nothing": "1" * 40}
    raw = b"100644 main.py\0" + bytes.fromhex(ids[kind])
    tree = upstream.git("hash-object", "-w", "--literally", "-t", "tree", "--stdin", stdin=raw)
    upstream.git("update-ref", "refs/heads/main", upstream.git("commit-tree", tree, "-m", "m"))
    client.refused(upstream.url)


SMALL = Bounds(unpacked_bytes=MIB, entries=20, depth=3)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"large": os.urandom(3 * MIB)}, "smaller repository"),  # stops while it comes
        ({"zeros": bytes(8 * MIB)}, "more than 1 MB"),
        ({f"{i}": os.urandom(40_000) for i in range(19)} | {"z": bytes(700_000)}, "more than 1 MB"),
        ({f"{i}": b"x" for i in range(30)}, "more than 20"),
        ({"a/b/c/d": b"x"}, "deeper than 3"),
        ({"other.py": b"x"}, "entry point"),
    ],
)
def test_a_repository_is_bounded_like_an_upload(
    client: Client, upstream: Upstream, files: dict[str, bytes], words: str
) -> None:
    upstream.commit(files)
    if "entry" not in words:
        upstream.commit({"main.py": b"1"})
    error = client.refused(upstream.url, bounds=SMALL)
    assert error.fault is Fault.REFUSED
    assert words in str(error)


def test_a_tree_of_trees_that_explodes_is_bounded(client: Client, upstream: Upstream) -> None:
    """Ten trees of ten, ten deep, are ten billion files in a kilobyte."""
    inner, kind = upstream.blob(), "100644 blob"
    for _ in range(10):
        lines = b"".join(f"{kind} {inner}\tf{i}\0".encode() for i in range(10))
        inner, kind = upstream.git("mktree", "-z", stdin=lines), "040000 tree"
    upstream.git("update-ref", "refs/heads/main", upstream.git("commit-tree", inner, "-m", "m"))
    began = time.monotonic()
    assert client.refused(upstream.url).fault is Fault.REFUSED
    assert time.monotonic() - began < LONG_S


def trickle(handler: Handler) -> bool:
    handler.send_response(200)
    handler.send_header("content-type", "application/x-git-upload-pack-advertisement")
    handler.send_header("content-length", "1000000")
    handler.end_headers()
    while not handler.server.let_go.wait(0.05):
        handler.wfile.write(b"0")
    return True


@pytest.mark.parametrize("stuck", ["advertisement", "fetch", "trickle"])
def test_a_slow_server_is_left_in_time(
    client: Client, upstream: Upstream, server: Server, stuck: str
) -> None:
    upstream.commit({"main.py": b"1"})

    def play(handler: Handler) -> bool:
        if stuck == "trickle":
            return trickle(handler)
        if stuck == "fetch" and not server.requests[-1].fetches:
            return False
        return server.hang(handler)

    server.behaviour = play
    began = time.monotonic()
    error = client.refused(upstream.url, deadline_s=1.5)
    assert 1.4 < time.monotonic() - began < LONG_S / 2
    assert error.fault is Fault.TRANSIENT
    assert "in time" in str(error)


def test_who_no_longer_waits_is_heard(client: Client, upstream: Upstream, server: Server) -> None:
    class GivenUpError(Exception): ...

    def checkpoint() -> None:
        if server.requests:
            raise GivenUpError

    server.behaviour = server.hang
    with pytest.raises(GivenUpError):
        client(upstream.url, checkpoint=checkpoint)
    assert client.leftovers() == []


def test_git_ends_in_time_although_we_were_killed(
    client: Client, upstream: Upstream, server: Server
) -> None:
    server.behaviour = server.hang
    program = textwrap.dedent(f"""
        import socket
        from pathlib import Path
        from teckochecker.addresses import Allowed
        from teckochecker.scripts.git import Access, Repository, refresh
        address = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", {server.port}))
        access = Access(allowed=Allowed.parse("127.0.0.1"), resolve=lambda *_, **__: [address],
                        ca_bundle=Path({str(client.access.ca_bundle)!r}))
        refresh(Repository(url={upstream.url!r}), Path({str(client.shelf)!r}), entrypoint="main.py",
                known_commit=None, access=access, deadline_s=2)
    """)
    killed = subprocess.Popen([sys.executable, "-c", program])
    wait_until(lambda: bool(server.requests))
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert client.processes()
    wait_until(lambda: not client.processes())


def test_a_missing_git_is_said(client: Client, server: Server, tmp_path: Path) -> None:
    empty = Access(allowed=client.access.allowed, resolve=client.resolve, path=str(tmp_path))
    error = client.refused(server.url, access=empty)
    assert error.fault is Fault.ENGINE
    assert "install git" in str(error)


def test_a_missing_git_is_said_also_by_gitpython(tmp_path: Path) -> None:
    program = textwrap.dedent(f"""
        from pathlib import Path
        from teckochecker.scripts.git import Access, Repository, refresh
        from teckochecker.scripts.git_command import GitError
        try:
            refresh(Repository(url="https://github.com/a/b"), Path({str(tmp_path)!r}),
                    entrypoint="main.py", known_commit=None, access=Access(), deadline_s=1)
        except GitError as error:
            print(error)
    """)
    environment = {"PATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, check=True
    )
    assert b"install git" in done.stdout


def test_an_old_git_is_refused(client: Client, server: Server, tmp_path: Path) -> None:
    """Before 2.37 it ignores the address that it is bound to."""
    old = tmp_path / "bin" / "git"
    old.parent.mkdir()
    old.write_text("#!/bin/sh\necho git version 2.36.9\n")
    old.chmod(0o755)
    aged = Access(allowed=client.access.allowed, resolve=client.resolve, path=str(old.parent))
    error = client.refused(server.url, access=aged)
    assert error.fault is Fault.ENGINE
    assert "git 2.36 is too old: install git 2.37 or newer" in str(error)
    assert client.asked == []


def test_importing_it_starts_no_git_and_loads_no_http() -> None:
    program = "import sys, teckochecker.scripts.git; print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    loaded = done.stdout.decode()
    assert "'teckochecker.scripts.git'" in loaded
    assert not any(f"'{name}'" in loaded for name in ("git", "httpcore", "httpx", "trio"))
