"""How one coordinator process is configured: environment variables `PFEDBAYESPT_<FIELD>`, or arguments.

Rules: there is no default credential, and the process refuses to start without one; every limit has its unit in
its name; nothing here is ever changed while the process runs.
"""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from pfedbayespt.server.openid import checked_url

MIN_ADMIN_TOKEN_CHARACTERS = 32
_MIB = 2**20


class ServerRole(StrEnum):
    """What a process does: `coordinator` runs rounds, `inference` answers predictions (and needs torch)."""

    COORDINATOR = "coordinator"
    INFERENCE = "inference"


class Settings(BaseSettings):
    """Every knob of the server.

    Raises:
        pydantic.ValidationError: a value is missing or not allowed, above all `admin_token`.
    """

    model_config = SettingsConfigDict(env_prefix="PFEDBAYESPT_", frozen=True, extra="forbid")

    admin_token: SecretStr = Field(description="The admin's bearer token, at least 32 characters.")
    data_dir: Path = Field(
        default=Path("pfedbayespt-data"),
        description="Holds, unless another place is set, the tensor files, the database and the signing key.",
    )
    database_url: str | None = Field(
        default=None, description="`postgresql://...` or `sqlite:///file`; None: SQLite in `data_dir`."
    )
    blobs_url: str | None = Field(
        default=None,
        description="Where tensor files are kept: `s3://bucket/prefix`, with "
        "`?endpoint=https://host:port&region=name` where it is not Amazon's and credentials in "
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
        "`file:///folder`; None: in `data_dir`.",
    )
    roles: frozenset[ServerRole] = Field(default=frozenset({ServerRole.COORDINATOR}), min_length=1)
    signing_key_file: Path | None = Field(
        default=None,
        description="The coordinator's private key, which all its processes share; None: in `data_dir`.",
    )
    access_token_seconds: Annotated[int, Field(ge=60, le=3600)] = Field(
        default=900, description="How long a site's access token is good, unless something ends it before."
    )
    oidc_issuer: str | None = Field(
        default=None,
        description="The OpenID provider that tells of people, exactly as its tokens name it; None: there is none.",
    )
    oidc_audience: str | None = Field(
        default=None, description="What its tokens call this coordinator (`aud`)."
    )
    oidc_roles_claim: str = Field(
        default="pfedbayespt_roles", min_length=1, description="The claim of its tokens that holds the roles."
    )
    oidc_clock_skew_seconds: Annotated[float, Field(ge=0, le=300)] = Field(
        default=30.0, description="How far the provider's clock may be from the database's."
    )
    local_admin: bool = Field(
        default=True,
        description="Take the admin token as a credential; False only where an OpenID provider tells of admins.",
    )
    api_key_requests_per_minute: PositiveInt = Field(
        default=600,
        description="Requests with one API key to one kind of operation; an organisation has five times as many.",
    )
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    telemetry: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Send traces to an OpenTelemetry collector, as the OTEL_* variables say; auto: where they ask "
        "for it.",
    )
    public_docs: bool = Field(default=True, description="Serve /docs, /redoc and /openapi.json.")
    allow_failpoints: bool = Field(
        default=False,
        description="Obey PFEDBAYESPT_FAILPOINTS, by which tests make the process fail; never in production.",
    )

    retry_after_seconds: PositiveFloat = Field(default=1.0, description="How soon a waiting site asks again.")
    heartbeat_seconds: Annotated[float, Field(ge=0)] = Field(
        default=5.0, description="A site's `last_seen_at` is written at most this often."
    )
    worker_interval_seconds: PositiveFloat | None = Field(
        default=1.0,
        description="The worker looks for due work this often; None: this process runs no worker.",
    )
    aggregation_deadline_seconds: PositiveFloat = Field(
        default=3600.0, description="A round that cannot be aggregated for this long is abandoned."
    )
    aggregation_lease_seconds: PositiveFloat = Field(
        default=3.0,
        description="A coordinator that aggregates and is silent for this long is taken for dead by the others.",
    )

    sweep_interval_seconds: PositiveFloat | None = Field(
        default=3600.0, description="Files that no row names are looked for this often; None: never."
    )
    sweep_grace_seconds: PositiveFloat = Field(
        default=86400.0, description="No file that is younger than this is removed, whatever the rows say."
    )

    keep_payload_rounds: PositiveInt | None = Field(
        default=None,
        description="The files of updates are kept for this many of a federation's last finished rounds, lineage "
        "for ever; None: files too. A version whose inputs are gone can no longer be computed again.",
    )

    max_update_bytes: PositiveInt = Field(
        default=256 * _MIB, description="Largest update or parameters file."
    )
    max_json_bytes: PositiveInt = Field(default=_MIB, description="Largest body of any other request.")
    body_deadline_seconds: PositiveFloat = Field(default=300.0, description="A body must arrive within this.")

    max_image_bytes: PositiveInt = Field(
        default=10_000_000, description="Largest image file of a prediction."
    )
    max_running_predictions: PositiveInt = Field(default=2, description="Predictions computed at once.")
    max_waiting_predictions: Annotated[int, Field(ge=0)] = Field(
        default=32, description="Predictions that may wait for that; further ones are refused as overload."
    )
    feature_cache_bytes: Annotated[int, Field(ge=0)] = Field(
        default=0,
        description="Memory for encoded images, so that asking about one again costs little; 0: none is kept.",
    )
    drain_seconds: Annotated[float, Field(ge=0.0)] = Field(
        default=0.0,
        description="On SIGTERM go on listening for this long, no longer ready, so that load balancers turn away.",
    )
    max_batch_images: PositiveInt = Field(default=32, description="Most images in one batch of predictions.")
    max_batch_bytes: PositiveInt = Field(default=32 * _MIB, description="Largest body of a batch.")
    inference_precision: Literal["float32", "bfloat16", "int8"] = Field(
        default="float32", description="What the backbone computes in; every answer names it. int8: CPU only."
    )
    inference_compile: bool = Field(
        default=False,
        description="Compile the backbone's feed-forward networks: needs a C++ compiler and a longer start.",
    )
    micro_batching: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Encode images that come at the same time together; auto: on a GPU only, where it pays.",
    )
    max_predictions_per_caller: PositiveInt | None = Field(
        default=None,
        description="Predictions that one caller may have under way; None: as many as all together.",
    )
    prediction_queue_seconds: PositiveFloat = Field(
        default=5.0, description="A prediction whose turn has not come after this is refused as overload."
    )
    prediction_compute_seconds: PositiveFloat = Field(
        default=60.0, description="A prediction that computes for longer than this is refused as overload."
    )
    preload_interval_seconds: PositiveFloat = Field(
        default=1.0, description="Inference looks this often for versions to load before they are asked for."
    )
    backbone_cache_dir: Path | None = Field(
        default=None, description="Where inference finds backbones; None: the user's cache folder."
    )

    @property
    def effective_database_url(self) -> str:
        """The database's URL, by default that of a file in `data_dir`."""
        return self.database_url or f"sqlite:///{self.data_dir / 'coordinator.sqlite3'}"

    @property
    def effective_signing_key_file(self) -> Path:
        """Where the coordinator's key is, by default in `data_dir`."""
        return self.signing_key_file or self.data_dir / "coordinator-key.pem"

    @property
    def effective_backbone_cache_dir(self) -> Path:
        """Where inference finds backbones, by default where `pfedbayespt backbone import` puts them."""
        user_cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        cache = Path(os.environ.get("PFEDBAYESPT_CACHE") or user_cache / "pfedbayespt")
        return self.backbone_cache_dir or cache / "backbones"

    @model_validator(mode="after")
    def _uploads_outlive_no_grace(self) -> Self:
        if self.sweep_grace_seconds < self.body_deadline_seconds:
            raise ValueError(
                f"sweep_grace_seconds {self.sweep_grace_seconds:g} is below body_deadline_seconds "
                f"{self.body_deadline_seconds:g}: files of uploads under way would be removed"
            )
        return self

    @model_validator(mode="after")
    def _people_can_come_in(self) -> Self:
        if (self.oidc_issuer is None) != (self.oidc_audience is None):
            raise ValueError("oidc_issuer and oidc_audience are set together, or neither is")
        if self.oidc_issuer is None and not self.local_admin:
            raise ValueError("local_admin may only be false where oidc_issuer is set: nobody could be admin")
        if self.oidc_issuer is not None:
            checked_url(self.oidc_issuer)
        return self

    @field_validator("admin_token")
    @classmethod
    def _is_long_enough(cls, token: SecretStr) -> SecretStr:
        if len(token.get_secret_value()) < MIN_ADMIN_TOKEN_CHARACTERS:
            raise ValueError(
                f"the admin token must have at least {MIN_ADMIN_TOKEN_CHARACTERS} characters; "
                'make one with: python -c "import secrets; print(secrets.token_urlsafe(32))"'
            )
        return token
