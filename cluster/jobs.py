"""Runs as Ray jobs: submitted to a cluster, followed line by line, stopped."""

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ray.job_submission import JobDetails, JobSubmissionClient

from cluster.job_client import connect, translated
from cluster.job_words import reason_of
from moe.errors import ClusterError

TAIL_ATTEMPTS = 5
AGENT_SECONDS = 20.0
"""Seconds that the agents of a new cluster may take to accept a job."""

POLL_SECONDS = 0.5
SETTLE_SECONDS = 60.0
"""Seconds that a job may take to reach its final status after its log ended or a stop request."""


@dataclass(frozen=True, slots=True)
class JobRequest:
    """What a job runs. ``working_dir`` is uploaded; None if the cluster's image has the code."""

    name: str
    entrypoint: str
    working_dir: Path | None
    metadata: Mapping[str, str]
    environment: Mapping[str, str]

    @property
    def identifier(self) -> str:
        """Equal requests have equal identifiers, so a request that is submitted twice runs once."""
        content = [self.entrypoint, sorted(self.metadata.items()), sorted(self.environment.items())]
        digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
        return f"raymoe-{self.name}-{digest[:8]}"


@dataclass(frozen=True, slots=True)
class Job:
    """A job on a cluster; ``joined`` is true if the job was running before this request."""

    address: str
    identifier: str
    joined: bool


def submit(address: str, request: JobRequest) -> Job:
    """Submit the request, or return the job that already runs it.

    If an earlier job of the request has ended, the new job gets a numbered identifier, because Ray
    accepts each identifier only once.
    """
    with translated(address):
        client = connect(address)
        ended = {job.submission_id: job.status.is_terminal() for job in client.list_jobs()}
        identifier = next(
            name for name in _identifiers(request.identifier) if not ended.get(name, False)
        )
        if identifier in ended:
            return Job(address, identifier, joined=True)
        return _submit_as(client, address, identifier, request)


def follow(job: Job, on_line: Callable[[str], None]) -> str:
    """Call ``on_line`` with every line of the job's log; return the final status of the job.

    A stopped job returns ``STOPPED``; a failed one raises ClusterError with the sentence that it
    ended with. An interrupt leaves the job running.
    """
    with translated(job.address):
        client = connect(job.address)
    lines = _Lines(on_line)
    for attempt in range(1, TAIL_ATTEMPTS + 1):
        lines.restart()
        try:
            asyncio.run(_tail(client, job, lines))
            break
        except ClusterError:
            if attempt == TAIL_ATTEMPTS:
                raise
            time.sleep(POLL_SECONDS)
    lines.finish()
    with translated(job.address):
        details = _settled(client, job)
    if details.status == "FAILED":
        raise ClusterError(_failure(job, details))
    return str(details.status)


def stop(job: Job) -> bool:
    """Stop the job, wait until it has ended, and return whether it was running."""
    with translated(job.address):
        client = connect(job.address)
        running = bool(client.stop_job(job.identifier))
        if running:
            _settled(client, job)
        return running


def listed(address: str) -> list[JobDetails]:
    """Return the jobs of a cluster, the newest first."""
    with translated(address):
        jobs = connect(address).list_jobs()
    return sorted(jobs, key=lambda job: job.start_time or 0, reverse=True)


def found(address: str, identifier: str) -> Job:
    """Return a job by its identifier; ClusterError names those that there are."""
    known = [str(job.submission_id) for job in listed(address)]
    if identifier not in known:
        there = ", ".join(known[:5]) or "none"
        raise ClusterError(
            f"no job {identifier} is on the cluster at {address}, but {there}; `raymoe jobs list` "
            "lists all of them"
        )
    return Job(address, identifier, joined=True)


class _Lines:
    """Cuts the chunks of a log into lines; after a reconnection, skips the lines seen before."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._seen = 0
        self._skip = 0
        self._rest = ""

    def restart(self) -> None:
        """The next chunk is the log's first again."""
        self._skip = self._seen

    def feed(self, chunk: str) -> None:
        """Take the next chunk and pass on the lines that it completes."""
        fresh = chunk[self._skip :]
        self._skip -= len(chunk) - len(fresh)
        self._seen += len(fresh)
        *lines, self._rest = (self._rest + fresh).split("\n")
        for line in lines:
            self._on_line(line)

    def finish(self) -> None:
        """Pass on the last line if it has no newline."""
        if self._rest:
            self._on_line(self._rest)
            self._rest = ""


async def _tail(client: JobSubmissionClient, job: Job, lines: _Lines) -> None:
    chunks = client.tail_job_logs(job.identifier)
    while True:
        with translated(job.address):
            chunk = await anext(chunks, None)
        if chunk is None:
            return
        lines.feed(chunk)


def _identifiers(base: str) -> Iterator[str]:
    yield base
    attempt = 2
    while True:
        yield f"{base}-{attempt}"
        attempt += 1


def _submit_as(
    client: JobSubmissionClient, address: str, identifier: str, request: JobRequest
) -> Job:
    deadline = time.monotonic() + AGENT_SECONDS
    while True:
        try:
            _send(client, identifier, request)
            return Job(address, identifier, joined=False)
        except RuntimeError as error:
            if "No available agent" in str(error):
                _wait_for_agent(address, deadline)
            elif identifier in {entry.submission_id for entry in client.list_jobs()}:
                # Somebody submitted the same request since we looked.
                return Job(address, identifier, joined=True)
            else:
                raise


def _send(client: JobSubmissionClient, identifier: str, request: JobRequest) -> None:
    environment: dict[str, object] = {"env_vars": dict(request.environment)}
    if request.working_dir is not None:
        environment["working_dir"] = str(request.working_dir)
    client.submit_job(
        entrypoint=request.entrypoint,
        submission_id=identifier,
        runtime_env=environment,
        metadata=dict(request.metadata),
    )


def _wait_for_agent(address: str, deadline: float) -> None:
    if time.monotonic() > deadline:
        raise ClusterError(
            f"no node of the cluster at {address} has taken the job for {AGENT_SECONDS:.0f} s: its "
            "agents have not started, or another Ray on the same machine holds their port (52365); "
            "try again, or stop the other Ray"
        )
    time.sleep(POLL_SECONDS)


def _settled(client: JobSubmissionClient, job: Job) -> JobDetails:
    deadline = time.monotonic() + SETTLE_SECONDS
    while not (details := client.get_job_info(job.identifier)).status.is_terminal():
        if time.monotonic() > deadline:
            raise ClusterError(
                f"job {job.identifier} is still {details.status} after {SETTLE_SECONDS:.0f} s; "
                f"look at it in the dashboard at {job.address}"
            )
        time.sleep(POLL_SECONDS)
    return details


def _failure(job: Job, details: JobDetails) -> str:
    code = details.driver_exit_code
    ended = "failed" if code is None else f"ended with exit code {code}"
    why = reason_of(str(details.message or "")) or "no message"
    return f"job {job.identifier} {ended}: {why}; its log: raymoe jobs logs {job.identifier}"
