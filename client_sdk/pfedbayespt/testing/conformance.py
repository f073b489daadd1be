"""What every coordinator owes its sites, as tests: give them a coordinator, and they say whether it keeps to it.

    class TestOurs(CoordinatorConformance):
        @pytest.fixture
        def stage(self):
            with our_coordinator() as url:
                yield Stage(url, invite=..., close_round=...)

The coordinator must run one active federation with `SPECIFICATION` that starts from `INITIAL`, fresh for each test.
"""

import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import httpx
import jwt
import numpy as np
import pytest

from pfedbayespt.client import CoordinatorClient
from pfedbayespt.client.agreement import check_assignment, check_identity, check_receipt, check_version
from pfedbayespt.client.errors import (
    AuthenticationRequired,
    EnrolmentTokenRefused,
    EvaluationConflict,
    NotFound,
    PermissionDenied,
    RoundClosed,
    SignatureRejected,
    UpdateConflict,
    UpdateRejected,
)
from pfedbayespt.protocol import (
    ASSERTION_TYPE,
    Assignment,
    BackboneSpecification,
    CoordinatorIdentity,
    FederationSpecification,
    RoundPolicy,
    RoundTask,
    SigningKey,
    SiteAction,
    digest_of_bytes,
    tensors,
)
from pfedbayespt.testing.sites import FakeSite, Poison

NUM_SITES: Final = 3
SPECIFICATION: Final = FederationSpecification(
    classes=("a", "b", "c"),
    backbone=BackboneSpecification(
        architecture="vit_tiny", weights_digest=digest_of_bytes(b"weights"), image_size_pixels=32
    ),
    rounds=RoundPolicy(num_rounds=1, min_sites_to_start=NUM_SITES, quorum=2),
)
INITIAL: Final = {
    "head.bias": np.zeros(3, np.float32),
    "head.weight": np.zeros((3, 4), np.float32),
    "statistics.mean": np.zeros(4, np.float32),
    "statistics.second_moment": np.zeros(4, np.float32),
}
_PATIENCE_SECONDS: Final = 30.0
_POLL_SECONDS: Final = 0.02
_EXACT: Final = 1e-6
Thing = TypeVar("Thing")


@dataclass
class Stage:
    """A coordinator under test.

    Attributes:
        url: its address.
        invite: returns a one-use enrolment token.
        close_round: has the live round closed by hand.
    """

    url: str
    invite: Callable[[], str]
    close_round: Callable[[], object]
    sites: list[FakeSite] = field(default_factory=list)

    def enrol(self, name: str) -> FakeSite:
        """Return a new site."""
        site = FakeSite.enrol(self.url, self.invite(), name)
        self.sites.append(site)
        return site

    def identity(self) -> CoordinatorIdentity:
        """Return whom the coordinator says it is."""
        with CoordinatorClient(self.url) as anybody:
            return anybody.identity()


def eventually(question: Callable[[], Thing | None]) -> Thing:
    """Ask until there is an answer.

    Raises:
        AssertionError: there was none in half a minute.
    """
    give_up_at = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < give_up_at:
        answer = question()
        if answer is not None:
            return answer
        time.sleep(_POLL_SECONDS)
    raise AssertionError(f"nothing came of {question} in {_PATIENCE_SECONDS:g} seconds")


def asked_to(site: FakeSite, action: SiteAction) -> Assignment:
    """Return the site's assignment once it is asked to do that."""

    def ask() -> Assignment | None:
        assignment = site.assignment()
        return assignment if assignment.action is action else None

    return eventually(ask)


class CoordinatorConformance:
    """The tests. A subclass provides the fixture `stage`."""

    @pytest.fixture
    def sites(self, stage: Stage) -> Iterator[list[FakeSite]]:
        """As many sites as a round needs; the first round collects statistics from them."""
        for number in range(NUM_SITES):
            stage.enrol(f"site-{number}")
        asked_to(stage.sites[0], SiteAction.TRAIN)
        yield stage.sites
        for site in stage.sites:
            site.close()

    def test_it_names_itself_by_its_key(self, stage: Stage) -> None:
        check_identity(stage.identity(), None)

    def test_an_enrolment_token_is_good_once(self, stage: Stage) -> None:
        token = stage.invite()
        FakeSite.enrol(stage.url, token, "first").close()
        with pytest.raises(EnrolmentTokenRefused):
            FakeSite.enrol(stage.url, token, "second")

    def test_nobody_without_a_credential_learns_anything(self, stage: Stage) -> None:
        with CoordinatorClient(stage.url) as anybody, pytest.raises(AuthenticationRequired):
            anybody.sites.assignment()

    def test_an_assertion_is_good_once_and_for_this_coordinator(self, sites: list[FakeSite]) -> None:
        site = sites[0]
        assertion = _assertion(site)
        assert _exchanged(site, assertion) == 200
        assert _exchanged(site, assertion) == 401
        assert _exchanged(site, _assertion(site, aud=SigningKey.generate().key_id)) == 401
        assert _exchanged(site, _assertion(site, iss="sit_0", sub="sit_0")) == 401
        assert _exchanged(site, _assertion(site, exp=int(time.time()) - 1)) == 401
        assert _exchanged(site, _assertion(site, key=SigningKey.generate())) == 401

    def test_a_round_begins_with_enough_sites_and_asks_for_statistics(self, stage: Stage) -> None:
        first, *_ = (stage.enrol(f"site-{number}") for number in range(NUM_SITES - 1))
        assert first.assignment().action is SiteAction.WAIT
        stage.enrol("the-last")
        for site in stage.sites:
            assignment = asked_to(site, SiteAction.TRAIN)
            assert assignment.round is not None
            assert assignment.round.task is RoundTask.STATISTICS
            assert assignment.round.cohort == (site.site_id,)  # its assignment names no other site

    def test_it_signs_what_sites_agree_to_and_train_from(self, stage: Stage, sites: list[FakeSite]) -> None:
        identity, assignment = stage.identity(), sites[0].assignment()
        check_assignment(assignment, sites[0].federation, None, identity)
        assert assignment.specification == SPECIFICATION
        assert assignment.model_version is not None
        assert assignment.model_digest is not None
        version = sites[0].client.model_versions.get(sites[0].federation, assignment.model_version)
        announced = (sites[0].federation, assignment.model_version, assignment.model_digest)
        check_version(version, announced, SPECIFICATION, identity)

    def test_the_same_update_has_the_same_signed_receipt_and_another_is_refused(
        self, stage: Stage, sites: list[FakeSite]
    ) -> None:
        site, round_ = sites[0], sites[0].round()
        content = site.update(round_)
        receipt = site.submit(round_, content)
        check_receipt(receipt, site.statement(round_, content), stage.identity())
        assert site.submit(round_, content) == receipt
        assert site.client.updates.receipt(receipt.update_id) == receipt
        with pytest.raises(UpdateConflict):
            site.submit(round_, site.update(round_, value=2.0))

    @pytest.mark.parametrize("poison", list(Poison))
    def test_poison_is_refused_and_an_honest_update_is_taken_afterwards(
        self, sites: list[FakeSite], poison: Poison
    ) -> None:
        round_ = sites[0].round()
        with pytest.raises(UpdateRejected):
            sites[0].submit(round_, sites[0].poisoned(round_, poison))
        assert sites[0].train().round_id == round_.round_id

    @pytest.mark.parametrize(
        "claim", ["update_digest", "base_digest", "num_examples", "round_id", "federation", "key"]
    )
    def test_an_update_that_its_site_has_not_signed_for_is_refused(
        self, sites: list[FakeSite], claim: str
    ) -> None:
        site, round_ = sites[0], sites[0].round()
        content = site.update(round_)
        lies: dict[str, Any] = {
            "update_digest": digest_of_bytes(b"others"),
            "base_digest": digest_of_bytes(b"others"),
            "num_examples": 11,
            "round_id": "rnd_0000000000000000",
            "federation": "another",
            "key": SigningKey.generate(),
        }
        statement = site.statement(round_, content, **{claim: lies[claim]})
        # The path of an upload names the statement's round: one that is not there is not found.
        expected = NotFound if claim == "round_id" else SignatureRejected
        with pytest.raises(expected):
            site.submit(round_, content, statement)
        assert site.train().round_id == round_.round_id

    @pytest.mark.parametrize("claim", ["federation", "task", "base_digest"])
    def test_an_update_for_something_else_is_refused(self, sites: list[FakeSite], claim: str) -> None:
        site, round_ = sites[0], sites[0].round()
        others = digest_of_bytes(b"others")
        lies: dict[str, Any] = {"federation": "another", "task": RoundTask.TRAINING, "base_digest": others}
        content = site.update(round_, **{claim: lies[claim]})
        with pytest.raises(UpdateRejected):
            site.submit(round_, content)

    def test_nobody_submits_for_another(self, sites: list[FakeSite]) -> None:
        thief, owner = sites[:2]
        round_ = thief.round()
        content = thief.update(round_)
        with pytest.raises(PermissionDenied):
            thief.submit(round_, content, thief.statement(round_, content, site_id=owner.site_id))
        assert owner.train().site_id == owner.site_id

    def test_a_site_that_dies_while_it_uploads_comes_back(self, sites: list[FakeSite]) -> None:
        round_ = sites[0].round()
        sites[0].crash_while_uploading(round_, sites[0].update(round_))
        assert sites[0].train().round_id == round_.round_id

    def test_a_late_update_is_refused_and_a_receipt_stays_good(
        self, stage: Stage, sites: list[FakeSite]
    ) -> None:
        *prompt, late = sites
        round_ = late.round()
        contents = [site.update(round_) for site in sites]
        receipts = [site.submit(round_, content) for site, content in zip(prompt, contents, strict=False)]
        stage.close_round()
        eventually(lambda: late.round_is_over(round_) or None)
        with pytest.raises(RoundClosed):
            late.submit(round_, contents[-1])
        again = [site.submit(round_, content) for site, content in zip(prompt, contents, strict=False)]
        assert again == receipts

    def test_the_next_version_is_the_mean_weighted_by_examples(self, sites: list[FakeSite]) -> None:
        """None weighs more than `max_weight_ratio` times the median in training; statistics weigh as they are.

        One site flips its sign: nobody can tell it from honest numbers, so it counts.
        """
        values, counts = (1.0, 2.0, -4.0), (10, 20, 1000)
        for site, value, count in zip(sites, values, counts, strict=True):
            site.train(value, count)
        statistics = _parameters(sites[0], asked_to(sites[0], SiteAction.TRAIN))
        expected = float(np.average(values, weights=counts))
        np.testing.assert_allclose(statistics["statistics.mean"], expected, rtol=_EXACT)
        np.testing.assert_array_equal(statistics["head.bias"], 0.0)
        for site, value, count in zip(sites, values, counts, strict=True):
            asked_to(site, SiteAction.TRAIN)
            site.train(value, count)
        trained = _parameters(sites[0], asked_to(sites[0], SiteAction.EVALUATE))
        heaviest = SPECIFICATION.rounds.max_weight_ratio * np.median(counts)
        expected = float(np.average(values, weights=np.minimum(counts, heaviest)))
        np.testing.assert_allclose(trained["head.weight"], expected, rtol=_EXACT)
        np.testing.assert_array_equal(trained["statistics.mean"], statistics["statistics.mean"])

    def test_an_evaluation_may_be_repeated_but_not_changed_and_the_federation_ends(
        self, sites: list[FakeSite]
    ) -> None:
        for _ in RoundTask:
            for site in sites:
                asked_to(site, SiteAction.TRAIN)
                site.train()
        assignment = asked_to(sites[0], SiteAction.EVALUATE)
        told = sites[0].evaluate(0.5)
        assert assignment.model_version is not None
        report = sites[0].client.model_versions.report_evaluation
        again = (sites[0].federation, assignment.model_version, sites[0].site_id)
        assert report(*again, told.evaluation).evaluation == told.evaluation
        with pytest.raises(EvaluationConflict):
            report(*again, told.evaluation.model_copy(update={"num_examples": 6}))
        for site in sites[1:]:
            asked_to(site, SiteAction.EVALUATE)
            site.evaluate(0.5)
        for site in sites:
            asked_to(site, SiteAction.FINISHED)

    def test_a_retired_key_is_good_for_nothing(self, sites: list[FakeSite]) -> None:
        site, round_ = sites[0], sites[0].round()
        old = site.rotate_key()
        assert _exchanged(site, _assertion(site, key=old)) == 401
        content = site.update(round_)
        with pytest.raises(SignatureRejected):
            site.submit(round_, content, site.statement(round_, content, key=old))
        assert site.submit(round_, content).site_id == site.site_id

    def test_a_site_that_left_is_nobody(self, sites: list[FakeSite]) -> None:
        sites[0].leave()
        with pytest.raises(AuthenticationRequired):
            sites[0].assignment()


def _assertion(site: FakeSite, key: SigningKey | None = None, **claims: Any) -> str:
    signer, now = key or site.identity.key, int(time.time())
    with CoordinatorClient(site.url) as anybody:
        audience = anybody.identity().key_id
    honest = {"iss": site.site_id, "sub": site.site_id, "aud": audience}
    times = {"iat": now, "exp": claims.get("exp", now + 60), "jti": secrets.token_hex(16)}
    return jwt.encode(honest | times | claims, signer.private, "EdDSA", headers={"kid": signer.key_id})


def _exchanged(site: FakeSite, assertion: str) -> int:
    """Return the status of the answer to an assertion."""
    form = {"grant_type": "client_credentials", "client_assertion_type": ASSERTION_TYPE}
    answer = httpx.post(f"{site.url}/v1/token", data=form | {"client_assertion": assertion}, trust_env=False)
    return answer.status_code


def _parameters(site: FakeSite, assignment: Assignment) -> "dict[str, np.ndarray[Any, Any]]":
    assert assignment.model_version is not None
    assert assignment.model_digest is not None
    content = site.client.model_versions.download(
        site.federation, assignment.model_version, assignment.model_digest
    )
    return tensors.decode(content)[1]
