"""Fetches a script from a git repository, if it has moved since it was last looked at.

The server is a stranger that a job names: HTTPS only, connected to at an address that was
checked, no redirects. Its commit is fetched alone into a bare repository that lives as long as
the errand, and its files are read out of git's own store: nothing is ever checked out, so
neither links nor hooks, filters or submodules can act.
"""

from __future__ import annotations

import os
import re
import socket
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from teckochecker import addresses
from teckochecker.addresses import Allowed, endpoint
from teckochecker.domain import Secret, Value
from teckochecker.errors import Fault, InvalidInput
from teckochecker.masking import Mask
from teckochecker.scripts import git_commit
from teckochecker.scripts.git_command import PATH, Git, GitError, check_version
from teckochecker.scripts.shelf import UNFINISHED, Script, storing
from teckochecker.scripts.tree import SCRIPT, Bounds, entry_point, shown, subfolder

if TYPE_CHECKING:
    from teckochecker.network import Resolve  # 13 MB with httpcore, of no use in a worker

_REF = "refs/heads/script"
_USER = "x-access-token"  # any name does beside a token, says GitHub; GitLab and Azure agree
_BRANCH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=@-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.+=@-]*)*")
_MAX_BRANCH_CHARS = 200
_URL_PATH = re.compile(r"(?:/[A-Za-z0-9_~%+@:,=!$*.-]+)+/?")
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


class Repository(Value, frozen=True, kw_only=True):
    """Where a job's script comes from; `credentials` are a token, or `user:password`."""

    url: str
    branch: str = "main"
    subfolder: str = ""
    credentials: Secret | None = None


class Access(Value, frozen=True, kw_only=True):
    """How this installation reaches git servers.

    `own` are the (address, port) pairs that we listen on. `ca_bundle` is a PEM file of all
    authorities to trust, instead of those that git was built with. `path` is where programs
    are looked for.
    """

    allowed: Allowed = Allowed()
    resolve: Resolve = socket.getaddrinfo
    own: tuple[tuple[str, int], ...] = ()
    ca_bundle: Path | None = None
    path: str = PATH


class Fetched(Value, frozen=True, kw_only=True):
    """The branch has moved to `commit`, and this is its script."""

    commit: str
    script: Script


class NotMoved(Value, frozen=True, kw_only=True):
    """The branch still ends at the known commit; nothing was fetched."""

    commit: str


def check(repository: Repository, allowed: Allowed) -> None:
    """Raise InvalidInput for what can't be fetched, as far as that is known without asking."""
    _target(repository.url, allowed)
    subfolder(repository.subfolder)
    if len(repository.branch) > _MAX_BRANCH_CHARS or not _is_branch(repository.branch):
        raise InvalidInput(
            f"{shown(repository.branch)} can't be a branch: write its name like main or release/2.1"
        )


def refresh(
    repository: Repository,
    shelf: Path,
    *,
    entrypoint: str,
    known_commit: str | None,
    access: Access,
    deadline_s: float,
    checkpoint: Callable[[], None] = lambda: None,
    bounds: Bounds = SCRIPT,
) -> Fetched | NotMoved:
    """Look where the branch ends, and if that isn't `known_commit`, store its script.

    Give None as the known commit where URL, branch, subfolder or entry point have changed, or
    the script is gone. Raises GitError, and InvalidInput for what `check` would refuse. Only
    resolving the host's name may take longer than `deadline_s`.
    """
    check(repository, access.allowed)
    wanted = entry_point(entrypoint)
    until = time.monotonic() + deadline_s
    check_version(access.path)
    target = _target(repository.url, access.allowed)
    config = _config(target, access)
    with (
        storing(shelf),
        TemporaryDirectory(prefix=UNFINISHED, dir=shelf) as folder,
        _credentials(repository.credentials, target) as credentials,
    ):
        git = Git(
            folder=Path(folder).resolve(),
            server=target.server,
            path=access.path,
            config=config,
            credentials=credentials,
            mask=_mask(repository.credentials),
            max_file_bytes=bounds.unpacked_bytes,
            until=until,
            checkpoint=checkpoint,
        )
        tip = _tip(git, target, repository.branch)
        if tip == known_commit:
            return NotMoved(commit=tip)
        commit = _fetched(git, target, repository.branch, tip)
        tree = f"{_REF}:{subfolder(repository.subfolder)}"
        script = git_commit.stored(git, tree, shelf, wanted, bounds)
        return Fetched(commit=commit, script=script)


class _Target(NamedTuple):
    host: str
    port: int
    origin: str
    url: str

    @property
    def server(self) -> str:
        return endpoint(self.host, self.port)


def _target(url: str, allowed: Allowed) -> _Target:
    """The URL, put together anew from what was checked, so that git reads it as we did."""
    if re.match(r"http://", url, re.IGNORECASE):  # listing its host wouldn't help
        raise InvalidInput("git repositories are fetched over https:// only")
    if re.match(r"https://[^/]*@", url, re.IGNORECASE):
        raise InvalidInput(
            "the URL has a user or password: add them as a secret and name it as the git secret"
        )
    parsed = addresses.parse_url(url, allowed)
    path, query = urlsplit(url).path, urlsplit(url).query
    if query or not _URL_PATH.fullmatch(path):
        raise InvalidInput("the URL isn't of the form https://host/path/of/repository.git")
    return _Target(parsed.host, parsed.port, parsed.origin, parsed.origin + path)


def _is_branch(name: str) -> bool:
    if not _BRANCH.fullmatch(name) or ".." in name or "@{" in name:
        return False
    return not any(part.endswith((".", ".lock")) for part in name.split("/"))


def _config(target: _Target, access: Access) -> tuple[str, ...]:
    """Settings that bind git to the checked addresses, and say whom to trust."""
    found = _resolved(target, access)
    complaint = addresses.refusal(target.host, target.port, found, access.allowed, access.own)
    if complaint is not None:
        raise GitError(complaint, Fault.REFUSED)
    pinned = ",".join(f"[{address}]" if ":" in address else address for address in found)
    resolve = f"http.curloptResolve={target.host}:{target.port}:{pinned}"
    trusted = () if access.ca_bundle is None else (f"http.sslCAInfo={access.ca_bundle}",)
    return (*(() if target.host in found else (resolve,)), *trusted)


def _resolved(target: _Target, access: Access) -> list[str]:
    try:
        entries = access.resolve(target.host, target.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise GitError(
            f"{target.server} can't be reached: {error.strerror}", Fault.TRANSIENT
        ) from error
    except UnicodeError as error:  # of Python's codec for host names
        raise InvalidInput(f"{target.host} isn't a host name: correct the URL") from error
    return list(dict.fromkeys(entry[4][0] for entry in entries))


@contextmanager
def _credentials(secret: Secret | None, target: _Target) -> Iterator[int | None]:
    """A descriptor of git configuration that exists in memory only, and goes to one server."""
    if secret is None:
        yield None
        return
    basic = b64encode(_pair(secret).encode()).decode()
    config = f'[http "{target.origin}/"]\n\textraHeader = Authorization: Basic {basic}\n'
    with open(os.memfd_create("git"), "w", encoding="ascii") as file:
        file.write(config)
        file.flush()
        yield file.fileno()


def _pair(secret: Secret) -> str:
    value = secret.reveal().strip()
    return value if ":" in value else f"{_USER}:{value}"


def _mask(secret: Secret | None) -> Mask:
    return Mask(() if secret is None else (secret, _pair(secret), _pair(secret).partition(":")[2]))


def _tip(git: Git, target: _Target, branch: str) -> str:
    ref = f"refs/heads/{branch}"
    listed = git.run("ls-remote", "--", target.url, ref).decode("ascii", "replace")
    # git lists whatever ends like this, such as refs/remotes/refs/heads/main.
    tips = [line.partition("\t")[0] for line in listed.splitlines() if line.endswith(f"\t{ref}")]
    if not tips:
        raise GitError(
            f"{target.server} has no branch {branch} there: correct the branch or the URL",
            Fault.NOT_FOUND,
        )
    if not _COMMIT.fullmatch(tips[0]):
        raise GitError(f"{target.server} names a commit that can't be one.", Fault.MALFORMED)
    return tips[0]


def _fetched(git: Git, target: _Target, branch: str, tip: str) -> str:
    """Fetch what the branch ends at by now, as _REF; gives that commit."""
    kind = "sha1" if len(tip) == 40 else "sha256"
    git.run("init", "--quiet", "--bare", "--template=", f"--object-format={kind}")
    git.run(
        *("fetch", "--quiet", "--depth=1", "--no-tags", "--no-recurse-submodules"),
        *("--no-write-fetch-head", "--", target.url, f"+refs/heads/{branch}:{_REF}"),
    )
    return git.run("rev-parse", "--verify", _REF).decode("ascii").strip()
