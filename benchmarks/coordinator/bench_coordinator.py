"""What the coordinator costs: rounds of synthetic sites against a real process, durable and authenticated.

Rules:
1. The coordinator is the command that people run, with SQLite and a folder on a disk (or the database and the store
   that the environment names), in a process of its own: CPU seconds and peak memory are its own, from /proc.
2. Sites go through the SDK: keys, tokens, signed statements, retries. Encoding, hashing, signing and sending count
   as part of a round, and use the same cores.
3. A round lasts from the end of the round before it to its own end, by the database's clock: polls included. The
   first rounds, of statistics and of warming up, are not counted.
4. A further process asks for one site's assignment again and again: `heartbeat_p99_ms` is what it waits while the
   others upload. On a machine that the sites keep busy most of that may be waiting for a core: so
   `heartbeat_in_server_p99_ms` is the same by the coordinator's own log, of all sites' assignments, and
   `heartbeat_quiet_p99_ms` what the asker waits before the first upload.
5. Each counted round's version is compared with the mean that NumPy computes from the same draws; an error above
   1e-6 ends the run.

One JSON object per case, and at the end how peak memory grows with the number of sites.
"""

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from stamina import instrumentation

from pfedbayespt.client import CoordinatorClient, Timeouts
from pfedbayespt.client.authentication import SiteIdentity
from pfedbayespt.demo.processes import coordinator_process
from pfedbayespt.protocol import Assignment, Round, SigningKey, tensors
from pfedbayespt.simulation.measuring import Meter
from pfedbayespt.simulation.synthetic import (
    FEDERATION,
    SyntheticSite,
    blank_parameters,
    found,
    live_together,
    mean_delta,
    specification,
)

SITES, MEGABYTES = (4, 16, 64), (0.1, 1.0, 10.0)
SLOPE_SITES, SLOPE_MEGABYTES = (8, 16, 32, 64), 10.0
MAX_ERROR = 1e-6
WARM_UP_ROUNDS = 2  # one of statistics, one of training
_HEARTBEAT_SECONDS = 0.1
_QUIET_SECONDS = 5.0
_PATIENT = Timeouts(total_seconds=600.0)


def measure(
    num_sites: int, megabytes: float, num_rounds: int, poll_seconds: float, *, downloads: bool = False
) -> dict[str, float]:
    """Run one case and return its figures; with `downloads` sites also fetch every version."""
    arrays = blank_parameters(megabytes)
    with (
        tempfile.TemporaryDirectory(prefix="bench-coordinator-", dir=os.environ.get("BENCH_DIR")) as scratch,
        coordinator_process(Path(scratch), {"PFEDBAYESPT_RETRY_AFTER_SECONDS": str(poll_seconds)}) as running,
        CoordinatorClient(running.url, running.admin_token, timeouts=_PATIENT) as admin,
    ):
        meter, log = Meter(running.pid), Path(scratch) / "coordinator.log"
        found(admin, specification(num_sites), arrays)
        sites = [
            SyntheticSite.enrol(admin, running.url, number, arrays, _PATIENT) for number in range(num_sites)
        ]
        for site in sites:
            site.downloads = downloads
        with heartbeats(running.url, sites[0].identity) as waits:
            time.sleep(_QUIET_SECONDS)
            quiet_until = time.monotonic()
            _play(sites, WARM_UP_ROUNDS)
            begun, used, logged = time.monotonic(), meter.cpu_seconds(), log.stat().st_size
            _play(sites, WARM_UP_ROUNDS + num_rounds)
            used = meter.cpu_seconds() - used
            in_server = _assignments(log, logged)
        waited = [wait for at, wait in waits if at >= begun]
        quiet = [wait for at, wait in waits if at < quiet_until]
        rounds = sorted(admin.rounds.list(FEDERATION), key=lambda one: one.round_number)
        counted = rounds[WARM_UP_ROUNDS : WARM_UP_ROUNDS + num_rounds]
        return {
            "sites": num_sites,
            "megabytes": megabytes,
            "seconds_per_round_p50": round(median(_durations(rounds, counted)), 4),
            "cpu_seconds_per_update": round(used / (num_sites * num_rounds), 5),
            "peak_rss_mb": round(meter.peak_rss_mb(), 1),
            "heartbeat_p99_ms": round(float(np.percentile(waited, 99)) * 1e3, 2),
            "heartbeat_in_server_p99_ms": round(float(np.percentile(in_server, 99)), 2),
            "heartbeat_quiet_p99_ms": round(float(np.percentile(quiet, 99)) * 1e3, 2),
            "mean_error": max(_error(admin, one, sites) for one in counted),
        }


def _play(sites: list[SyntheticSite], last_round: int) -> None:
    """Let the sites live until a later round collects."""

    def is_over(assignment: Assignment) -> bool:
        return assignment.round is not None and assignment.round.round_number > last_round

    live_together(sites, is_over)


def _durations(rounds: list[Round], counted: list[Round]) -> list[float]:
    ends = {one.round_number: one.finished_at for one in rounds if one.finished_at is not None}
    return [(ends[one.round_number] - ends[one.round_number - 1]).total_seconds() for one in counted]


def _error(admin: CoordinatorClient, one: Round, sites: list[SyntheticSite]) -> float:
    """Return the largest difference between a version and what NumPy says it must be."""
    if one.result_version is None:
        raise AssertionError(f"round {one.round_number} led to nothing: {one.abandoned_reason}")
    before, after = (_parameters(admin, number) for number in (one.base_version, one.result_version))
    mean = mean_delta([site.drawn for site in sites], one.round_number, one.task)
    error = max(
        float(np.abs(after[name] - (before[name].astype(np.float64) + mean[name])).max()) for name in mean
    )
    if error > MAX_ERROR:
        raise AssertionError(f"round {one.round_number}: the mean is wrong by {error}")
    return error


def _parameters(admin: CoordinatorClient, number: int) -> dict[str, Any]:
    digest = admin.model_versions.get(FEDERATION, number).digest
    return tensors.decode(admin.model_versions.download(FEDERATION, number, digest))[1]


def _assignments(log: Path, first_byte: int) -> list[float]:
    """Return how long, in milliseconds, the coordinator says that it took over each assignment since then."""
    with log.open("rb") as lines:
        lines.seek(first_byte)
        entries = [json.loads(line) for line in lines if b"/v1/sites/me/assignment" in line]
    return [entry["duration_milliseconds"] for entry in entries if entry.get("event") == "request"]


@contextmanager
def heartbeats(url: str, identity: SiteIdentity) -> Iterator[list[tuple[float, float]]]:
    """Fill the list with (when, how long) a heartbeat waits, in seconds, asked for by a process of its own."""
    context = multiprocessing.get_context("spawn")
    stop, here = context.Event(), context.Pipe(duplex=False)
    key_pem, audience = identity.key.to_pem(), identity._coordinator_key_id  # noqa: SLF001  (as enrolment gave it)
    asker = context.Process(target=_ask, args=(url, identity.site_id, key_pem, audience, stop, here[1]))
    asker.start()
    here[0].recv()
    waits: list[tuple[float, float]] = []
    yield waits
    stop.set()
    waits += here[0].recv()
    asker.join()


def _ask(url: str, site_id: str, key_pem: bytes, audience: str, stop: Event, there: Any) -> None:
    identity, waits = SiteIdentity(site_id, SigningKey.from_pem(key_pem), audience), []
    with CoordinatorClient(url, identity) as client:
        client.sites.assignment()
        there.send("ready")
        while not stop.wait(_HEARTBEAT_SECONDS):
            begun = time.monotonic()
            client.sites.assignment()
            waits.append((begun, time.monotonic() - begun))
    there.send(waits)


def slope(peaks: dict[int, float]) -> float:
    """Return by how many megabytes peak memory grows with each further site: least squares."""
    return float(np.polyfit(list(peaks), list(peaks.values()), 1)[0])


def _cases(arguments: argparse.Namespace) -> list[tuple[int, float]]:
    if arguments.quick:
        return [(4, 0.1), (4, 1.0)]
    if arguments.cases:
        return [(int(sites), float(size)) for sites, size in (case.split("x") for case in arguments.cases)]
    main = [(sites, size) for size in MEGABYTES for sites in SITES]
    return main + [(sites, SLOPE_MEGABYTES) for sites in SLOPE_SITES if (sites, SLOPE_MEGABYTES) not in main]


def main() -> None:
    """Print one line per case, then the slope if its cases were measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="two small cases")
    parser.add_argument("--cases", nargs="*", metavar="SITESxMEGABYTES", help="only these, such as 16x10")
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds per case")
    parser.add_argument(
        "--poll-seconds", type=float, default=1.0, help="how soon a waiting site asks again: as shipped"
    )
    arguments = parser.parse_args()
    instrumentation.set_on_retry_hooks([])  # the figures are the output
    peaks: dict[int, float] = {}
    for num_sites, megabytes in _cases(arguments):
        row = measure(
            num_sites, megabytes, 2 if arguments.quick else arguments.rounds, arguments.poll_seconds
        )
        print(json.dumps(row), flush=True)
        if megabytes == SLOPE_MEGABYTES and num_sites in SLOPE_SITES:
            peaks[num_sites] = row["peak_rss_mb"]
    if len(peaks) > 1:
        print(json.dumps({"rss_slope_mb_per_site": round(slope(peaks), 3)}), flush=True)


if __name__ == "__main__":
    main()
