"""Organisations: who takes part in which federation. Sites, enrolment tokens and API keys belong to one each."""

from pydantic import Field

from pfedbayespt.protocol._base import Message, Slug, UtcTime


class OrganisationCreate(Message):
    """Make an organisation known before anybody invites it."""

    name: Slug


class Organisation(Message):
    """An organisation, known by its name for good."""

    name: Slug
    federations: tuple[Slug, ...] = Field(description="Where it takes part, as far as the caller may know.")
    created_at: UtcTime
