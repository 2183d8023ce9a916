"""Runs one script: the only thing that a runner container ever starts.

Standard input is one line of JSON, then `length` bytes of tar, and no more is read:
    {"nonce": "...", "argv": ["..."], "environment": {"...": "..."}, "length": 10240}
The tar goes to /work/script, `argv` is started there with that environment added to ours, and
its exit code is ours. The last line on standard error is the nonce and a JSON object:
    {"exit_code": 0, "script_ms": 12, "peak_memory_bytes": 1, "oom_kills": 0, "error": null}
Kept small: half of its time is Python's start, so no module is imported that isn't built in.
"""

import os
import time
from _json import encode_basestring_ascii, make_scanner  # `json` itself takes 9 ms to import

WORK = "/work/script"
MAX_LINE_BYTES = 2 * 1024 * 1024
MAX_TAR_BYTES = 512 * 1024 * 1024  # the folder's own limit is reached long before
BLOCK = 512
CHUNK = 64 * 1024
OOM_COUNTERS = ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control")
PEAKS = ("/sys/fs/cgroup/memory.peak", "/sys/fs/cgroup/memory/memory.max_usage_in_bytes")
NOT_STARTED = 125
PYTHON_IGNORES = (13, 25)  # SIGPIPE and SIGXFSZ, which a script expects to end it


class Refused(Exception):
    """The request can't be carried out; the text goes into the report."""


class Json:
    """What the scanner wants to know."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float
    memo: dict[str, str] = {}  # noqa: RUF012


class Input:
    """Standard input, of which exactly what is asked for is read."""

    def __init__(self) -> None:
        self.buffer = b""

    def line(self) -> bytes:
        while b"\n" not in self.buffer:
            if len(self.buffer) > MAX_LINE_BYTES:
                raise Refused("the request is too long")
            self.buffer += self.more(CHUNK)
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line

    def more(self, size: int) -> bytes:
        data = os.read(0, size)
        if not data:
            raise Refused("the request ended early")
        return data

    def take(self, size: int) -> bytes:
        """At least one byte, at most `size`."""
        if not self.buffer:
            return self.more(min(size, CHUNK))
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data

    def exactly(self, size: int) -> bytes:
        parts = []
        while size:
            parts.append(self.take(size))
            size -= len(parts[-1])
        return b"".join(parts)


def unpack(source: Input, length: int) -> None:
    """The tar's folders and files below the working directory; anything else is refused."""
    if not 0 <= length <= MAX_TAR_BYTES:
        raise Refused("the archive is too large")
    long_name = None
    while length >= BLOCK:
        header = source.exactly(BLOCK)
        length -= BLOCK
        if not any(header):
            break
        size = int(header[124:136].strip(b" \0") or b"0", 8)
        padding = -size % BLOCK
        length -= size + padding
        if length < 0:
            raise Refused("the archive is cut off")
        kind = header[156:157]
        if kind in (b"x", b"L"):
            long_name = name_in(kind, source.exactly(size))
        elif kind in (b"0", b"\0", b"5"):
            name = long_name or short_name(header)
            long_name = None
            if kind == b"5":
                os.makedirs(checked(name), exist_ok=True)
                source.exactly(size)
            else:
                write(checked(name), header, source, size)
        else:
            raise Refused("the archive holds something that is neither file nor folder")
        source.exactly(padding)
    source.exactly(length)


def short_name(header: bytes) -> str:
    name, prefix = (
        header[start:end].partition(b"\0")[0].decode() for start, end in ((0, 100), (345, 500))
    )
    return f"{prefix}/{name}" if prefix and header[257:262] == b"ustar" else name


def name_in(kind: bytes, data: bytes) -> str:
    """The long name that the next entry has: GNU's `L`, or the path in a pax header."""
    if kind == b"L":
        return data.rstrip(b"\0").decode()
    name = ""
    while data:
        size = int(data.partition(b" ")[0])
        key, _, value = data[:size].partition(b" ")[2].partition(b"=")
        if key == b"path":
            name = value[:-1].decode()
        data = data[size:]
    return name


def checked(name: str) -> str:
    parts = name.rstrip("/").split("/")
    if name.startswith("/") or ".." in parts or "\0" in name or not all(parts):
        raise Refused("the archive holds a path that leads outside")
    return "/".join(parts)


def write(path: str, header: bytes, source: Input, size: int) -> None:
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    executable = int(header[100:107].strip(b" \0") or b"0", 8) & 0o100
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    file = os.open(path, flags, 0o755 if executable else 0o644)
    while size:
        data = source.take(size)
        size -= len(data)
        while data:
            data = data[os.write(file, data) :]
    os.close(file)


def run(argv: list[str], environment: dict[str, str]) -> int:
    """The exit code, 128 + n when signal n ended it."""
    nothing_to_read = (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0)
    script = os.posix_spawnp(
        argv[0],
        argv,
        {**os.environ, **environment},
        file_actions=[nothing_to_read],
        setsigdef=PYTHON_IGNORES,
    )
    code = os.waitstatus_to_exitcode(os.waitpid(script, 0)[1])
    return code if code >= 0 else 128 - code


def number_in(paths: tuple[str, ...], name: str = "") -> str:
    """The first number that one of the files has, on the line that begins with `name`."""
    for path in paths:
        try:
            with open(path) as file:
                for line in file:
                    words = line.split()
                    if not name or words[0] == name:
                        return words[-1]
        except OSError:
            continue
    return "null"


def say(nonce: str, exit_code: int, script_ms: float, error: str | None) -> None:
    peak = number_in(PEAKS)
    kills = number_in(OOM_COUNTERS, "oom_kill")
    shown = "null" if error is None else encode_basestring_ascii(error[:500])
    os.set_blocking(2, True)  # the script may have changed it
    os.write(
        2,
        f'\n{nonce} {{"exit_code": {exit_code}, "script_ms": {script_ms:.0f}, '
        f'"peak_memory_bytes": {peak}, "oom_kills": {kills}, "error": {shown}}}\n'.encode(),
    )


def main() -> int:
    source = Input()
    scan = make_scanner(Json)  # type: ignore[arg-type]
    request = scan(source.line().decode(), 0)[0]
    exit_code, begun, error = NOT_STARTED, time.monotonic(), None
    try:
        os.makedirs(WORK, exist_ok=True)
        os.chdir(WORK)
        unpack(source, request["length"])
        begun = time.monotonic()
        exit_code = run(request["argv"], request["environment"])
    except (Refused, OSError, ValueError) as refused:
        error = str(refused)
    say(request["nonce"], exit_code, (time.monotonic() - begun) * 1000, error)
    return exit_code


if __name__ == "__main__":
    os._exit(main())
