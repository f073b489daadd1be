"""The real coordinator and the fake one keep to the same checks: what works with one works with the other."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.client_sdk.harness import ADMIN_TOKEN, PATIENT, serving

from pfedbayespt.client import CoordinatorClient
from pfedbayespt.protocol import ParametersManifest, tensors
from pfedbayespt.server import Settings, create_app
from pfedbayespt.testing.conformance import INITIAL, SPECIFICATION, CoordinatorConformance, Stage
from pfedbayespt.testing.coordinator import FakeCoordinator
from pfedbayespt.testing.federation import FakeFederation

NAME = "alpha"


class TestFake(CoordinatorConformance):
    @pytest.fixture
    def stage(self) -> Iterator[Stage]:
        with FakeCoordinator(FakeFederation(SPECIFICATION, INITIAL, NAME)) as fake:
            yield Stage(fake.url, fake.invite, fake.close_round)


class TestReal(CoordinatorConformance):
    @pytest.fixture
    def stage(self, tmp_path: Path) -> Iterator[Stage]:
        settings = Settings(
            admin_token=ADMIN_TOKEN,
            data_dir=tmp_path,
            retry_after_seconds=0.05,
            worker_interval_seconds=0.05,
            heartbeat_seconds=0.0,
        )
        with (
            serving(create_app(settings)) as url,
            CoordinatorClient(url, ADMIN_TOKEN, timeouts=PATIENT) as admin,
        ):
            found(admin)
            yield Stage(
                url,
                lambda: admin.federations.create_enrolment_token(NAME, "clinic").token,
                lambda: admin.rounds.close(next(admin.rounds.list(NAME)).round_id),
            )


def found(admin: CoordinatorClient) -> None:
    """Create the federation that the checks are about."""
    federation = admin.federations.create(NAME, SPECIFICATION)
    manifest = ParametersManifest(
        federation=NAME, specification_digest=federation.specification_digest, version_number=0
    )
    admin.federations.upload_initial_parameters(NAME, tensors.encode(INITIAL, manifest))
    admin.federations.activate(NAME)
