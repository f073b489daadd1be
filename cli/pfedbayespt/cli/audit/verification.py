"""Checking an export, offline: all that is signed, chained or named by a digest must agree.

    chain       every event follows the one before it and has its hash
    terms       the coordinator has signed this specification for this federation
    updates     what was accepted is there, as the events tell it, signed by a key that they say was the site's
    receipts    signed by the coordinator, and their audit head is the event of the acceptance
    versions    signed manifests that agree with the chain, with their inputs and with each other; the chain says
                which one serves
    files       have the digests that name them, and say about themselves what the records say

What is not found: events cut off at the end, unless somebody kept a receipt or a hash from there (`receipts`), and
records that nobody ever signed.
"""

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from pydantic import ValidationError

from pfedbayespt.cli.audit.archive import Archive
from pfedbayespt.protocol import (
    FIRST_HASH,
    Event,
    ModelVersion,
    ParametersManifest,
    Receipt,
    SignatureError,
    SignedMessage,
    TensorFileError,
    Update,
    UpdateManifest,
    UpdateStatus,
    digest_of_message,
    tensors,
)

_STATUS_AFTER = {
    "update.accepted": UpdateStatus.ACCEPTED,
    "update.aggregated": UpdateStatus.AGGREGATED,
    "update.discarded": UpdateStatus.DISCARDED,
    "update.quarantined": UpdateStatus.QUARANTINED,
}
_VERSION_STATUS_AFTER = {
    "model_version.created": "candidate",
    "model_version.promoted": "serving",
    "model_version.retired": "retired",
    "model_version.held": "held",
}


@dataclass
class Audit:
    """One verification under way: the export, the key that is trusted, and what the chain says.

    Attributes:
        archive: the export.
        kept: receipts that sites have kept.
    """

    archive: Archive
    kept: list[Receipt] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.coordinator = self.archive.header.coordinator
        self.name = self.archive.header.federation.name
        self.by_update = {update.update_id: update for update in self.archive.updates}
        self.by_digest = {version.digest: version for version in self.archive.versions}
        self.keys = dict(_keys_in(self.archive.events))

    def problems(self) -> Iterator[str]:
        """Yield everything that does not hold; nothing: the export is sound."""
        checks: tuple[Callable[[], Iterator[str]], ...] = (
            self._chain,
            self._terms,
            self._updates,
            self._receipts,
            self._versions,
            self._files,
        )
        for check in checks:
            yield from check()

    def _chain(self) -> Iterator[str]:
        previous = FIRST_HASH
        for event in self.archive.events:
            if event.previous_hash != previous:
                yield f"event {event.event_id} does not follow the one before it"
            if event.hash != event.computed_hash() or event.federation != self.name:
                yield f"event {event.event_id} is not what was recorded"
            previous = event.hash
        if not self.archive.events:
            yield "there are no events"

    def _terms(self) -> Iterator[str]:
        federation = self.archive.header.federation
        if federation.terms is None:
            yield "the terms are not signed"
            return
        yield from self._signed(federation.terms, "the terms")
        digest = digest_of_message(federation.specification)
        backbone = federation.specification.backbone.weights_digest
        stated = federation.terms
        if (stated.federation, stated.specification_digest, stated.backbone_digest) != (
            federation.name,
            digest,
            backbone,
        ) or federation.specification_digest != digest:
            yield "the specification is not the one that the terms are about"

    def _updates(self) -> Iterator[str]:
        told = {
            event.subject: event for event in self.archive.events if event.action in _STATUS_AFTER
        }  # the last of each
        for update_id in told.keys() - self.by_update.keys():
            yield f"update {update_id} is in the events, but not in the export"
        for update in self.archive.updates:
            event = told.get(update.update_id)
            if event is None or _STATUS_AFTER[event.action] != update.status:
                yield f"update {update.update_id} is {update.status}, but the events say otherwise"
            elif (event.details["digest"], event.details["site_id"]) != (update.digest, update.site_id):
                yield f"update {update.update_id} is not the one in the events"
            if update.status is not UpdateStatus.QUARANTINED:
                yield from self._statement(update)

    def _statement(self, update: Update) -> Iterator[str]:
        statement, manifest = update.statement, update.manifest
        if statement is None or manifest is None:
            yield f"update {update.update_id} was accepted without a statement of its site"
            return
        site_id, public_key = self.keys.get(statement.key_id, ("nobody", ""))
        if site_id != update.site_id:
            yield f"update {update.update_id} is signed with a key that is not its site's"
            return
        yield from _check(statement, public_key, f"the statement of update {update.update_id}")
        if (
            statement.update_digest,
            statement.site_id,
            statement.round_id,
            statement.base_digest,
            statement.num_examples,
            statement.federation,
        ) != (
            update.digest,
            update.site_id,
            manifest.round_id,
            manifest.base_digest,
            manifest.num_examples,
            self.name,
        ):
            yield f"update {update.update_id} is not the one that its site signed"

    def _receipts(self) -> Iterator[str]:
        heads = {
            event.subject: event.hash for event in self.archive.events if event.action == "update.accepted"
        }
        given = {receipt.update_id for receipt in self.archive.receipts}
        for update_id in heads.keys() - given:
            yield f"update {update_id} was accepted, but there is no receipt of it"
        for receipt in (*self.archive.receipts, *self.kept):
            subject = f"the receipt of update {receipt.update_id}"
            yield from self._signed(receipt, subject)
            if heads.get(receipt.update_id) != receipt.audit_head:
                yield f"{subject} names a head that is not in the chain of events"
            update = self.by_update.get(receipt.update_id)
            if update is None or (update.digest, update.site_id, update.size_bytes) != (
                receipt.digest,
                receipt.site_id,
                receipt.size_bytes,
            ):
                yield f"{subject} is for another update than the export holds"

    def _versions(self) -> Iterator[str]:
        created = {
            event.details["version_number"]: event.details["digest"]
            for event in self.archive.events
            if event.action == "model_version.created"
        }
        for number in created.keys() - {version.version_number for version in self.archive.versions}:
            yield f"version {number} is in the events, but not in the export"
        for version in self.archive.versions:
            if created.get(version.version_number) != version.digest:
                yield f"version {version.version_number} is not the one in the events"
            yield from self._manifest(version)
        yield from self._statuses()
        yield from self._evaluations()

    def _manifest(self, version: ModelVersion) -> Iterator[str]:
        manifest, subject = version.manifest, f"version {version.version_number}"
        if manifest is None:
            yield f"{subject} has no signed manifest"
            return
        yield from self._signed(manifest, f"the manifest of {subject}")
        parent = next(
            (one for one in self.archive.versions if one.version_number == version.parent_version), None
        )
        if (
            manifest.federation,
            manifest.version_number,
            manifest.digest,
            manifest.size_bytes,
            manifest.round_id,
            manifest.inputs,
            manifest.parent_digest,
            manifest.specification_digest,
        ) != (
            self.name,
            version.version_number,
            version.digest,
            version.size_bytes,
            version.round_id,
            version.inputs,
            parent.digest if parent else None,
            self.archive.header.federation.specification_digest,
        ):
            yield f"{subject} is not the one that its manifest is about"
        for part in manifest.inputs:
            update = self.by_update.get(part.update_id)
            if update is None or (update.digest, update.site_id) != (part.digest, part.site_id):
                yield f"{subject} names input {part.update_id}, which the export does not hold like that"

    def _statuses(self) -> Iterator[str]:
        told = {
            event.details["version_number"]: _VERSION_STATUS_AFTER[event.action]
            for event in self.archive.events
            if event.action in _VERSION_STATUS_AFTER
        }
        for version in self.archive.versions:
            if told.get(version.version_number) != version.status:
                yield f"version {version.version_number} is {version.status}, but the events say otherwise"
        serving = next((number for number, status in told.items() if status == "serving"), None)
        if serving != self.archive.header.federation.serving_version:
            yield f"the events say that version {serving} serves, but the federation says otherwise"

    def _evaluations(self) -> Iterator[str]:
        told = {
            (event.details["version_number"], event.details["site_id"]): event.details["metrics"]
            for event in self.archive.events
            if event.action == "model_version.evaluated"
        }
        for version in self.archive.versions:
            for report in version.evaluations:
                if told.get((version.version_number, report.site_id)) != dict(report.evaluation.metrics):
                    yield f"version {version.version_number}: site {report.site_id} reported other figures"

    def _files(self) -> Iterator[str]:
        for file in self.archive.files():
            with file.open("rb") as stream:
                actual = hashlib.file_digest(stream, "sha256").hexdigest()
            if actual != file.name:
                yield f"file {file.name} has other content than its name says"
                continue
            yield from self._file_says(f"sha256:{actual}", file.read_bytes())

    def _file_says(self, digest: str, content: bytes) -> Iterator[str]:
        try:
            manifest = tensors.read_header(io.BytesIO(content)).manifest_json
            if digest in self.by_digest:
                yield from self._version_file(self.by_digest[digest], manifest)
                return
            update = next((one for one in self.archive.updates if one.digest == digest), None)
            if update is None or UpdateManifest.model_validate_json(manifest) != update.manifest:
                yield f"file {digest} is no version's and not what an update's record says"
        except (TensorFileError, ValidationError) as error:
            yield f"file {digest} cannot be read: {error}"

    def _version_file(self, version: ModelVersion, text: str) -> Iterator[str]:
        inside, signed = ParametersManifest.model_validate_json(text), version.manifest
        if signed is not None and (
            inside.federation,
            inside.version_number,
            inside.parent_digest,
            inside.specification_digest,
        ) != (signed.federation, signed.version_number, signed.parent_digest, signed.specification_digest):
            yield f"the file of version {version.version_number} says something else than its manifest"

    def _signed(self, message: SignedMessage, subject: str) -> Iterator[str]:
        yield from _check(message, self.coordinator.public_key, subject)


def _check(message: SignedMessage, public_key: str, subject: str) -> Iterator[str]:
    try:
        message.check_signature(public_key)
    except SignatureError as error:
        yield f"{subject}: {error}"


def _keys_in(events: Iterable[Event]) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield (key id, (site id, public key)) for every key that a site ever had."""
    for event in events:
        details = event.details
        if event.action == "site.enrolled" and "public_key" in details:
            yield str(details["key_id"]), (event.subject, str(details["public_key"]))
        elif event.action == "site_key.added":
            yield event.subject, (str(details["site_id"]), str(details["public_key"]))
