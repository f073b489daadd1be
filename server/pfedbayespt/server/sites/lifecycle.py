"""The site's lifecycle, and the verbs that are the only writers of its status."""

from typing import Final

from pfedbayespt.protocol import SiteStatus as S
from pfedbayespt.server.database import Transaction
from pfedbayespt.server.events import service as events
from pfedbayespt.server.lifecycle import Lifecycle, advance, verb
from pfedbayespt.server.sites.models import SiteRecord

LIFECYCLE: Final = Lifecycle(
    subject="site",
    initial=S.PENDING,
    verbs={
        "admit": verb({S.PENDING}, S.ACTIVE),
        "suspend": verb({S.ACTIVE}, S.SUSPENDED),
        "reinstate": verb({S.SUSPENDED}, S.ACTIVE),
        "revoke": verb({S.SUSPENDED}, S.REVOKED),
        "leave": verb({S.ACTIVE}, S.REVOKED),
    },
)


def admit(tx: Transaction, site: SiteRecord) -> None:
    """Pending -> active: it may take part."""
    _move(tx, site, "admit", "site.admitted")


def suspend(tx: Transaction, site: SiteRecord) -> None:
    """Active -> suspended: it may do nothing from its next request on."""
    _move(tx, site, "suspend", "site.suspended")


def reinstate(tx: Transaction, site: SiteRecord) -> None:
    """Suspended -> active."""
    _move(tx, site, "reinstate", "site.reinstated")


def revoke(tx: Transaction, site: SiteRecord) -> None:
    """Suspended -> revoked: its keys are worth nothing any more."""
    _move(tx, site, "revoke", "site.revoked")


def leave(tx: Transaction, site: SiteRecord) -> None:
    """Active -> revoked, of its own accord."""
    _move(tx, site, "leave", "site.left")


def _move(tx: Transaction, site: SiteRecord, name: str, action: str) -> None:
    advance(tx, LIFECYCLE, site, name)
    events.record(tx, site.federation_id, action, site.id, site_name=site.name)
