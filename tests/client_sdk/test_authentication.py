"""A site's identity at work: its key, its tokens, wrong clocks, rotation, and forged promises."""

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.client_sdk.harness import Coordinator
from tests.client_sdk.transports import Killed, Spy, is_assignment

from pfedbayespt.client import (
    HttpAnswer,
    HttpRequest,
    IntegrityError,
    Site,
    SpecificationChangedError,
    StateError,
)
from pfedbayespt.client.authentication import SiteIdentity
from pfedbayespt.client.errors import AuthenticationRequired, problem_error
from pfedbayespt.protocol import (
    AccessToken,
    FederationTerms,
    Problem,
    ProblemType,
    Receipt,
    SigningKey,
)


def refusal(**more: Any) -> AuthenticationRequired:
    kind = ProblemType.AUTHENTICATION_REQUIRED
    error = problem_error(Problem(type=kind.urn, title=kind.title, status=401, detail="no", **more))
    assert isinstance(error, AuthenticationRequired)
    return error


class Clock:
    def __init__(self) -> None:
        self.seconds = 1_000_000.0

    def __call__(self) -> float:
        return self.seconds


def identity(clock: Clock) -> SiteIdentity:
    key = SigningKey.generate()
    return SiteIdentity("sit_1", key, key.key_id, clock=clock, monotonic=clock)


def test_a_token_is_used_until_it_is_about_to_expire() -> None:
    clock, asked = Clock(), []

    def exchange(assertion: str) -> AccessToken:
        asked.append(assertion)
        return AccessToken(access_token=f"token-{len(asked)}", expires_in=900)

    site = identity(clock)
    assert site.access_token(exchange) == "token-1"
    clock.seconds += 869
    assert site.access_token(exchange) == "token-1"
    clock.seconds += 1
    assert site.access_token(exchange) == "token-2"
    assert len(set(asked)) == 2


def test_a_token_that_was_refused_is_not_used_again_but_a_newer_one_is_kept() -> None:
    answers = iter(["old", "new"])
    site = identity(Clock())

    def exchange(_: str) -> AccessToken:
        return AccessToken(access_token=next(answers), expires_in=900)

    assert site.access_token(exchange) == "old"
    site.forget("old")
    assert site.access_token(exchange) == "new"
    site.forget("old")
    assert site.access_token(exchange) == "new"


def test_a_machine_whose_clock_is_wrong_goes_by_the_coordinators() -> None:
    import jwt

    issued: list[int] = []

    def exchange(assertion: str) -> AccessToken:
        issued.append(jwt.decode(assertion, options={"verify_signature": False})["iat"])
        if len(issued) == 1:
            raise refusal(server_time="1970-01-12T14:46:40+00:00")
        return AccessToken(access_token="token", expires_in=900)

    clock = Clock()
    assert identity(clock).access_token(exchange) == "token"
    assert issued == [1_000_000, 1_003_600]


@pytest.mark.parametrize("more", [{}, {"server_time": "yesterday"}, {"server_time": 3}])
def test_a_refusal_that_tells_no_time_is_final(more: dict[str, Any]) -> None:
    def exchange(_: str) -> AccessToken:
        raise refusal(**more)

    with pytest.raises(AuthenticationRequired):
        identity(Clock()).access_token(exchange)


def test_the_private_key_is_made_here_readable_by_its_owner_alone_and_never_sent(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    coordinator.found()
    spy = Spy()
    coordinator.enrol(tmp_path / "state", "clinic-a", transport=spy)
    file = tmp_path / "state" / "signing.key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    secret = file.read_text().splitlines()[1]
    sent = repr([(request.url, request.headers, request.body) for request in spy.sent])
    assert secret[-40:] not in sent
    assert secret not in (tmp_path / "state" / "site.json").read_text()


def test_a_key_that_others_may_read_is_refused(coordinator: Coordinator, tmp_path: Path) -> None:
    coordinator.found()
    coordinator.enrol(tmp_path / "state", "clinic-a")
    (tmp_path / "state" / "signing.key").chmod(0o640)
    with pytest.raises(StateError, match="chmod go-rwx"):
        Site.resume(tmp_path / "state")


def test_a_site_that_was_told_whom_to_trust_joins_nobody_else(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    coordinator.found()
    token = coordinator.admin.federations.create_enrolment_token("shapes", "clinic")
    options: dict[str, Any] = {"name": "clinic-a", "backbone": coordinator.backbone_file}
    with pytest.raises(IntegrityError, match="was told coordinator"):
        Site.enrol(
            coordinator.url,
            token.token,
            directory=tmp_path / "no",
            coordinator_key_id=SigningKey.generate().key_id,
            **options,
        )
    Site.enrol(
        coordinator.url,
        token.token,
        directory=tmp_path / "yes",
        coordinator_key_id=token.coordinator_key_id,
        **options,
    )


def test_a_rotated_key_takes_over_and_the_old_one_opens_nothing(
    coordinator: Coordinator, images: Path, tmp_path: Path
) -> None:
    coordinator.found(num_rounds=1, min_sites_to_start=1, quorum=1)
    site = coordinator.enrol(tmp_path / "state", "clinic-a")
    file = tmp_path / "state" / "signing.key"
    old = file.read_bytes()
    new_id = site.rotate_key()
    assert SigningKey.from_pem(file.read_bytes()).key_id == new_id != SigningKey.from_pem(old).key_id
    assert [key.key_id for key in site.client.sites.list_keys()] == [new_id]
    site.run(images / "train")
    (tmp_path / "state" / "signing.key").write_bytes(old)
    with pytest.raises(AuthenticationRequired):
        Site.resume(tmp_path / "state").status()


@pytest.mark.parametrize("survived", range(5))
def test_a_rotation_that_is_killed_anywhere_leaves_a_site_that_works_and_can_rotate(
    coordinator: Coordinator, tmp_path: Path, survived: int
) -> None:
    coordinator.found()
    coordinator.enrol(tmp_path / "state", "clinic-a")
    spy = Spy()

    def die(request: HttpRequest, answer: HttpAnswer) -> HttpAnswer:
        if len([sent for sent in spy.sent if "/keys" in sent.url]) > survived:
            raise Killed
        return answer

    site = Site.resume(tmp_path / "state", transport=spy)
    spy.after = die
    if survived < 4:
        with pytest.raises(Killed):
            site.rotate_key()
    again = Site.resume(tmp_path / "state")
    again.status()
    new_id = again.rotate_key()
    again.status()
    assert [key.key_id for key in again.client.sites.list_keys()] == [new_id]


def test_receipts_are_kept_and_can_be_checked_later(
    coordinator: Coordinator, images: Path, tmp_path: Path
) -> None:
    coordinator.found(num_rounds=1, min_sites_to_start=1, quorum=1)
    site = coordinator.enrol(tmp_path / "state", "clinic-a")
    site.run(images / "train")
    lines = (tmp_path / "state" / "receipts.jsonl").read_bytes().splitlines()
    receipts = [Receipt.model_validate_json(line) for line in lines]
    assert len(receipts) == 2  # statistics and one round of training
    for receipt in receipts:
        receipt.check_signature(coordinator.admin.identity().public_key)


def changing_assignments(change: Callable[[dict[str, Any]], None]) -> Spy:
    def tamper(request: HttpRequest, answer: HttpAnswer) -> HttpAnswer:
        if not is_assignment(request) or answer.status != 200:
            return answer
        document = json.loads(answer.body)
        change(document)
        return HttpAnswer(answer.status, answer.headers, json.dumps(document).encode())

    return Spy(after=tamper)


def test_terms_that_are_not_signed_by_the_pinned_coordinator_are_refused(
    coordinator: Coordinator, images: Path, tmp_path: Path
) -> None:
    coordinator.found(min_sites_to_start=1, quorum=1)
    coordinator.enrol(tmp_path / "state", "clinic-a")
    impostor = SigningKey.generate()

    def forge(document: dict[str, Any]) -> None:
        facts = {name: document["terms"][name] for name in ("federation", "specification_digest")}
        facts |= {name: document["terms"][name] for name in ("backbone_digest", "issued_at")}
        document["terms"] = FederationTerms.signed(impostor, **facts).model_dump(mode="json")

    changes: list[Callable[[dict[str, Any]], None]] = [
        forge,
        lambda document: document.update(terms=None),
        lambda document: document["terms"].update(backbone_digest="sha256:" + "0" * 64),
    ]
    for change in changes:
        spy = changing_assignments(change)
        with pytest.raises(SpecificationChangedError):
            Site.resume(tmp_path / "state", transport=spy).run(images / "train")
        assert not spy.updates()
