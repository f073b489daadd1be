"""What a site keeps on its disk, and who may read it."""

import os
import resource
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from pfedbayespt.client.errors import StateError
from pfedbayespt.client.outbox import Outbox
from pfedbayespt.client.personal import PersonalManifest, PersonalStore
from pfedbayespt.client.state import Enrolment, Progress, StateDirectory
from pfedbayespt.protocol import (
    CoordinatorIdentity,
    Receipt,
    RoundTask,
    SigningKey,
    UpdateManifest,
    digest_of_bytes,
    tensors,
)

_KEY = SigningKey.generate()
COORDINATOR = CoordinatorIdentity(key_id=_KEY.key_id, public_key=_KEY.public_key)
ENROLMENT = Enrolment(
    base_url="http://localhost:8000",
    proxy=None,
    ca_file=None,
    federation="shapes",
    organisation="clinic",
    site_id="sit_1",
    site_name="clinic-a",
    coordinator=COORDINATOR,
)


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    created = StateDirectory.create(tmp_path / "deep" / "state")
    created.write_enrolment(ENROLMENT)
    return created


def update_file(value: float = 1.0) -> bytes:
    manifest = UpdateManifest(
        federation="shapes",
        round_id="rnd_1",
        task=RoundTask.TRAINING,
        base_digest=digest_of_bytes(b"base"),
        num_examples=8,
    )
    return tensors.encode({"head.bias": np.full(3, value, np.float32)}, manifest)


def personal_file(value: float) -> bytes:
    return tensors.encode({"residual.bias": np.full(3, value, np.float32)}, PersonalManifest(model_version=1))


def kept(state: StateDirectory) -> bytes | None:
    return PersonalStore(state.path / "personal").of_version(1)


def receipt(update_id: str) -> Receipt:
    return Receipt.signed(
        _KEY,
        federation="shapes",
        update_id=update_id,
        round_id="rnd_1",
        site_id="sit_1",
        digest=digest_of_bytes(b"update"),
        size_bytes=6,
        received_at=datetime(2026, 1, 1, tzinfo=UTC),
        audit_head="0" * 64,
    )


@contextmanager
def no_file_longer_than(num_bytes: int) -> Iterator[None]:
    """Have the kernel cut every write of this process at that length, as a disk does that fills up meanwhile."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def modes(root: Path) -> set[tuple[bool, int]]:
    return {(path.is_dir(), stat.S_IMODE(path.stat().st_mode)) for path in [root, *root.rglob("*")]}


def test_everything_is_readable_by_its_owner_alone_whatever_the_umask(state: StateDirectory) -> None:
    before = os.umask(0)
    try:
        state.update_progress(rounds_contributed=1)
        Outbox(state.path).put(update_file(), personal_file(1.0))
        with state.locked():
            pass
    finally:
        os.umask(before)
    assert modes(state.path) == {(True, 0o700), (False, 0o600)}


def test_a_record_is_read_back_as_it_was_written(state: StateDirectory) -> None:
    again = StateDirectory.open(state.path)
    assert again.enrolment == ENROLMENT
    assert again.progress == Progress()
    again.update_progress(rounds_contributed=2, last_round_id="rnd_2")
    assert state.progress == Progress(rounds_contributed=2, last_round_id="rnd_2")


@pytest.mark.parametrize("name", ["", "site.json"])
def test_a_directory_that_others_may_read_is_refused(state: StateDirectory, name: str) -> None:
    (state.path / name).chmod(0o755)
    with pytest.raises(StateError, match="chmod go-rwx"):
        StateDirectory.open(state.path)


def test_a_directory_without_a_site_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="enrol one first"):
        StateDirectory.open(tmp_path)


def test_a_damaged_record_is_named(state: StateDirectory) -> None:
    (state.path / "site.json").write_text("{}")
    with pytest.raises(StateError, match=r"site\.json cannot be read"):
        _ = state.enrolment


def test_a_second_lock_is_refused_until_the_first_is_released(state: StateDirectory) -> None:
    other = StateDirectory.open(state.path)
    with state.locked(), pytest.raises(StateError, match="another process"), other.locked():
        pass
    with other.locked():
        pass


def test_a_kill_between_writing_and_renaming_leaves_the_old_record(
    state: StateDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    state.update_progress(rounds_contributed=1)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", die)
        with pytest.raises(Killed):
            state.update_progress(rounds_contributed=2)
    assert state.progress.rounds_contributed == 1
    state.update_progress(rounds_contributed=3)
    assert state.progress.rounds_contributed == 3


def test_an_outbox_gives_back_what_was_put_and_forgets_it_when_acknowledged(state: StateDirectory) -> None:
    outbox = Outbox(state.path)
    assert outbox.pending() is None
    outbox.put(update_file(), personal_file(2.0))
    pending = Outbox(state.path).pending()
    assert pending is not None
    assert (pending.content, pending.manifest.round_id) == (update_file(), "rnd_1")
    assert kept(state) is None
    outbox.acknowledged()
    assert outbox.pending() is None
    assert kept(state) == personal_file(2.0)


def test_a_later_update_takes_the_place_of_an_earlier_one(state: StateDirectory) -> None:
    outbox = Outbox(state.path)
    outbox.put(update_file(1.0), personal_file(1.0))
    outbox.put(update_file(2.0), None)
    pending = outbox.pending()
    assert pending is not None
    assert pending.content == update_file(2.0)
    outbox.acknowledged()
    assert kept(state) is None


def test_a_dropped_update_takes_its_personal_parameters_with_it(state: StateDirectory) -> None:
    outbox = Outbox(state.path)
    outbox.put(update_file(), personal_file(1.0))
    outbox.discard()
    assert (outbox.pending(), kept(state)) == (None, None)


@pytest.mark.parametrize("moment", range(1, 5))
def test_an_outbox_that_was_being_filled_at_a_kill_is_complete_or_absent(
    state: StateDirectory, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    """Kill at each fsync in turn: of the update, of the personal file, of the two folders."""

    class Killed(BaseException):
        pass

    real, calls = os.fsync, iter(range(1, 100))

    def die_at_the_moment(descriptor: int) -> None:
        if next(calls) == moment:
            raise Killed
        real(descriptor)

    outbox = Outbox(state.path)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", die_at_the_moment)
        with pytest.raises(Killed):
            outbox.put(update_file(), personal_file(1.0))
    pending = Outbox(state.path).pending()
    assert pending is None or pending.content == update_file()
    outbox.put(update_file(3.0), personal_file(3.0))
    outbox.acknowledged()
    assert kept(state) == personal_file(3.0)


def test_a_damaged_update_is_named_and_not_sent(state: StateDirectory) -> None:
    outbox = Outbox(state.path)
    outbox.put(update_file(), None)
    (file,) = (state.path / "outbox").iterdir()
    file.write_bytes(b"torn")
    with pytest.raises(StateError, match="damaged"):
        outbox.pending()


def test_removing_leaves_nothing_and_waits_for_no_one(state: StateDirectory) -> None:
    with state.locked(), pytest.raises(StateError):
        StateDirectory.open(state.path).remove()
    state.remove()
    assert not state.path.exists()


def test_a_receipt_that_does_not_fit_leaves_the_others_whole(state: StateDirectory) -> None:
    file = state.path / "receipts.jsonl"
    state.keep_receipt(receipt("upd_1"))
    before = file.read_bytes()
    with no_file_longer_than(len(before) + 10), pytest.raises(StateError, match="mend that and run the site"):
        state.keep_receipt(receipt("upd_2"))
    assert file.read_bytes() == before
    state.keep_receipt(receipt("upd_2"))
    kept_ids = [Receipt.model_validate_json(line).update_id for line in file.read_text().splitlines()]
    assert kept_ids == ["upd_1", "upd_2"]


@pytest.mark.parametrize(
    "write",
    [
        lambda state: state.update_progress(rounds_contributed=2),
        lambda state: PersonalStore(state.path / "personal").keep(personal_file(2.0)),
        lambda state: Outbox(state.path).put(update_file(2.0), None),
    ],
    ids=["progress", "personal", "outbox"],
)
def test_what_does_not_fit_is_named_and_what_was_there_stays(
    state: StateDirectory, write: Callable[[StateDirectory], None]
) -> None:
    state.update_progress(rounds_contributed=1)
    PersonalStore(state.path / "personal").keep(personal_file(1.0))
    Outbox(state.path).put(update_file(1.0), None)
    before = {path: path.read_bytes() for path in state.path.rglob("*") if path.is_file()}
    with no_file_longer_than(10), pytest.raises(StateError, match="cannot be written: File too large"):
        write(state)
    assert {path: path.read_bytes() for path in state.path.rglob("*") if path.is_file()} == before
    write(state)
    assert {path: path.read_bytes() for path in state.path.rglob("*") if path.is_file()} != before
