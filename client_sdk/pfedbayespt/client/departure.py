"""How a site leaves: the coordinator first, then everything here.

    told       the coordinator ends the site's part for good; a key that it no longer takes is as good as told
    removed    private key, personal parameters, encoded images, checkpoints, downloads

A crash in between leaves a directory whose key is worth nothing; leaving again removes it. Encoded images in a
store outside the state directory (`store_directory`) may serve other memberships, and stay.
"""

from contextlib import suppress

from pfedbayespt.client.coordinator import CoordinatorClient
from pfedbayespt.client.errors import AuthenticationRequired
from pfedbayespt.client.state import StateDirectory
from pfedbayespt.protocol import SigningKey, SiteLeave


def leave(state: StateDirectory, client: CoordinatorClient, key: SigningKey) -> None:
    """Leave the federation for good and remove the state directory.

    Raises:
        StateError: another process runs the site.
        ProblemError, TransportError: the coordinator could not be told; nothing is removed.
    """
    with state.locked(), suppress(AuthenticationRequired):  # it left or was revoked before
        site = state.enrolment
        client.sites.leave(SiteLeave.signed(key, site_id=site.site_id, site_name=site.site_name))
    state.remove()
