"""What people see of jobs, their logs and deliveries; documents as the API gives them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from teckochecker.cli.output import local_time, printable, say, show_fields, show_table

Document = Mapping[str, Any]


def named(job: Document) -> str:
    return printable(f"{job['id']} {job['name']!r}")


def state(job: Document) -> str:
    return f"{job['status']} ({job['phase']})" if job["phase"] else str(job["status"])


def show_jobs(page: Document, all_: bool) -> None:
    jobs = page["jobs"]
    if not jobs:
        say(_no_jobs(page, all_))
        return
    show_table(
        ("ID", "Name", "Status", "Batches", "Interval", "Last check", "Result", "Next check"),
        (_job_row(job) for job in jobs),
    )
    _say_rest(page, len(jobs))


def show_job(job: Document) -> None:
    show_fields(_job_fields(job))
    say("")
    show_table(
        ("Batch", "Status", "Requests", "Failed", "Output file"),
        (_batch_row(batch) for batch in job["batches"]),
    )
    say("")
    show_logs(job)


def show_logs(page: Document) -> None:
    rows = page["logs"]
    if not rows:
        say("No log entries.")
    for row in reversed(rows):
        say(printable(f"{local_time(row['created_at'])}  {row['status']:<9}  {row['message']}"))


def show_deliveries(page: Document) -> None:
    found = page["deliveries"]
    if not found:
        say("No deliveries: a job makes them once its batches have ended as `trigger_on` says.")
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
    return f"Job {named(job)} is {state(job)}: {job['last_check_status'] or 'not checked yet'}."


def _no_jobs(page: Document, all_: bool) -> str:
    if page["total"]:
        return f"No more: there are {page['total']} in all."
    if not all_:
        return "No job is like that: `teckochecker job list` shows all."
    return (
        "No jobs yet: store the keys with `teckochecker secret add --name NAME --type openai` and "
        "`--type keboola`,\nthen create a job with `teckochecker job create` (see its --help)."
    )


def _job_row(job: Document) -> tuple[object, ...]:
    batches = f"{job['completed_count'] + job['failed_count']}/{job['batch_count']}"
    return (
        job["id"],
        job["name"],
        state(job),
        batches,
        f"{job['poll_interval_seconds']} s",
        local_time(job["last_check_at"]),
        job["last_check_status"],
        local_time(job["next_check_at"]),
    )


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
    yield "OpenAI secret", job.get("openai_secret_name")
    if job["openai_base_url"]:
        yield "OpenAI base URL", job["openai_base_url"]
    yield "Failed at most", f"{job['max_failed_percent']:g} %"
    if "keboola_stack_url" in job:
        yield "Keboola", job["keboola_stack_url"]
        yield "Keboola secret", job.get("keboola_secret_name")
        yield "Component", job.get("keboola_component_id")
        yield "Configuration", job.get("keboola_configuration_id")
    if "webhook_url" in job:
        yield "Webhook", f"{job['webhook_method']} {job['webhook_url']}"
        yield "Signed with", job.get("webhook_signing_secret_name")
    for name, value in (job.get("keboola_variables") or {}).items():
        yield "Variable", f"{name}={value}"
    yield "Trigger on", job["trigger_on"]
    yield "Interval", f"{job['poll_interval_seconds']} s"
    yield "Created", local_time(job["created_at"])
    yield "Last check", local_time(job["last_check_at"])
    yield "Result", job["last_check_status"]
    yield "Next check", local_time(job["next_check_at"])
    yield "Completed", local_time(job["completed_at"])
    if started := job["keboola_job"]:
        yield "Keboola job", f"{started['id']} {started['status'] or ''} {started['url'] or ''}"


def _batch_row(batch: Document) -> tuple[object, ...]:
    counts = batch["request_counts"] or {}
    done = f"{counts.get('completed', 0)}/{counts['total']}" if counts.get("total") else None
    return (
        batch["batch_id"],
        batch["status"] or "not asked yet",
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
