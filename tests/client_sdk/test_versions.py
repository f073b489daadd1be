"""Downloaded versions: verified on every read, few, the least recently used forgotten first."""

import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.server.harness import specification

from pfedbayespt.client import CoordinatorClient, HttpAnswer, HttpRequest, IntegrityError, Timeouts
from pfedbayespt.client.versions import KEPT_VERSIONS, VersionCache
from pfedbayespt.protocol import (
    CoordinatorIdentity,
    ModelVersion,
    ModelVersionStatus,
    SigningKey,
    VersionManifest,
    digest_of_bytes,
    digest_of_message,
)

CONTENTS = [f"version {number}".encode() for number in range(6)]
DIGESTS = [digest_of_bytes(content) for content in CONTENTS]


KEY = SigningKey.generate()
COORDINATOR = CoordinatorIdentity(key_id=KEY.key_id, public_key=KEY.public_key)
SPECIFICATION = specification()


def described(number: int) -> ModelVersion:
    """Version n, signed for."""
    about = {"federation": "shapes", "version_number": number, "digest": DIGESTS[number], "size_bytes": 9}
    when = {"created_at": datetime(2026, 11, 23, tzinfo=UTC), "round_id": None}
    manifest = VersionManifest.signed(
        KEY,
        specification_digest=digest_of_message(SPECIFICATION),
        backbone_digest=SPECIFICATION.backbone.weights_digest,
        parent_digest=None,
        task=None,
        rule={},
        inputs=(),
        optimiser_state_digest=None,
        parent_optimiser_state_digest=None,
        code_version="test",
        **about,
        **when,
    )
    return ModelVersion(
        status=ModelVersionStatus.SERVING,
        parent_version=None,
        inputs=(),
        evaluations=(),
        manifest=manifest,
        **about,
        **when,
    )


class Store:
    """Gives version n its content, and counts."""

    def __init__(self) -> None:
        self.downloads: list[int] = []

    def __call__(self, request: HttpRequest, timeouts: Timeouts) -> HttpAnswer:
        if not request.url.endswith("/parameters"):
            return HttpAnswer(200, {}, described(int(request.url.split("/")[-1])).model_dump_json().encode())
        number = int(request.url.split("/")[-2])
        self.downloads.append(number)
        return HttpAnswer(200, {}, CONTENTS[number])


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def cache(tmp_path: Path, store: Store) -> VersionCache:
    client = CoordinatorClient("http://localhost", "t", transport=store)
    return VersionCache(tmp_path / "versions", client, "shapes", SPECIFICATION, COORDINATOR)


def test_a_version_is_downloaded_once(cache: VersionCache, store: Store) -> None:
    assert cache.fetch(1, DIGESTS[1]) == cache.fetch(1, DIGESTS[1]) == CONTENTS[1]
    assert store.downloads == [1]


def test_the_least_recently_used_is_forgotten(cache: VersionCache) -> None:
    for number in range(KEPT_VERSIONS):
        cache.fetch(number, DIGESTS[number])
        os.utime(cache.folder / f"{DIGESTS[number].removeprefix('sha256:')}.safetensors", (number, number))
    assert cache.read(DIGESTS[0]) == CONTENTS[0]  # used just now
    cache.fetch(5, DIGESTS[5])
    kept = [number for number, digest in enumerate(DIGESTS) if cache.read(digest) is not None]
    assert kept == [0, 2, 5]


def test_a_digest_never_becomes_a_path_of_its_own(cache: VersionCache) -> None:
    for digest in ("sha256:../../etc/passwd", "md5:abc", "sha256:"):
        with pytest.raises(IntegrityError, match="is not a digest"):
            cache.fetch(1, digest)


def test_threads_of_one_site_do_not_trip_over_one_another(cache: VersionCache) -> None:
    numbers = [number for _ in range(20) for number in range(len(CONTENTS))]
    with ThreadPoolExecutor(4) as pool:
        fetched = list(pool.map(lambda number: cache.fetch(number, DIGESTS[number]), numbers))
    assert fetched == [CONTENTS[number] for number in numbers]
