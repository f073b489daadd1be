"""How an organisation's site joins a federation and learns what to do next."""

from typing import Annotated, ClassVar

from pydantic import Field, SecretStr, field_serializer

from pfedbayespt.protocol._base import Digest, Message, Slug, UtcTime
from pfedbayespt.protocol.federations import FederationSpecification, FederationTerms
from pfedbayespt.protocol.keys import CoordinatorIdentity
from pfedbayespt.protocol.rounds import Round
from pfedbayespt.protocol.signatures import KeyId, PublicKey, SignedMessage
from pfedbayespt.protocol.statuses import FederationStatus, SiteAction, SiteStatus


class EnrolmentTokenCreate(Message):
    """Ask for a one-use token that lets one site of `organisation` join."""

    organisation: Slug
    valid_seconds: Annotated[int, Field(ge=60, le=72 * 3600)] = 24 * 3600


class EnrolmentToken(Message):
    """The token, shown this once: the coordinator keeps only its SHA-256."""

    token: str
    federation: Slug
    organisation: Slug
    expires_at: UtcTime
    coordinator_key_id: KeyId = Field(description="Hand it over too: it tells the site whom to trust.")


class SiteEnrol(SignedMessage):
    """Redeem an enrolment token, signed with the key that the site made for itself.

    The one-use token is the challenge: the signature is over it, so it proves possession of the key, now.
    """

    purpose: ClassVar[str] = "pfedbayespt.site-enrol/1"

    token: SecretStr
    site_name: Slug
    public_key: PublicKey
    coordinator_key_id: KeyId = Field(description="Whom the site believes to talk to.")

    @field_serializer("token", when_used="json")
    def _reveal_on_the_wire(self, token: SecretStr) -> str:
        return token.get_secret_value()


class SiteLeave(SignedMessage):
    """Leave the federation for good, signed with a live key: a stolen access token cannot end a site's part.

    The site says its own name too, because this cannot be undone.
    """

    purpose: ClassVar[str] = "pfedbayespt.site-leave/1"

    site_id: str = Field(max_length=64)
    site_name: Slug


class Site(Message):
    """An enrolled installation of an organisation."""

    site_id: str
    site_name: Slug
    organisation: Slug
    federation: Slug
    status: SiteStatus
    enrolled_at: UtcTime
    last_seen_at: UtcTime | None


class SiteEnrolment(Message):
    """The enrolled site, the id of its key, and the coordinator's key, which the site pins."""

    site: Site
    key_id: KeyId
    coordinator: CoordinatorIdentity


class Assignment(Message):
    """What the asking site should do now."""

    action: SiteAction
    federation: Slug
    federation_status: FederationStatus
    specification: FederationSpecification
    specification_digest: Digest
    terms: FederationTerms | None = Field(default=None, description="The coordinator's word for both.")
    round: Round | None = Field(description="The live round, if this site has something to do in it.")
    model_version: int | None = Field(description="The version to train from or to evaluate.")
    model_digest: Digest | None
    retry_after_seconds: float = Field(description="Ask again after this long.")
