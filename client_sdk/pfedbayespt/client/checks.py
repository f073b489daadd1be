"""Is this machine fit to be a site? One finding per question, in the order in which they matter."""

import math
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from pfedbayespt.client import events
from pfedbayespt.client.data import ImageFiles, check_training_size, class_counts
from pfedbayespt.client.errors import PFedBayesPTError, StateError
from pfedbayespt.client.site import Site
from pfedbayespt.client.workplace import ImageOptions, Images, Split, encoded, read_split
from pfedbayespt.model.backbone import choose_device
from pfedbayespt.model.config import TrainingConfig
from pfedbayespt.model.sources import InMemoryContexts
from pfedbayespt.model.training import init, update

MIN_FREE_BYTES = 2**30
MAX_SKEW_SECONDS = 60.0
_PROBED_IMAGES = 32


@dataclass(frozen=True)
class Finding:
    """The answer to one question.

    Attributes:
        subject: what was looked at.
        is_fit: whether it will do.
        detail: what was found.
    """

    subject: str
    is_fit: bool
    detail: str


def examine(
    directory: Path, train: Images | None, held_out: Images | None, options: ImageOptions
) -> Iterator[Finding]:
    """Yield findings about the machine, the coordinator, the backbone and the images of an enrolled site."""
    yield _machine()
    yield _disk(directory)
    opened: list[Site] = []
    yield _asked("enrolment", lambda: _enrolment(directory, opened))
    if not opened:
        return
    (site,) = opened
    yield _asked("coordinator", lambda: _coordinator(site))
    yield _asked("clock", lambda: _clock(site))
    yield _asked("backbone", lambda: _backbone(site))
    for name, images in (("training images", train), ("held-out images", held_out)):
        if images is not None:
            yield from _images(site, name, images, options)


def _asked(subject: str, answer: Callable[[], str]) -> Finding:
    try:
        return Finding(subject, is_fit=True, detail=answer())
    except PFedBayesPTError as error:
        return Finding(subject, is_fit=False, detail=str(error))


def _machine() -> Finding:
    device = choose_device()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{os.cpu_count()} processors"
    return Finding(
        "machine",
        is_fit=True,
        detail=f"Python {platform.python_version()}, torch {torch.__version__}, {name}",
    )


def _disk(directory: Path) -> Finding:
    place = next(folder for folder in (directory, *directory.absolute().parents) if folder.exists())
    free = shutil.disk_usage(place).free
    detail = f"{free / 2**30:.1f} GiB free in {place}; {MIN_FREE_BYTES / 2**30:.0f} GiB are enough"
    return Finding("disk", free >= MIN_FREE_BYTES, detail)


def _enrolment(directory: Path, opened: list[Site]) -> str:
    site = Site.resume(directory)
    opened.append(site)
    return f"site {site.name} of federation {site.federation}, specification {site.specification_digest}"


def _coordinator(site: Site) -> str:
    begun = time.perf_counter()
    status = site.status()
    milliseconds = (time.perf_counter() - begun) * 1000
    states = f"this site is {status.site.status}, the federation {status.federation.status}"
    return f"answers in {milliseconds:.0f} ms; {states}"


def _clock(site: Site) -> str:
    ahead = site.client.clock_ahead_seconds()
    if ahead is None:
        return "the coordinator does not tell the time"
    told = f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the coordinator's"
    if abs(ahead) > MAX_SKEW_SECONDS:
        raise StateError(
            f"{told}; allowed: {MAX_SKEW_SECONDS:.0f} s, so have this machine's clock set by NTP"
        )
    return told


def _backbone(site: Site) -> str:
    specification = site.specification.backbone
    site.model()
    return f"{specification.architecture} at {specification.image_size_pixels} pixels, digest as agreed"


def _images(site: Site, name: str, images: Images, options: ImageOptions) -> Iterator[Finding]:
    splits: list[Split] = []

    def read() -> str:
        split = read_split(images, site.specification.classes, options)
        if name == "training images":
            check_training_size(len(split.labels))
        splits.append(split)
        return _describe(split, site.specification.classes)

    yield _asked(name, read)
    if splits:
        yield _asked(f"{name}, speed", lambda: _speed(site, splits[0]))
    if splits and name == "training images":
        yield _asked("training, speed", lambda: _training_speed(site, splits[0]))


def _describe(split: Split, classes: tuple[str, ...]) -> str:
    counts = class_counts(split.labels, classes)
    present = {name: count for name, count in counts.items() if count}
    detail = f"{len(split.labels)} images in {len(present)} of {len(classes)} classes"
    detail += f", {min(present.values())} to {max(present.values())} per class"
    if isinstance(split.dataset, ImageFiles) and split.dataset.unreadable:
        detail += f"; {len(split.dataset.unreadable)} unreadable files left out"
    return detail


def _speed(site: Site, split: Split) -> str:
    """Encode a few images, as the first round will encode all."""
    probed = min(_PROBED_IMAGES, len(split.labels))
    contexts = encoded(split, site.model(), 0, events.unobserved)
    begun = time.perf_counter()
    context = contexts.batch(torch.arange(probed))
    seconds = (time.perf_counter() - begun) / probed
    total_bytes = context.num_bytes // probed * len(split.labels)
    return (
        f"{seconds * 1000:.0f} ms to encode an image, {seconds * len(split.labels):.0f} s for all; "
        f"{total_bytes / 2**20:.0f} MiB to keep them encoded"
    )


def _training_speed(site: Site, split: Split) -> str:
    """Train on one batch, twice, the first time to warm up; the parameters are thrown away."""
    specification, model = site.specification, site.model().twin().classifier
    config = TrainingConfig.from_specification(specification.model_dump(mode="json"))
    chosen = torch.arange(min(config.batch_size, len(split.labels)))
    context = encoded(split, site.model(), 0, events.unobserved).batch(chosen)
    labels = torch.tensor(split.labels)[chosen].to(model.device)
    state = init(model, labels, config, round_number=1, num_rounds=None, seed=0)
    for _ in range(2):
        begun = time.perf_counter()
        update(model, state, InMemoryContexts(context, labels).batch(chosen), labels)["loss"].item()
        seconds = time.perf_counter() - begun
    epoch_seconds = seconds * len(split.labels) / len(chosen)
    precision = "bfloat16 where it is safe" if model.device.type == "cuda" else "float32"
    return (
        f"{seconds * 1000:.0f} ms for a batch of {len(chosen)} on {model.device} in {precision}, "
        f"{epoch_seconds * config.local_epochs:.0f} s for a round's {config.local_epochs} epochs; "
        + _cache_advice(context.num_bytes // len(chosen) * len(split.labels))
    )


def _cache_advice(needed_bytes: int) -> str:
    """Say where the encoded images fit: in half of the free memory, or else on the disk."""
    free_bytes = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    gibibytes = math.ceil(needed_bytes / 2**30 * 10) / 10
    if needed_bytes <= free_bytes / 2:
        return f"all images fit into memory encoded: --cache-gib {gibibytes:.1f}"
    return f"keep the encoded images on the disk: --cache-gib {free_bytes / 2**31:.1f} --store-gib {gibibytes:.1f}"
