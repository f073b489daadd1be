"""A site without images: its updates are numbers that the test chooses, and it misbehaves when it is told to.

It speaks through the SDK's own client, so what it sends differs from an honest site's in nothing but what is said
here. Refusals are raised as the SDK raises them (`pfedbayespt.client.errors`).
"""

import http.client
import secrets
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Self
from urllib.parse import urlsplit

import numpy as np

from pfedbayespt.client import CoordinatorClient, Timeouts
from pfedbayespt.client.authentication import SiteIdentity
from pfedbayespt.protocol import (
    Assignment,
    Evaluation,
    KeyPossession,
    Receipt,
    Round,
    SigningKey,
    SiteEvaluation,
    SiteKeyAdd,
    SiteKeyRetire,
    SiteLeave,
    UpdateManifest,
    UpdateStatement,
    digest_of_bytes,
    tensors,
)

_TIMEOUTS: Final = Timeouts(total_seconds=20.0)


class Poison(StrEnum):
    """What a poisoned update holds in place of honest numbers."""

    NOT_A_NUMBER = "not_a_number"
    HUGE = "huge"
    ANOTHER_SHAPE = "another_shape"
    FORBIDDEN_TENSOR = "forbidden_tensor"
    NO_FILE = "no_file"


@dataclass
class FakeSite:
    """An enrolled site.

    Attributes:
        url: the coordinator's address.
        identity: who the site is, and its key.
        client: speaks for it.
        federation: the federation that it joined.
    """

    url: str
    identity: SiteIdentity
    client: CoordinatorClient
    federation: str

    @classmethod
    def enrol(cls, url: str, token: str, name: str) -> Self:
        """Redeem an enrolment token."""
        key = SigningKey.generate()
        with CoordinatorClient(url, timeouts=_TIMEOUTS) as anybody:
            coordinator = anybody.identity()
            site = anybody.sites.enrol(token, name, key, coordinator.key_id).site
        identity = SiteIdentity(site.site_id, key, coordinator.key_id)
        return cls(url, identity, CoordinatorClient(url, identity, timeouts=_TIMEOUTS), site.federation)

    @property
    def site_id(self) -> str:
        """The site's id."""
        return self.identity.site_id

    def assignment(self) -> Assignment:
        """Return what the coordinator asks."""
        return self.client.sites.assignment()

    def round(self) -> Round:
        """Return the round that the site is asked for.

        Raises:
            LookupError: it is asked for none.
        """
        assignment = self.assignment()
        if assignment.round is None:
            raise LookupError(f"the coordinator asks to {assignment.action}")
        return assignment.round

    def update(self, round_: Round, value: float = 1.0, num_examples: int = 10, **claims: Any) -> bytes:
        """Return the file of an update that is `value` wherever the round's task allows, and zero elsewhere.

        `claims` replace what an honest manifest says.
        """
        arrays = {
            name: np.full(array.shape, value if round_.task.touches(name) else 0.0, np.float32)
            for name, array in self._base(round_).items()
        }
        return tensors.encode(arrays, self._manifest(round_, num_examples, claims))

    def poisoned(self, round_: Round, poison: Poison) -> bytes:
        """Return the file of an update that no coordinator may count."""
        if poison is Poison.NO_FILE:
            return b"this is no tensor file"
        arrays = {
            name: np.zeros(array.shape, np.float32) for name, array in sorted(self._base(round_).items())
        }
        touched = next(name for name in arrays if round_.task.touches(name))
        if poison is Poison.NOT_A_NUMBER:
            # The codec refuses to write what is not finite, so the last number of the file is overwritten.
            honest = self.update(round_)
            return honest[:-4] + np.array([np.nan], np.float32).tobytes()
        if poison is Poison.FORBIDDEN_TENSOR:
            forbidden = next(name for name in arrays if not round_.task.touches(name))
            arrays[forbidden] = np.ones_like(arrays[forbidden])
        elif poison is Poison.HUGE:
            arrays[touched] = np.full_like(arrays[touched], 1e30)
        else:
            arrays[touched] = np.zeros((*arrays[touched].shape, 2), np.float32)
        return tensors.encode(arrays, self._manifest(round_, 10, {}))

    def statement(self, round_: Round, content: bytes, /, **lies: Any) -> UpdateStatement:
        """Return the signed statement about an update; `lies` replace what an honest site would say."""
        facts: dict[str, Any] = {
            "federation": self.federation,
            "round_id": round_.round_id,
            "site_id": self.site_id,
            "base_digest": round_.base_digest,
            "update_digest": digest_of_bytes(content),
            "num_examples": 10,
            "nonce": secrets.token_hex(16),
        }
        key = lies.pop("key", self.identity.key)
        return UpdateStatement.signed(key, **(facts | lies))

    def submit(
        self, round_: Round, content: bytes, statement: UpdateStatement | None = None, num_examples: int = 10
    ) -> Receipt:
        """Submit an update, with an honest statement unless another one is given."""
        honest = statement or self.statement(round_, content, num_examples=num_examples)
        return self.client.updates.submit(honest, content)

    def train(self, value: float = 1.0, num_examples: int = 10) -> Receipt:
        """Do what the coordinator asks."""
        round_ = self.round()
        content = self.update(round_, value, num_examples)
        return self.submit(round_, content, num_examples=num_examples)

    def evaluate(self, accuracy: float = 0.5) -> SiteEvaluation:
        """Report an evaluation of the version that the coordinator asks about."""
        number = self.assignment().model_version
        if number is None:
            raise LookupError("the coordinator asks about no version")
        evaluation = Evaluation(num_examples=5, metrics={"accuracy": accuracy})
        return self.client.model_versions.report_evaluation(self.federation, number, self.site_id, evaluation)

    def crash_while_uploading(self, round_: Round, content: bytes) -> None:
        """Send half of an update, and be gone."""
        address = urlsplit(self.url)
        connection = http.client.HTTPConnection(str(address.hostname), address.port)
        connection.putrequest("PUT", f"/v1/rounds/{round_.round_id}/updates/{self.site_id}")
        connection.putheader("Content-Length", str(len(content)))
        connection.putheader("Content-Type", "application/vnd.safetensors")
        connection.endheaders()
        connection.send(content[: len(content) // 2])
        connection.close()

    def rotate_key(self) -> SigningKey:
        """Use another key from here on, and have the old one retired; return the old one."""
        old, new = self.identity.key, SigningKey.generate()
        possession = KeyPossession.signed(new, site_id=self.site_id, public_key=new.public_key)
        self.client.sites.add_key(SiteKeyAdd.signed(old, possession=possession))
        self.identity.use(new)
        retirement = SiteKeyRetire.signed(new, site_id=self.site_id, retired_key_id=old.key_id)
        self.client.sites.retire_key(retirement)
        return old

    def round_is_over(self, round_: Round) -> bool:
        """Whether the coordinator asks this site for another round than that, or for none."""
        now = self.assignment().round
        return now is None or now.round_id != round_.round_id

    def leave(self) -> None:
        """Leave the federation for good."""
        name = self.client.sites.me().site_name
        self.client.sites.leave(SiteLeave.signed(self.identity.key, site_id=self.site_id, site_name=name))

    def close(self) -> None:
        """Close its connections."""
        self.client.close()

    def _base(self, round_: Round) -> "dict[str, np.ndarray[Any, Any]]":
        content = self.client.model_versions.download(
            self.federation, round_.base_version, round_.base_digest
        )
        return tensors.decode(content)[1]

    def _manifest(self, round_: Round, num_examples: int, claims: dict[str, Any]) -> UpdateManifest:
        facts: dict[str, Any] = {
            "federation": self.federation,
            "round_id": round_.round_id,
            "task": round_.task,
            "base_digest": round_.base_digest,
            "num_examples": num_examples,
        }
        return UpdateManifest(**(facts | claims))
