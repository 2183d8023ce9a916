"""A simulator as a process of its own, for benchmarks and for trying things by hand.

It prints one JSON line, `{"url": "http://127.0.0.1:..."}`, when it can be called, and serves until
its standard input ends or it gets SIGTERM, so it never outlives the program that started it.
`GET /_sim/requests?after=N` tells what it was asked, without the first N.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from types import FrameType

from teckochecker.simulators.exchange import DROP, HANG, HTML, LIST, TRUNCATED, Afterwards, Reply
from teckochecker.simulators.keboola import (
    COURSE,
    STORAGE_TOKEN,
    Keboola,
    maintenance,
    queue_error,
)
from teckochecker.simulators.openai import API_KEY, OTHER_ID, Batch, OpenAI, Step, openai_error
from teckochecker.simulators.server import Simulator

BATCH_STEPS: dict[str, Step] = {
    "hang": HANG,
    "drop": DROP,
    "html": HTML,
    "list": LIST,
    "truncated": TRUNCATED,
    "other-id": OTHER_ID,
    "quota": openai_error(429, "insufficient_quota"),
}
POST_STEPS: dict[str, Reply | Afterwards] = {
    "create": Afterwards(),
    "hang": HANG,
    "drop": DROP,
    "create-hang": Afterwards(HANG),
    "create-drop": Afterwards(DROP),
    "maintenance": maintenance(2),
}


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    simulator: Simulator = options.make(options)
    with simulator:
        sys.stdout.write(json.dumps({"url": simulator.url}) + "\n")
        sys.stdout.flush()
        sys.stdin.read()
    return 0


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--port", type=int, default=0, help="0 takes a free one")
    common.add_argument("--latency-ms", type=float, default=0.0, help="before every answer")
    common.add_argument("--each-s", type=float, help="a step lasts so long, not one call")
    parser = argparse.ArgumentParser(prog="python -m teckochecker.simulators", description=__doc__)
    services = parser.add_subparsers(required=True, metavar="openai|keboola")
    openai = services.add_parser("openai", parents=[common])
    openai.set_defaults(make=_openai)
    openai.add_argument("--key", action="append", help="an API key to accept; may be repeated")
    openai.add_argument(
        "--batch",
        action="append",
        default=[],
        type=_batch,
        metavar="ID=STEP,STEP...",
        help="ID may end in *; a STEP is a status word, WORD@MILLISECONDS for a slow one, an HTTP "
        f"status, or {', '.join(BATCH_STEPS)}; batch_bench_* are always in_progress",
    )
    keboola = services.add_parser("keboola", parents=[common])
    keboola.set_defaults(make=_keboola)
    keboola.add_argument("--token", action="append", help="a token to accept; may be repeated")
    keboola.add_argument("--index-lag-searches", type=int, default=0, metavar="N")
    keboola.add_argument("--index-lag-s", type=float, default=0.0, metavar="SECONDS")
    keboola.add_argument(
        "--states",
        default=",".join(COURSE),
        metavar="STATUS,STATUS...",
        help="of every job, after created (default: %(default)s)",
    )
    keboola.add_argument(
        "--posts",
        type=_posts,
        default=[],
        metavar="STEP,STEP...",
        help=f"what meets the first POSTs: an HTTP status, or {', '.join(POST_STEPS)}",
    )
    return parser


def _batch(text: str) -> tuple[str, list[Step]]:
    batch_id, _, words = text.partition("=")
    if not batch_id or not words:
        raise argparse.ArgumentTypeError(f"{text!r} isn't ID=STEP,STEP...")
    return batch_id, [_batch_step(word) for word in words.split(",")]


def _batch_step(word: str) -> Step:
    if word.isdecimal():
        return openai_error(int(word))
    status, _, delay_ms = word.partition("@")
    if delay_ms:
        return Batch(status, delay_s=float(delay_ms) / 1000)
    return BATCH_STEPS.get(word, word)


def _posts(text: str) -> list[Reply | Afterwards]:
    return [_post_step(word) for word in text.split(",")]


def _post_step(word: str) -> Reply | Afterwards:
    if word.isdecimal():
        return queue_error(int(word), "Simulated.")
    if word not in POST_STEPS:
        raise argparse.ArgumentTypeError(f"{word!r} isn't a status or one of {list(POST_STEPS)}")
    return POST_STEPS[word]


def _openai(options: argparse.Namespace) -> OpenAI:
    simulator = OpenAI(
        api_keys=options.key or [API_KEY],
        port=options.port,
        latency_s=options.latency_ms / 1000,
    )
    for batch_id, steps in options.batch:
        simulator.add(batch_id, *steps, each_s=options.each_s)
    return simulator


def _keboola(options: argparse.Namespace) -> Keboola:
    simulator = Keboola(
        tokens=options.token or [STORAGE_TOKEN],
        index_lag_searches=options.index_lag_searches,
        index_lag_s=options.index_lag_s,
        port=options.port,
        latency_s=options.latency_ms / 1000,
    )
    simulator.plan("*", *options.states.split(","), each_s=options.each_s)
    simulator.instead("POST", "/jobs", *options.posts)
    return simulator


if __name__ == "__main__":
    sys.exit(main())
