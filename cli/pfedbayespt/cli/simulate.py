"""`pfedbayespt simulate`: a specification, tried with as many sites as wanted before anybody joins."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pfedbayespt.cli.failures import UserError

if TYPE_CHECKING:
    from pfedbayespt.protocol import FederationSpecification
    from pfedbayespt.simulation.outcome import Outcome, RoundRow
    from pfedbayespt.simulation.population import Population


def simulate(
    specification: Annotated[
        Path,
        typer.Argument(
            help="The federation's specification, TOML or JSON, as `admin create-federation` takes it.",
            exists=True,
            dir_okay=False,
        ),
    ],
    *,
    sites: Annotated[int, typer.Option(min=2, help="How many sites take part.")] = 200,
    rounds: Annotated[
        int, typer.Option(min=1, help="Training rounds; a round of statistics comes before them.")
    ] = 5,
    in_process: Annotated[
        bool,
        typer.Option(
            "--in-process", help="No coordinator, no HTTP, no Ray: the rounds alone, for work on a method."
        ),
    ] = False,
    sites_per_task: Annotated[
        int, typer.Option(min=1, max=100, help="Sites that one Ray task stands for.")
    ] = 50,
    backbone: Annotated[
        Path | None,
        typer.Option(
            help="The backbone's file: the parameters are the model's own.", exists=True, dir_okay=False
        ),
    ] = None,
    megabytes: Annotated[
        float, typer.Option(min=0.001, max=200, help="Size of the parameters if no backbone is given.")
    ] = 0.1,
    heterogeneity: Annotated[
        float, typer.Option(min=0.0, help="How far the optima of the sites lie apart; 0: they agree.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Another seed draws other sites.")] = 0,
    directory: Annotated[
        Path | None,
        typer.Option(
            help="Where the coordinator keeps its data and its log. Default: removed at the end.",
            file_okay=False,
        ),
    ] = None,
) -> None:
    """Run a federation of synthetic sites, and print what its rounds cost.

    Each site pulls the parameters towards an optimum of its own, as far as the specification's training goes.

    Sites are Ray tasks at a real coordinator, with keys, tokens and signed updates; the cluster is the one that
    RAY_ADDRESS names, or this machine.

    The last line is one JSON object.
    """
    from pfedbayespt.simulation.population import Population

    terms, initial = _terms(specification, backbone, megabytes, sites, rounds)
    shapes = {name: array.shape for name, array in initial.items()}
    population = Population(shapes, terms.training, heterogeneity, seed)
    if in_process:
        from pfedbayespt.simulation import in_process as rehearsal

        _report(rehearsal.simulate(terms, initial, population, sites))
    else:
        _report(_over_http(terms, initial, population, sites, sites_per_task, directory))


def _terms(
    file: Path, backbone: Path | None, megabytes: float, sites: int, rounds: int
) -> "tuple[FederationSpecification, dict[str, Any]]":
    """Return the specification with this simulation's numbers in it, and the parameters of version 0.

    Raises:
        UserError: the specification cannot be simulated.
    """
    from pfedbayespt.cli.founding import initial_parameters_file, parse_specification, read_specification
    from pfedbayespt.protocol import digest_of_bytes, tensors
    from pfedbayespt.simulation.synthetic import FEDERATION, blank_parameters

    if backbone is None:
        terms = parse_specification(file, digest_of_bytes(b"no backbone"))
    else:
        terms = read_specification(file, backbone)
    if terms.rounds.asynchronous is not None:
        raise UserError(
            f"{file} asks for asynchronous rounds; simulated sites take turns, so none is ever stale"
        )
    if sites < terms.rounds.min_sites_to_start:
        raise UserError(
            f"{file} asks for at least {terms.rounds.min_sites_to_start} sites; you ask for {sites}"
        )
    terms = terms.model_copy(update={"rounds": terms.rounds.model_copy(update={"num_rounds": rounds})})
    if backbone is None:
        return terms, blank_parameters(megabytes)
    return terms, tensors.decode(initial_parameters_file(FEDERATION, terms, backbone))[1]


def _over_http(
    terms: "FederationSpecification",
    initial: "dict[str, Any]",
    population: "Population",
    sites: int,
    sites_per_task: int,
    directory: Path | None,
) -> "Outcome":
    from stamina import instrumentation

    from pfedbayespt.client import CoordinatorClient
    from pfedbayespt.demo.processes import coordinator_process
    from pfedbayespt.simulation.federation import PATIENT, RayTasks, Simulation
    from pfedbayespt.simulation.measuring import Meter

    instrumentation.set_on_retry_hooks([])  # that a coordinator is not there yet is no news
    tasks = RayTasks(sites_per_task)
    try:
        with (
            _folder(directory) as folder,
            coordinator_process(folder, {}) as coordinator,
            CoordinatorClient(coordinator.url, coordinator.admin_token, timeouts=PATIENT) as admin,
        ):
            meter = Meter(coordinator.pid)
            return Simulation(admin, coordinator.url, tasks, population, meter).run(terms, initial, sites)
    finally:
        tasks.close()


@contextmanager
def _folder(directory: Path | None) -> Iterator[Path]:
    if directory is None:
        with TemporaryDirectory(prefix="pfedbayespt-simulation-") as folder:
            yield Path(folder)
        return
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise UserError(f"{directory} is not empty; a simulation begins with an empty folder")
    yield directory


def _report(outcome: "Outcome") -> None:
    from pfedbayespt.cli.output import show_rows

    show_rows(
        outcome.rounds,
        {
            "round": lambda row: row.round_number,
            "task": lambda row: row.task,
            "status": lambda row: row.status,
            "updates": lambda row: row.updates,
            "seconds": lambda row: row.seconds,
            "CPU ms per update": _milliseconds_per_update,
            "loss": lambda row: row.loss,
        },
    )
    typer.echo(json.dumps(outcome.summary()))


def _milliseconds_per_update(row: "RoundRow") -> float | None:
    if row.coordinator_cpu_seconds is None or not row.updates:
        return None
    return row.coordinator_cpu_seconds / row.updates * 1e3
