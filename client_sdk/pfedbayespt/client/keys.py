"""The site's private key on its own disk, and how it is replaced without ever being without one.

    signing.key   the key the site signs with (0600)
    next.key      the one that is about to replace it: there only while a rotation is under way

    make next.key -> the coordinator knows both -> rename it over signing.key -> the old one is retired

A kill in between leaves a site that works, with the old key or the new; doing it again finishes what was begun.
"""

from pathlib import Path

from pfedbayespt.client.authentication import SiteIdentity
from pfedbayespt.client.errors import StateError
from pfedbayespt.client.resources.sites import Sites
from pfedbayespt.client.state import flush_folder, write_whole
from pfedbayespt.protocol import KeyPossession, SignatureError, SigningKey, SiteKeyAdd, SiteKeyRetire

KEY_FILE = "signing.key"
_NEXT_FILE = "next.key"


def read_key(directory: Path) -> SigningKey:
    """Return the site's key.

    Raises:
        StateError: there is none, it cannot be read, or others may read it.
    """
    file = directory / KEY_FILE
    if not file.exists():
        raise StateError(f"{file} is missing; a site without its key must enrol again in a new directory")
    return _read(file)


def make_key(directory: Path) -> SigningKey:
    """Return the key in the directory, after making it if there is none."""
    return _read_or_make(directory / KEY_FILE)


def rotate(directory: Path, site_id: str, sites: Sites, identity: SiteIdentity) -> SigningKey:
    """Replace the site's key, and use the new one from here on.

    Raises:
        ProblemError, TransportError: the coordinator refused or did not answer; doing it again goes on.
    """
    old, new = identity.key, _read_or_make(directory / _NEXT_FILE)
    _retire_all_but({old.key_id, new.key_id}, old, site_id, sites)  # what an earlier rotation left
    possession = KeyPossession.signed(new, site_id=site_id, public_key=new.public_key)
    sites.add_key(SiteKeyAdd.signed(old, possession=possession))
    (directory / _NEXT_FILE).replace(directory / KEY_FILE)
    flush_folder(directory)
    identity.use(new)
    _retire_all_but({new.key_id}, new, site_id, sites)
    return new


def _retire_all_but(kept: set[str], key: SigningKey, site_id: str, sites: Sites) -> None:
    for other in list(sites.list_keys()):
        if other.key_id not in kept:
            sites.retire_key(SiteKeyRetire.signed(key, site_id=site_id, retired_key_id=other.key_id))


def _read_or_make(file: Path) -> SigningKey:
    if not file.exists():
        write_whole(file, SigningKey.generate().to_pem())
    return _read(file)


def _read(file: Path) -> SigningKey:
    if file.stat().st_mode & 0o077:
        raise StateError(f"{file} may be read by others; allowed: its owner alone (chmod go-rwx)")
    try:
        return SigningKey.from_pem(file.read_bytes())
    except (OSError, SignatureError) as error:
        raise StateError(f"{file} cannot be read: {error}") from error
