"""Who calls, and whether they may."""

from pfedbayespt.server.auth.guards import (
    EVERYBODY,
    MEMBER,
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
    "MEMBER",
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
