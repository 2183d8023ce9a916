"""What people see of jobs, their logs and deliveries; documents as the API gives them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from teckochecker.cli.output import (
    from_now,
    is_narrow,
    local_time,
    printable,
    say,
    show_fields,
    show_table,
)

Document = Mapping[str, Any]


def named(job: Document) -> str:
    return printable(f"{job['id']} {job['name']!r}")


def state(job: Document) -> str:
    return f"{job['status']} ({job['phase']})" if job["phase"] else str(job["status"])


def show_jobs(page: Document, command: str, *, all_: bool) -> None:
    """Jobs of either kind; `command` is the one that lists them, `all_` without a filter."""
    jobs = page["jobs"]
    if not jobs:
        say(_no_jobs(page, command, all_=all_))
        return
    if is_narrow():
        columns = ("ID", "Name", "Status", "Last check", "Result", "Next check")
        show_table(columns, (_short_row(job) for job in jobs))
    else:
        show_table(
            ("ID", "Name", "Status", "Checks", "Interval", "Last check", "Result", "Next check"),
            (_job_row(job) for job in jobs),
        )
    _say_rest(page, len(jobs))


def show_job(job: Document) -> None:
    show_fields(_job_fields(job))
    say("")
    if job["kind"] == "polling":
        show_table(
            ("Batch", "Status", "Requests", "Failed", "Output file"),
            (_batch_row(batch) for batch in job["batches"]),
        )
        say("")
    show_logs(job)


def show_logs(page: Document, *, verbose: bool = False) -> None:
    rows = page["logs"]
    if not rows:
        say("No log entries.")
    for row in reversed(rows):
        facts = ", ".join(_run_facts(row))
        message = f"{row['message']} ({facts})" if facts else row["message"]
        say(printable(f"{local_time(row['created_at'])}  {row['status']:<9}  {message}"))
        if verbose:
            for title in ("detail", "stdout", "stderr"):
                show_text(title, row[title])


def show_text(title: str, text: str | None) -> None:
    """A text of several lines under its title; nothing where there is none."""
    if text and text.strip():
        lines = printable(text.rstrip().expandtabs()).split("\n")
        say("\n".join([f"  {title}:", *(f"    {line}" for line in lines)]))


def megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1_000_000:.1f} MB"


def show_deliveries(page: Document) -> None:
    found = page["deliveries"]
    if not found:
        say("No deliveries: a job makes them once it has ended as its `trigger_on` says.")
        return
    show_table(
        ("ID", "Action", "State", "Attempts", "Next attempt", "Receipt", "Event"),
        (_delivery_row(one) for one in found),
    )
    say("")
    show_table(
        ("Delivery", "Attempt", "Took", "HTTP", "Outcome", "Message"),
        (_attempt_row(one["id"], attempt) for one in found for attempt in one["attempts"]),
    )
    _say_rest(page, len(found))


def outcome_line(job: Document) -> str:
    verdict = job["last_check_status"] or "not checked yet"
    why = f"; {printable(job['status_reason']).rstrip('.')}" if job["status_reason"] else ""
    return f"Job {named(job)} is {state(job)}: {verdict}{why}."


def _no_jobs(page: Document, command: str, *, all_: bool) -> str:
    if page["total"]:
        return f"No more: there are {page['total']} in all."
    if not all_:
        return f"No job is like that: `teckochecker {command} list` shows all."
    if command == "custom-check":
        return (
            "No custom checks yet: write a script with `teckochecker custom-check init python DIR`,"
            "\ntry it with `teckochecker custom-check run DIR`, then `custom-check create` a job."
        )
    return (
        "No jobs yet: store the keys with `teckochecker secret add --name NAME --type openai` and "
        "`--type keboola`,\nthen create a job with `teckochecker job create` (see its --help)."
    )


def _job_row(job: Document) -> tuple[object, ...]:
    return (
        job["id"],
        job["name"],
        state(job),
        _checks(job),
        f"{job['poll_interval_seconds']} s",
        local_time(job["last_check_at"]),
        job["last_check_status"],
        local_time(job["next_check_at"]),
    )


def _short_row(job: Document) -> tuple[object, ...]:
    due = from_now(job["next_check_at"])
    return (
        job["id"],
        job["name"],
        state(job),
        from_now(job["last_check_at"]),
        job["last_check_status"],
        "due now" if due.endswith("ago") else due,
    )


def _checks(job: Document) -> str:
    """What a job looks at, in a word or two."""
    if job["kind"] == "polling":
        ended = job["completed_count"] + job["failed_count"]
        return f"{ended}/{job['batch_count']} batches"
    return f"{job['script_runtime']}, {job['script_source_type']}"


def _say_rest(page: Document, shown: int) -> None:
    if page["offset"] + shown < page["total"]:
        after = page["offset"] + shown
        say(f"{shown} of {page['total']}; the next with --offset {after}.")


def _job_fields(job: Document) -> Iterator[tuple[str, object]]:
    yield "ID", job["id"]
    yield "Name", job["name"]
    yield "Status", state(job)
    if job["status_reason"]:
        yield "Reason", job["status_reason"]
    yield from _batch_fields(job) if job["kind"] == "polling" else _script_fields(job)
    yield from _action_fields(job)
    yield "Trigger on", job["trigger_on"]
    yield "Interval", f"{job['poll_interval_seconds']} s"
    yield "Created", local_time(job["created_at"])
    yield "Last check", local_time(job["last_check_at"])
    yield "Result", job["last_check_status"]
    if job["kind"] != "polling" and job["last_check_data"]:
        yield "Data", json.dumps(job["last_check_data"], ensure_ascii=False)
    yield "Next check", local_time(job["next_check_at"])
    yield "Completed", local_time(job["completed_at"])
    if started := job["keboola_job"]:
        yield "Keboola job", f"{started['id']} {started['status'] or ''} {started['url'] or ''}"


def _batch_fields(job: Document) -> Iterator[tuple[str, object]]:
    yield "OpenAI secret", job.get("openai_secret_name")
    if job["openai_base_url"]:
        yield "OpenAI base URL", job["openai_base_url"]
    yield "Failed at most", f"{job['max_failed_percent']:g} %"


def _script_fields(job: Document) -> Iterator[tuple[str, object]]:
    limits = job["resource_limits"]
    yield "Script", f"{job['script_runtime']}, {job['script_entrypoint']}"
    if job["script_git_url"]:
        yield "Repository", job["script_git_url"]
        yield "Branch", job["script_git_branch"]
        if job["script_git_subfolder"]:
            yield "Subfolder", job["script_git_subfolder"]
        yield "Git secret", job.get("script_git_secret_name")
    yield "Stored", script_line(job["script"])
    for name, value in job["check_params"].items():
        yield "Parameter", f"{name}={value if isinstance(value, str) else json.dumps(value)}"
    for name, value in (job["env_vars"] or {}).items():
        yield "Variable", f"{name}={value}"
    yield "Time-out", f"{job['timeout_seconds']} s"
    yield "Limits", f"{limits['memory_mb']} MB, {limits['cpu_cores']:g} cores"
    yield "Network", job["network"]
    if job["max_consecutive_errors"]:
        yield "Errors at most", f"{job['max_consecutive_errors']} in a row"


def script_line(script: Document | None) -> str | None:
    """What is stored of a script, in a line."""
    if script is None:
        return None
    files = script["files"] if isinstance(script["files"], int) else len(script["files"])
    size = f"{files} file{'s' if files != 1 else ''}, {script['size_bytes']} bytes"
    commit = f", commit {script['commit'][:12]}" if script["commit"] else ""
    return f"{script['sha256'][:12]}, {size}{commit}, {local_time(script['stored_at'])}"


def _action_fields(job: Document) -> Iterator[tuple[str, object]]:
    if "keboola_stack_url" in job:
        yield "Keboola", job["keboola_stack_url"]
        yield "Keboola secret", job.get("keboola_secret_name")
        yield "Component", job.get("keboola_component_id")
        yield "Configuration", job.get("keboola_configuration_id")
    if job.get("webhook_url"):
        yield "Webhook", f"{job['webhook_method']} {job['webhook_url']}"
        yield "Signed with", job.get("webhook_signing_secret_name")
    for name, value in (job.get("keboola_variables") or {}).items():
        yield "Keboola variable", f"{name}={value}"


def _run_facts(row: Document) -> Iterator[str]:
    """How a check went, where a log entry is about one."""
    if row["exit_code"] is not None:
        yield f"exit code {row['exit_code']}"
    if row["execution_time_ms"] is not None:
        yield f"{row['execution_time_ms'] / 1000:.1f} s"
    if row["peak_memory_bytes"] is not None:
        yield megabytes(row["peak_memory_bytes"])


def _batch_row(batch: Document) -> tuple[object, ...]:
    counts = batch["request_counts"] or {}
    done = f"{counts.get('completed', 0)}/{counts['total']}" if counts.get("total") else None
    return (
        batch["batch_id"],
        batch["status"] or "unknown yet",
        done,
        counts.get("failed"),
        batch["output_file_id"],
    )


def _delivery_row(delivery: Document) -> tuple[object, ...]:
    receipt = delivery["receipt"] or {}
    return (
        delivery["id"],
        delivery["action"],
        delivery["state"],
        len(delivery["attempts"]),
        local_time(delivery["next_attempt_at"]),
        receipt.get("url") or receipt.get("id"),
        delivery["event_id"],
    )


def _attempt_row(delivery_id: int, attempt: Document) -> tuple[object, ...]:
    took = attempt["duration_ms"]
    return (
        delivery_id,
        local_time(attempt["started_at"]),
        None if took is None else f"{took} ms",
        attempt["status_code"],
        attempt["outcome"],
        attempt["message"],
    )
