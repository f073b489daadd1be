"""Who calls, and whether they may."""

from pfedbayespt.server.auth.guards import (
    EVERYBODY,
    MEMBER,
    PREDICTING,
    Admin,
    Allow,
    AllowEverybody,
    Member,
    Predicting,
    Reading,
    Site,
    Steering,
    check_declared,
    visible_federation,
)
from pfedbayespt.server.auth.principals import AdminCaller, Caller, KeyCaller, Role, SiteCaller

__all__ = [
    "EVERYBODY",
    "MEMBER",
    "PREDICTING",
    "Admin",
    "AdminCaller",
    "Allow",
    "AllowEverybody",
    "Caller",
    "KeyCaller",
    "Member",
    "Predicting",
    "Reading",
    "Role",
    "Site",
    "SiteCaller",
    "Steering",
    "check_declared",
    "visible_federation",
]
