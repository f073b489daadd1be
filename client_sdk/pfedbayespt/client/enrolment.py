"""How a site joins: everything that can be checked is checked before the one-use token is spent.

backbone file readable, directory ours and writable   nothing spent yet
make the site's key, on this disk                     still nothing spent
redeem the token, signed with that key                the site exists; the coordinator's key is pinned
pin the specification                                 what it agrees to, for good
compare the backbone's digest                         the site can work
"""

from dataclasses import dataclass
from pathlib import Path

from pfedbayespt.client.agreement import check_assignment, check_backbone, check_identity, digest_of_file
from pfedbayespt.client.authentication import SiteIdentity
from pfedbayespt.client.connection import Credential
from pfedbayespt.client.coordinator import CoordinatorClient
from pfedbayespt.client.errors import SpecificationChangedError, StateError
from pfedbayespt.client.keys import make_key, read_key
from pfedbayespt.client.state import Agreement, Enrolment, StateDirectory
from pfedbayespt.client.transport import Timeouts, Transport


@dataclass(frozen=True)
class Access:
    """How this machine reaches its coordinator; see `CoordinatorClient`."""

    proxy: str | None = None
    ca_file: str | None = None
    timeouts: Timeouts | None = None
    transport: Transport | None = None

    def client(self, base_url: str, credential: Credential = None) -> CoordinatorClient:
        """Return a client of the coordinator at `base_url`."""
        return CoordinatorClient(
            base_url,
            credential,
            timeouts=self.timeouts,
            proxy=self.proxy,
            ca_file=self.ca_file,
            transport=self.transport,
        )


def join(
    base_url: str,
    token: str,
    name: str,
    directory: Path,
    backbone: Path,
    access: Access,
    coordinator_key_id: str | None = None,
) -> StateDirectory:
    """Redeem an enrolment token and write down who this site now is.

    `coordinator_key_id`, if the organisation was told it beforehand, must be the coordinator's.

    Raises:
        BackboneMismatchError: the backbone file cannot be read.
        IntegrityError: the coordinator is another one than the organisation was told.
        StateError: the directory holds a site already, or cannot be written.
        EnrolmentTokenRefused: the token is unknown, used or expired.
    """
    digest_of_file(backbone)
    state = StateDirectory.create(directory)
    with state.locked(), access.client(base_url) as client:
        coordinator = client.identity()
        check_identity(coordinator, coordinator_key_id)
        site = client.sites.enrol(token, name, make_key(directory), coordinator.key_id).site
        state.write_enrolment(
            Enrolment(
                base_url=base_url,
                proxy=access.proxy,
                ca_file=access.ca_file,
                federation=site.federation,
                organisation=site.organisation,
                site_id=site.site_id,
                site_name=site.site_name,
                coordinator=coordinator,
            )
        )
    return state


def identity_in(state: StateDirectory) -> SiteIdentity:
    """Return the identity of the site whose files these are.

    Raises:
        StateError: its key is missing or cannot be used.
    """
    enrolment = state.enrolment
    return SiteIdentity(enrolment.site_id, read_key(state.path), enrolment.coordinator.key_id)


def agree(
    client: CoordinatorClient,
    state: StateDirectory,
    backbone: Path | None,
    expected_digest: str | None = None,
) -> Agreement:
    """Pin the federation's specification, or confirm the pinned one, and check the backbone against it.

    Args:
        client: holds the site's identity.
        state: the site's files.
        backbone: the backbone file; None: the one that was named before.
        expected_digest: the specification's digest, if the organisation was told it beforehand.

    Raises:
        SpecificationChangedError: the coordinator speaks of another specification.
        BackboneMismatchError: the file is not the federation's backbone; name another to try again.
        StateError: no backbone has been named yet.
    """
    pinned = state.agreement
    if pinned is None:
        pinned = _pin(client, state, backbone, expected_digest)
    elif backbone is not None and str(backbone.resolve()) != pinned.backbone_file:
        pinned = pinned.model_copy(update={"backbone_file": str(backbone.resolve())})
    check_backbone(Path(pinned.backbone_file), pinned.specification.backbone)
    if pinned != state.agreement:
        state.write_agreement(pinned)
    return pinned


def _pin(
    client: CoordinatorClient, state: StateDirectory, backbone: Path | None, expected_digest: str | None
) -> Agreement:
    if backbone is None:
        raise StateError(f"{state.path} names no backbone file yet; pass one")
    assignment = client.sites.assignment()
    digest = check_assignment(assignment, state.enrolment.federation, None, state.enrolment.coordinator)
    if expected_digest not in {None, digest}:
        raise SpecificationChangedError(
            f"the organisation was told specification {expected_digest}, but the coordinator's is {digest}"
        )
    agreement = Agreement(
        specification=assignment.specification,
        specification_digest=digest,
        backbone_file=str(backbone.resolve()),
    )
    state.write_agreement(agreement)
    return agreement
