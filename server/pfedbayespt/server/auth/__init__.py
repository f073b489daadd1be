"""Who calls, and whether they may."""

from pfedbayespt.server.auth.guards import (
    EVERYBODY,
    Admin,
    Allow,
    AllowEverybody,
    Member,
    Site,
    check_declared,
    visible_federation,
)
from pfedbayespt.server.auth.principals import AdminCaller, Caller, Role, SiteCaller

__all__ = [
    "EVERYBODY",
    "Admin",
    "AdminCaller",
    "Allow",
    "AllowEverybody",
    "Caller",
    "Member",
    "Role",
    "Site",
    "SiteCaller",
    "check_declared",
    "visible_federation",
]
