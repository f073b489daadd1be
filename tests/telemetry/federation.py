"""A program of its own: a federation from the first invitation to a prediction, where coordinator and site trace.

    python federation.py FOLDER

The coordinator traces because of the variable `OTEL_EXPORTER_OTLP_ENDPOINT`; the site because this program, of
which the SDK is a part, has set a provider. What was used and must stay secret goes into FOLDER/secrets.json, in
base64.
"""

import base64
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from tests.client_sdk.harness import ADMIN_TOKEN, Coordinator, coordinating, draw_images

from pfedbayespt.client import CoordinatorClient, HttpAnswer, HttpRequest, Site, Timeouts
from pfedbayespt.client.transport import HttpxTransport
from pfedbayespt.model.backbone import random_backbone
from pfedbayespt.server import logs
from pfedbayespt.server.settings import ServerRole

FEDERATION, ORGANISATION, SITE = "a-federation-of-ours", "an-organisation-of-ours", "a-site-of-ours"


@dataclass
class Witness:
    """A transport that remembers every header's value and every body, both ways."""

    seen: set[bytes] = field(default_factory=set)
    to: HttpxTransport = field(default_factory=HttpxTransport)

    def __call__(self, request: HttpRequest, timeouts: Timeouts) -> HttpAnswer:
        answer = self.to(request, timeouts)
        credential = request.headers.get("Authorization", "")
        self.seen |= {request.body, answer.body, credential.removeprefix("Bearer ").encode()}
        self.seen |= {part.encode() for part in credential.split(".")}  # of a JSON web token
        return answer


def play(folder: Path) -> set[bytes]:
    backbone_file = folder / "backbones" / "tiny.safetensors"
    backbone_file.parent.mkdir()
    config = random_backbone(backbone_file)
    train = draw_images(folder / "train", 4, seed=1)
    held_out = draw_images(folder / "held-out", 2, seed=2)
    roles = frozenset(ServerRole)
    witness = Witness()
    with coordinating(
        folder / "coordinator", backbone_file, config, roles=roles, backbone_cache_dir=backbone_file.parent
    ) as coordinator:
        coordinator.found(FEDERATION, num_rounds=1, min_sites_to_start=1, quorum=1)
        token = coordinator.invite(FEDERATION, ORGANISATION)
        with trace.get_tracer("clinic").start_as_current_span("a day at the clinic"):
            site = Site.enrol(
                coordinator.url, token, name=SITE, directory=folder / "site", backbone=backbone_file,
                transport=witness,
            )  # fmt: skip
            site.run(train, held_out)
        predict(coordinator, held_out, witness)
        misplace(coordinator, token)
    private_key = (folder / "site" / "signing.key").read_text().splitlines()[1]
    return witness.seen | {token.encode(), private_key.encode(), *(text.encode() for text in (
        ADMIN_TOKEN, FEDERATION, ORGANISATION, SITE,
    ))}  # fmt: skip


def predict(coordinator: Coordinator, images: Path, witness: Witness) -> None:
    """Ask for one prediction, as the admin."""
    image = next(images.rglob("*.png")).read_bytes()
    witness.seen.add(image)
    with CoordinatorClient(coordinator.url, ADMIN_TOKEN, transport=witness) as admin:
        admin.predict(FEDERATION, image, num_samples=2)


def misplace(coordinator: Coordinator, secret: str) -> None:
    """Say a secret where none belongs, so that it is in addresses, in headers and in what is refused."""
    for path in (f"/v1/federations?cursor={secret}", f"/v1/federations/{secret}", f"/{secret}"):
        for credential in (ADMIN_TOKEN, secret):
            headers = {
                "Authorization": f"Bearer {credential}",
                "User-Agent": secret,
                "baggage": f"a={secret}",
            }
            httpx.get(coordinator.url + path, headers=headers)
    httpx.request("PROPFIND", coordinator.url, headers={"X-Forwarded-For": secret})
    httpx.request(secret.upper().replace("_", ""), coordinator.url)


def main(folder: Path) -> None:
    logs.configure_process()
    provider = TracerProvider(resource=Resource({"service.name": "clinic"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    secrets = sorted(play(folder))
    provider.shutdown()
    encoded = [base64.b64encode(secret).decode() for secret in secrets]
    (folder / "secrets.json").write_text(json.dumps(encoded))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
