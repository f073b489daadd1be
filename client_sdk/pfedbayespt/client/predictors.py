"""Which version answers at a site, fetched, verified and kept ready."""

from dataclasses import dataclass, field

import torch

from pfedbayespt.client.agreement import check_parameters
from pfedbayespt.client.coordinator import CoordinatorClient
from pfedbayespt.client.errors import StateError, problem_error
from pfedbayespt.client.federation_model import FederationModel
from pfedbayespt.client.learner import class_prior_of
from pfedbayespt.client.personal import PersonalStore
from pfedbayespt.client.predictor import LocalPredictor
from pfedbayespt.client.state import ServingVersion, StateDirectory
from pfedbayespt.client.versions import VersionCache
from pfedbayespt.protocol import Problem, ProblemType, digest_of_bytes


@dataclass
class Predictors:
    """Builds predictors of one site and keeps the last.

    Attributes:
        state: the site's files.
        client: the coordinator, with the site's identity.
        model: lends its backbone; its own parameters are left alone, so training may go on meanwhile.
    """

    state: StateDirectory
    client: CoordinatorClient
    model: FederationModel
    _last: tuple[object, LocalPredictor] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        enrolment = self.state.enrolment
        self._federation = enrolment.federation
        self._personal = PersonalStore(self.state.path / "personal")
        self._versions = VersionCache(
            self.state.path / "versions",
            self.client,
            self._federation,
            self.model.specification,
            enrolment.coordinator,
        )

    def get(self, model_version: int | None, *, offline: bool) -> LocalPredictor:
        """Return a predictor; see `Site.predictor`."""
        chosen = self._last_served() if offline else self._look_up(model_version)
        personal, counts = self._personal.of_version(chosen.number), self.state.progress.class_counts
        key = (chosen, personal and digest_of_bytes(personal), counts)
        if self._last is None or self._last[0] != key:
            self._last = (key, self._build(chosen, personal, counts))
        return self._last[1]

    def shared(self, model_version: int | None) -> LocalPredictor:
        """Return a predictor of its own, with a personal head of zeros; see `Site.adapt`."""
        chosen, counts = self._look_up(model_version), self.state.progress.class_counts
        return self._build(chosen, None, counts, personal_head=True)

    def _build(
        self,
        chosen: ServingVersion,
        personal: bytes | None,
        counts: tuple[int, ...] | None,
        *,
        personal_head: bool = False,
    ) -> LocalPredictor:
        content = self._versions.fetch(chosen.number, chosen.digest)
        check_parameters(content, self.model.specification, self._federation, chosen.number)
        model = self.model.twin(personal_head=personal_head or personal is not None)
        model.take(content, personal)
        class_prior = self._class_prior(counts)
        is_shared_alone = personal is None and class_prior is None
        return LocalPredictor(
            model,
            self._federation,
            chosen.number,
            chosen.digest,
            class_prior,
            self.state.enrolment.site_id,
            chosen.calibration if is_shared_alone else None,
        )

    def _look_up(self, model_version: int | None) -> ServingVersion:
        number = self._serving_number() if model_version is None else model_version
        version = self.client.model_versions.get(self._federation, number)
        chosen = ServingVersion(number=number, digest=version.digest, calibration=version.calibration)
        if model_version is None and chosen != self.state.serving:
            self.state.write_serving(chosen)
        return chosen

    def _serving_number(self) -> int:
        number = self.client.federations.get(self._federation).serving_version
        if number is None:
            kind = ProblemType.NO_SERVING_VERSION
            detail = f"federation {self._federation!r} has no model version that answers yet"
            raise problem_error(Problem(type=kind.urn, title=kind.title, status=kind.status, detail=detail))
        return number

    def _last_served(self) -> ServingVersion:
        serving = self.state.serving
        if serving is None or self._versions.read(serving.digest) is None:
            raise StateError(
                f"no version is kept in {self.state.path}; predict once with the coordinator in reach"
            )
        return serving

    def _class_prior(self, counts: tuple[int, ...] | None) -> torch.Tensor | None:
        if counts is None:  # the site has not trained yet and knows nothing of its classes
            return None
        labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        return class_prior_of(labels, self.model.classifier.config.head, len(counts))
