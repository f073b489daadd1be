"""The figures of `make bench-trust`: authorisation, bad inputs, tampering and replays, counted."""

import logging
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path

from tests.server.authorisation_rows import ROWS
from tests.server.harness import Caller, Coordinator, SiteCaller, check, running, settings_for
from tests.server.serving_parts import file_of, parameters_of, specification_on, tiny_backbone
from tests.server.test_authorisation import cells, inhabited
from tests.trust import contract, garbage
from tests.trust.mutants import mutants, sent
from tests.trust.nasty_images import MADE, damaged
from tests.trust.replays import accepted, replays
from tests.trust.tampers import KINDS, tamper
from tests.trust.world import History, history

from pfedbayespt.cli.audit.archive import Archive
from pfedbayespt.cli.audit.verification import Audit
from pfedbayespt.cli.failures import UserError
from pfedbayespt.server.settings import ServerRole

BUDGET_BYTES = 200 * 2**20
_BOTH = frozenset({ServerRole.COORDINATOR, ServerRole.INFERENCE})


def authorisation(folder: Path) -> dict[str, int]:
    """Try every cell of the matrix."""
    figures: Counter[str] = Counter(authz_cells=0, unexpected_2xx=0)
    with inhabited(folder) as world:
        for operation in sorted(ROWS):
            for cell in cells(world, operation):
                figures["authz_cells"] += 1
                if cell.problem is not None:
                    response = world.call(operation, cell.caller, cell.places)
                    figures["unexpected_2xx"] += response.status_code < 400
    return dict(figures)


def bad_inputs(folder: Path, number: int) -> dict[str, int]:
    """Send bad inputs of every kind; half of them requests, a quarter updates, a quarter images."""
    figures: Counter[str] = Counter(bad_inputs=0, server_errors=0, over_budget=0)
    with _serving(folder) as (coordinator, site):
        watch = MemoryWatch()
        for status in _answers(coordinator, site, number):
            figures["bad_inputs"] += 1
            figures["server_errors"] += status >= 500
            if figures["bad_inputs"] % 100 == 0:
                figures["over_budget"] += watch.is_over(BUDGET_BYTES)
        figures["over_budget"] += watch.is_over(BUDGET_BYTES)
    return dict(figures)


def contract_keeping(folder: Path, per_operation: int) -> tuple[dict[str, int], list[str]]:
    """Send what schemathesis draws from the live document; return the figures, and what breaks the document."""
    figures: Counter[str] = Counter(bad_inputs=0, server_errors=0)
    complaints: list[str] = []
    with inhabited(folder) as world:
        for answer in contract.answers(world, contract.live_document(world), per_operation):
            figures["bad_inputs"] += 1
            is_honest = answer.status == 503  # no inference here: documented, and no failure
            figures["server_errors"] += answer.status >= 500 and not is_honest
            complaints += [answer.complaint] if answer.complaint else []
    return dict(figures), complaints


def tampering(folder: Path, number: int) -> dict[str, int]:
    """Tamper with exports and with requests, in turn over every kind; a tenth are requests."""
    figures: Counter[str] = Counter(tamper_trials=0, tampers_detected=0)
    with history(folder / "data") as past:
        past.export(folder / "sound")
        if list(Audit(Archive.read(folder / "sound"), past.receipts).problems()):
            raise AssertionError("the export that is to be tampered with is not sound")
        for trial in range(number - number // 10):
            kind = KINDS[trial % len(KINDS)]
            tamper(folder / "sound", folder / str(trial), kind, trial)
            figures["tamper_trials"] += 1
            figures["tampers_detected"] += _is_found(folder / str(trial), past)
        for is_refused in _tampered_requests(past, number // 10):
            figures["tamper_trials"] += 1
            figures["tampers_detected"] += is_refused
    return dict(figures)


def replaying(folder: Path, number_of_each: int) -> dict[str, int]:
    """Send everything again."""
    figures: Counter[str] = Counter(replays=0, replays_accepted=0)
    with running(settings_for(folder)) as coordinator:
        for replay in replays(coordinator, number_of_each):
            figures["replays"] += 1
            figures["replays_accepted"] += accepted(coordinator, replay)
    return dict(figures)


class MemoryWatch:
    """How far this process has grown since the watch was made, by the kernel's high-water mark."""

    def __init__(self) -> None:
        self._base = self._peak()

    def is_over(self, budget_bytes: int) -> bool:
        """Whether the peak since the last question is more than the budget above the base."""
        return self._peak() - self._base > budget_bytes

    @staticmethod
    def _peak() -> int:
        status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        kibibytes = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        return kibibytes * 1024


def _is_found(folder: Path, past: History) -> bool:
    try:
        return next(Audit(Archive.read(folder), past.receipts).problems(), None) is not None
    except UserError:
        return True


def _tampered_requests(past: History, number: int) -> Iterator[bool]:
    """Send an update with one bit changed after it was signed, in its file, its statement or its token."""
    draw, coordinator = random.Random(0), past.coordinator
    coordinator.federation("beta", min_sites_to_start=2, quorum=2, num_rounds=1)
    site, _ = coordinator.sites(2, "beta")
    coordinator.settle()
    round_ = coordinator.live_round("beta")
    content = site.update(round_, 1.0, 10)
    for mutant in islice(mutants(site, round_["round_id"], content, 10**6), number):
        changed = bytearray(content)
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
        headers = mutant.headers if mutant.content == content else {}
        statement = site.statement(round_["round_id"], content)
        response = site.submit_file(round_["round_id"], bytes(changed), statement=statement, headers=headers)
        yield response.status_code >= 400


@contextmanager
def _serving(folder: Path) -> Iterator[tuple[Coordinator, SiteCaller]]:
    """Run a coordinator that collects updates for `delta` and answers predictions for `alpha` on a tiny ViT.

    Hostile requests name `alpha`.
    """
    backbones = folder / "backbones"
    specification = specification_on(tiny_backbone(backbones, "vit"))
    parameters = parameters_of(specification, backbones / "vit", seed=0)
    options = {"roles": _BOTH, "backbone_cache_dir": backbones}
    with running(settings_for(folder / "data", **options)) as coordinator:
        body = {"name": "alpha", "specification": specification.model_dump(mode="json")}
        coordinator.admin.post("/v1/federations", body, status=201)
        path = "/v1/federations/alpha/initial-parameters"
        content = file_of(parameters, specification, 0, "alpha")
        check(coordinator.admin.put_file(path, content), 201)
        coordinator.admin.post("/v1/federations/alpha/activate")
        coordinator.federation("delta", min_sites_to_start=2, quorum=2, num_rounds=1)
        site, _ = coordinator.sites(2, "delta")
        coordinator.settle()
        for _ in range(5):  # what a first answer loads is not what an input costs
            _predict(coordinator, MADE["JPEG of orientation 0"]())
        yield coordinator, site


def _answers(coordinator: Coordinator, site: SiteCaller, number: int) -> Iterator[int]:
    """Yield the status of every answer."""
    round_ = coordinator.live_round("delta")
    content = site.update(round_, 1.0, 10)
    for mutant in mutants(site, round_["round_id"], content, number // 4):
        yield sent(site, round_["round_id"], mutant).status_code
    images = chain((make() for make in MADE.values()), damaged(number))
    for image in islice(images, number // 4):
        yield _predict(coordinator, image)
    credentials = [None, coordinator.admin.credential, str(site.credential)]
    for request in garbage.requests(list(ROWS), credentials, number - 2 * (number // 4)):
        yield _status(coordinator, request)


def _status(coordinator: Coordinator, request: garbage.Request) -> int:
    headers = {name: value.encode("utf-8", "surrogateescape") for name, value in request.headers.items()}
    response = coordinator.http.request(
        request.method, request.path, content=request.content, headers=headers, follow_redirects=False
    )
    return int(response.status_code)


def _predict(coordinator: Coordinator, image: bytes) -> int:
    caller: Caller = coordinator.admin
    path, headers = "/v1/federations/alpha/predictions", {"Content-Type": "image/png"}
    return int(
        caller.request("POST", path, content=image, headers=headers, params={"num_samples": 1}).status_code
    )


def quiet() -> None:
    """Keep the coordinator's log to itself: it tells of every refusal."""
    logging.disable(logging.CRITICAL)
