"""The parameters in paths. What could be no name or id is refused before it reaches a database."""

from typing import Annotated

from fastapi import Path

_ID = r"^[a-z]{3}_[0-9a-f]{1,32}$"

FederationName = Annotated[str, Path(max_length=63, pattern=r"^[a-z0-9-]+$", description="Its name.")]
OrganisationName = Annotated[str, Path(max_length=63, pattern=r"^[a-z0-9-]+$", description="Its name.")]
RoundId = Annotated[str, Path(pattern=_ID, description="The round's id, `rnd_...`.")]
SiteId = Annotated[str, Path(pattern=_ID, description="The site's id, `sit_...`.")]
KeyIdInPath = Annotated[str, Path(pattern=r"^key_[0-9a-f]{32}$", description="The key's id, `key_...`.")]
ApiKeyId = Annotated[str, Path(pattern=r"^api_[0-9a-f]{16}$", description="The key's id, `api_...`.")]
TrialId = Annotated[str, Path(pattern=_ID, description="The trial's id, `trl_...`.")]
UpdateId = Annotated[str, Path(pattern=_ID, description="The update's id, `upd_...`.")]
VersionNumber = Annotated[int, Path(ge=0, lt=2**31, description="The model version's number.")]
