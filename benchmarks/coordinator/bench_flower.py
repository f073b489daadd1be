"""The same rounds on this coordinator and on Flower's, in one run: seconds, CPU seconds, memory, exactness.

Rules:
1. Ours is measured by `bench_coordinator`: durable, authenticated, every version kept and signed; its sites also
   download every version, as Flower's do. Flower's SuperLink runs as it ships: its state in memory, `--insecure`,
   the ServerApp in a process of its own, FedAvg.
2. Flower's sites are threads of one process, as ours are, and leave out the ClientApp's process
   (`flower/sites.py`): that makes Flower's rounds shorter than people see them, and changes nothing at the server.
3. `flower` polls every 3 seconds on both sides, as it ships; `flower-tuned` every 0.1. `ours` polls every second,
   as it ships; `ours-tuned` every 0.1.
4. Flower's server is the SuperLink with all processes below it, the ServerApp above all. Their memory is added up
   ten times a second, and the largest sum counts: what comes and goes in between is missed, in Flower's favour.
5. The first round is not counted. Each counted round's arrays are compared with NumPy's mean of the same draws.

One JSON object per case and system, then one with Flower's figures divided by ours. Needs an environment with flwr,
whose `bin` folder `--flower-bin` names; `make bench-flower` makes it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any, Self

import bench_coordinator
import numpy as np
from stamina import instrumentation

from pfedbayespt.demo.processes import free_port
from pfedbayespt.simulation.measuring import Usage

HERE = Path(__file__).parent / "flower"
CASES = ((4, 1.0), (16, 1.0), (16, 10.0))
POLL_SECONDS = {"ours": 1.0, "flower": 3.0, "ours-tuned": 0.1, "flower-tuned": 0.1}
COMPARED = ("seconds_per_round_p50", "cpu_seconds_per_update", "peak_rss_mb")
MAX_ERROR = bench_coordinator.MAX_ERROR
WARM_UP_ROUNDS = 1
_SAMPLE_SECONDS = 0.1
_GIVE_UP_SECONDS = 900.0


class FlowerFailedError(RuntimeError):
    """A process of Flower's ended, or its rounds did not; the message holds the end of the logs."""


def measure(
    binaries: Path, num_sites: int, megabytes: float, num_rounds: int, poll_seconds: float
) -> dict[str, float]:
    """Run one case on Flower and return its figures."""
    last_round = WARM_UP_ROUNDS + num_rounds
    with tempfile.TemporaryDirectory(prefix="bench-flower-", dir=os.environ.get("BENCH_DIR")) as scratch:
        folder, address = Path(scratch), f"127.0.0.1:{free_port()}"
        environment = _environment(folder, address, poll_seconds)
        superlink = [str(binaries / "flower-superlink"), "--insecure", "--host", "127.0.0.1"]
        superlink += ["--port", address.rpartition(":")[2], "--disable-runtime-dependency-installation"]
        sites = [str(binaries / "python"), str(HERE / "sites.py"), "--superlink", address]
        sites += ["--sites", str(num_sites), "--megabytes", str(megabytes)]
        sites += ["--poll-seconds", str(poll_seconds)]
        with (
            _running(superlink, folder, environment) as server,
            _running(sites, folder, environment) as peers,
            TreeMeter(server.pid) as meter,
        ):
            _start_run(binaries, folder, environment, num_sites, megabytes, last_round)
            ends = _await_rounds(folder, last_round, (server, peers))
        seconds = np.diff([ends[number] for number in range(WARM_UP_ROUNDS, last_round + 1)])
        used = meter.cpu_seconds_at(ends[last_round]) - meter.cpu_seconds_at(ends[WARM_UP_ROUNDS])
        errors = [_error(folder, number, num_sites, megabytes) for number in range(2, last_round + 1)]
    return {
        "sites": num_sites,
        "megabytes": megabytes,
        "seconds_per_round_p50": round(float(median(seconds)), 4),
        "cpu_seconds_per_update": round(used / (num_sites * num_rounds), 5),
        "peak_rss_mb": round(meter.peak_rss_mb, 1),
        "mean_error": max(errors),
    }


class TreeMeter:
    """Adds up, again and again, what a process and all below it use, as Linux counts it."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._cpu: dict[int, float] = {}  # by process, of those that have ended too
        self._samples: list[tuple[float, float]] = []
        self.peak_rss_mb = 0.0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def cpu_seconds_at(self, monotonic: float) -> float:
        """Return what all had used by then, between two samples in proportion."""
        times, used = zip(*self._samples, strict=True)
        return float(np.interp(monotonic, times, used))

    def _sample(self) -> None:
        while not self._stop.wait(_SAMPLE_SECONDS):
            rss_mb = 0.0
            for pid, usage in _tree(self._pid).items():
                self._cpu[pid] = usage.cpu_seconds
                rss_mb += usage.rss_mb
            self._samples.append((time.monotonic(), sum(self._cpu.values())))
            self.peak_rss_mb = max(self.peak_rss_mb, rss_mb)


def _tree(root: int) -> dict[int, Usage]:
    """Return what `root` and each of its descendants uses, by process id."""
    usages: dict[int, Usage] = {}
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            usages[int(path.name)] = Usage.of(int(path.name))
    found = {root}
    while more := {pid for pid, usage in usages.items() if usage.parent in found} - found:
        found |= more
    return {pid: usages[pid] for pid in found if pid in usages}


def _environment(folder: Path, address: str, poll_seconds: float) -> dict[str, str]:
    home = folder / "home"
    home.mkdir()
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "bench"\n\n[superlink.bench]\naddress = "{address}"\ninsecure = true\n'
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "PATH": os.environ["PATH"],
    }
    if poll_seconds < POLL_SECONDS["flower"]:
        tuned = {"PYTHONPATH": str(HERE / "polls"), "FLOWER_POLL_SECONDS": str(poll_seconds)}
        environment |= tuned | {"FLWR_SUPEREXEC_TASK_POLL_INTERVAL": str(poll_seconds)}
    return environment


@contextmanager
def _running(
    command: Sequence[str], folder: Path, environment: dict[str, str]
) -> Iterator["subprocess.Popen[bytes]"]:
    environment = environment | {"PATH": f"{Path(command[0]).parent}:{environment['PATH']}"}
    with (folder / f"{Path(command[0]).name}.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
    try:
        yield process
    finally:
        below = list(_tree(process.pid))
        process.terminate()
        try:
            process.wait(10.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        _await_end(below)


def _await_end(pids: Sequence[int]) -> None:
    """Wait until those that watch their parent have ended too, so that the next case has the machine alone."""
    give_up_at = time.monotonic() + 10.0
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < give_up_at:
        time.sleep(_SAMPLE_SECONDS)


def _start_run(
    binaries: Path,
    folder: Path,
    environment: dict[str, str],
    num_sites: int,
    megabytes: float,
    num_rounds: int,
) -> None:
    config = f'sites={num_sites} megabytes={megabytes} rounds={num_rounds} out="{folder}"'
    command = [str(binaries / "flwr"), "run", str(HERE), "bench", "--run-config", config]
    give_up_at = time.monotonic() + 60.0
    while True:  # until the SuperLink listens
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        if time.monotonic() > give_up_at:
            raise FlowerFailedError(f"`flwr run` failed:\n{done.stdout}{done.stderr}\n{_logs(folder)}")
        time.sleep(1.0)


def _await_rounds(
    folder: Path, last_round: int, processes: Sequence["subprocess.Popen[bytes]"]
) -> dict[int, float]:
    """Return when each round ended, by the monotonic clock."""
    path, give_up_at = folder / "rounds.jsonl", time.monotonic() + _GIVE_UP_SECONDS
    while True:
        lines = path.read_text().splitlines() if path.exists() else []
        ends = {entry["round"]: entry["monotonic"] for entry in map(json.loads, lines)}
        if last_round in ends:
            time.sleep(2 * _SAMPLE_SECONDS)  # for one more sample
            return ends
        if any(process.poll() is not None for process in processes) or time.monotonic() > give_up_at:
            raise FlowerFailedError(f"Flower played {len(ends)} of {last_round + 1}:\n{_logs(folder)}")
        time.sleep(_SAMPLE_SECONDS)


def _logs(folder: Path) -> str:
    tails = (path.read_text(errors="replace").splitlines()[-30:] for path in sorted(folder.glob("*.log")))
    return "\n".join(line for tail in tails for line in tail)


def _error(folder: Path, number: int, num_sites: int, megabytes: float) -> float:
    """Return the largest difference between a round's arrays and what NumPy says they must be."""
    from flower_bench.numbers import draws, factor  # here, as `main` puts flower/ on the path

    all_drawn = [draws(site, megabytes) for site in range(num_sites)]
    before, after = (np.load(folder / f"round-{each}.npz") for each in (number - 1, number))
    error = 0.0
    for name, *drawn in zip(after.files, *all_drawn, strict=True):
        mean = np.mean([one * factor(number) for one in drawn], axis=0, dtype=np.float64)
        error = max(error, float(np.abs(after[name] - (before[name].astype(np.float64) + mean)).max()))
    if error > MAX_ERROR:
        raise AssertionError(f"round {number}: Flower's mean is wrong by {error}")
    return error


def ratios(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return, case by case, Flower's figures divided by ours: above 1, ours is better."""
    named = {(row["system"], row["sites"], row["megabytes"]): row for row in rows}
    return {
        f"{theirs} / {ours}, {sites} x {megabytes:g} MB": {
            name: round(named[theirs, sites, megabytes][name] / row[name], 3) for name in COMPARED
        }
        for (ours, sites, megabytes), row in named.items()
        for theirs in ("flower", "flower-tuned")
        if ours.startswith("ours") and (theirs, sites, megabytes) in named
    }


def main() -> None:
    """Print a line per case and system, and one of ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--flower-bin", type=Path, required=True, help="the folder of Flower's commands")
    parser.add_argument("--cases", nargs="*", metavar="SITESxMEGABYTES", help="only these, such as 16x10")
    parser.add_argument("--systems", nargs="*", choices=POLL_SECONDS, default=list(POLL_SECONDS))
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds per case")
    parser.add_argument("--out", type=Path, help="where the rows go as well")
    arguments = parser.parse_args()
    instrumentation.set_on_retry_hooks([])
    sys.path.insert(0, str(HERE))
    binaries = arguments.flower_bin.absolute()
    rows: list[dict[str, Any]] = []
    for case in arguments.cases or [f"{sites}x{megabytes}" for sites, megabytes in CASES]:
        sites, megabytes = (part(text) for part, text in zip((int, float), case.split("x"), strict=True))
        for system in arguments.systems:
            poll = POLL_SECONDS[system]
            if system.startswith("ours"):
                row = bench_coordinator.measure(sites, megabytes, arguments.rounds, poll, downloads=True)
            else:
                row = measure(binaries, sites, megabytes, arguments.rounds, poll)
            rows.append({"system": system, "poll_seconds": poll, **row})
            print(json.dumps(rows[-1]), flush=True)
    lines = [*rows, {"ratios": ratios(rows)}]
    print(json.dumps(lines[-1]), flush=True)
    if arguments.out is not None:
        arguments.out.write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    main()
