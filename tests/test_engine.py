"""The engine end to end: real sockets, real threads, real SQLite, simulated services."""

from __future__ import annotations

from typing import Any

from teckochecker.simulators import Batch, Keboola, OpenAI
from tests.conftest import Api, eventually


async def test_a_completed_batch_starts_a_keboola_job(
    api: Api,
    engine: None,
    secrets: dict[str, int],
    openai: OpenAI,
    keboola: Keboola,
    job_fields: dict[str, Any],
) -> None:
    openai.add(
        "batch_a", "validating", "in_progress", Batch("completed", total=10, completed=9, failed=1)
    )
    keboola.plan("*", "processing", "success")

    made = await api("POST", "/api/jobs", job_fields, expect=201)
    done = await eventually(
        api, f"/api/jobs/{made['id']}", lambda job: job["status"] == "completed"
    )

    assert done["last_check_status"] == "SUCCESS"
    assert done["batches"][0]["request_counts"] == {"total": 10, "completed": 9, "failed": 1}
    assert len(keboola.jobs) == 1
    assert done["keboola_job"]["id"] == keboola.jobs[0]["id"]
