"""FedAvg over all sites; the arrays of every round and the time of its end are kept for `bench_flower.py`."""

import json
import time
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from flower_bench.numbers import blank

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Play the rounds that the run's configuration asks for."""
    config, out = context.run_config, Path(context.run_config["out"])
    sites = config["sites"]

    def keep(round_number: int, arrays: ArrayRecord) -> None:
        line = {"round": round_number, "monotonic": time.monotonic()}
        np.savez(out / f"round-{round_number}.npz", *arrays.to_numpy_ndarrays())
        with (out / "rounds.jsonl").open("a") as rounds:
            rounds.write(json.dumps(line) + "\n")

    FedAvg(
        fraction_evaluate=0.0, min_train_nodes=sites, min_available_nodes=sites, min_evaluate_nodes=0
    ).start(
        grid=grid,
        initial_arrays=ArrayRecord(blank(config["megabytes"])),
        num_rounds=config["rounds"],
        evaluate_fn=keep,
    )
