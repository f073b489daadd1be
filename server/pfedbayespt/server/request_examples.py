"""The requests in the API's documentation: the other half of the story that `examples` tells."""

from typing import Final

from pfedbayespt.protocol import (
    ApiKeyCreate,
    EnrolmentTokenCreate,
    FederationCreate,
    KeyPossession,
    OrganisationCreate,
    PredictionRequest,
    SiteEnrol,
    SiteKeyAdd,
    SiteKeyRetire,
    SiteLeave,
    TokenRequest,
    TrialCreate,
)
from pfedbayespt.protocol.predictions import BatchRequest
from pfedbayespt.server import examples

_SIGNED: Final = {"key_id": examples.SITE_KEY.key_id, "signature": "A" * 86}
_START_OF_A_PNG: Final = b"\x89PNG\r\n\x1a\n"
_SITE: Final = examples.SITE

FEDERATION: Final = FederationCreate(name=_SITE.federation, specification=examples.SPECIFICATION)
ORGANISATION: Final = OrganisationCreate(name=_SITE.organisation)
ENROLMENT_TOKEN: Final = EnrolmentTokenCreate(organisation=_SITE.organisation, valid_seconds=86_400)
API_KEY: Final = ApiKeyCreate(
    organisation=_SITE.organisation, name=examples.API_KEY.name, role=examples.API_KEY.role
)
TRIAL: Final = TrialCreate(
    model_version=examples.TRIAL.model_version, **examples.TRIAL.terms.model_dump(mode="json")
)
SITE: Final = SiteEnrol(
    token=examples.ENROLMENT_TOKEN.token,
    site_name=_SITE.site_name,
    public_key=examples.SITE_KEY.public_key,
    coordinator_key_id=examples.IDENTITY.key_id,
    **_SIGNED,
)
LEAVE: Final = SiteLeave(site_id=_SITE.site_id, site_name=_SITE.site_name, **_SIGNED)
KEY: Final = SiteKeyAdd(
    possession=KeyPossession(site_id=_SITE.site_id, public_key=examples.SITE_KEY.public_key, **_SIGNED),
    **_SIGNED,
)
RETIRED_KEY: Final = SiteKeyRetire(site_id=_SITE.site_id, retired_key_id=examples.SITE_KEY.key_id, **_SIGNED)
ACCESS_TOKEN: Final = TokenRequest(client_assertion=examples.ACCESS_TOKEN.access_token)
EVALUATION: Final = examples.EVALUATION
PREDICTION: Final = PredictionRequest(image=_START_OF_A_PNG, num_samples=16, top_k=3)
PREDICTIONS: Final = BatchRequest(images=(_START_OF_A_PNG, _START_OF_A_PNG), num_samples=16, top_k=3)
