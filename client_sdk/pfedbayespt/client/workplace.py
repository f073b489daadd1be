"""From what an organisation has (folders or datasets, a backbone file) to what the loop needs."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pfedbayespt.client import events
from pfedbayespt.client.context_store import DEFAULT_STORE_BYTES, ContextStore
from pfedbayespt.client.contexts import DEFAULT_CACHE_BYTES, ImageContexts
from pfedbayespt.client.data import LabelledImages, check_training_size, labels_of, open_dataset
from pfedbayespt.client.errors import DatasetError
from pfedbayespt.client.federation_model import FederationModel
from pfedbayespt.client.learner import Learner, class_prior_of

HELD_OUT_EVERY = 10

Images = LabelledImages | Path | str


@dataclass(frozen=True)
class ImageOptions:
    """How strict a site is with its images, and how much memory it spends on them.

    Attributes:
        skip_unreadable: leave out files that are no readable images instead of refusing the folder.
        require_all_classes: refuse a folder in which a class of the federation has no folder.
        max_cache_bytes: memory for encoded images, training and held-out together.
        store_directory: where encoded images are kept on the disk; None: nowhere.
        max_store_bytes: how much of the disk they may take.
    """

    skip_unreadable: bool = False
    require_all_classes: bool = False
    max_cache_bytes: int = DEFAULT_CACHE_BYTES
    store_directory: Path | None = None
    max_store_bytes: int = DEFAULT_STORE_BYTES


@dataclass(frozen=True)
class Split:
    """Images with checked labels."""

    dataset: LabelledImages
    labels: list[int]

    def part(self, positions: Sequence[int]) -> "Split":
        """Return the images at `positions`."""
        return Split(_Part(self.dataset, positions), [self.labels[position] for position in positions])


@dataclass(frozen=True)
class _Part:
    """Some images of a dataset."""

    dataset: LabelledImages
    positions: Sequence[int]

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int, /) -> tuple[Any, Any]:
        return self.dataset[self.positions[index]]


def read_split(source: Images, classes: tuple[str, ...], options: ImageOptions) -> Split:
    """Open a folder or dataset and check its labels.

    Raises:
        DatasetError: the images or labels cannot be used.
    """
    dataset = open_dataset(
        source,
        classes,
        require_all_classes=options.require_all_classes,
        skip_unreadable=options.skip_unreadable,
    )
    labels = labels_of(dataset, classes)
    if not labels:
        raise DatasetError("the dataset holds no images")
    return Split(dataset, labels)


def read_splits(
    train: Images, held_out: Images | None, classes: tuple[str, ...], options: ImageOptions
) -> tuple[Split, Split]:
    """Open training and held-out images; without the latter, every tenth training image is held out.

    The choice depends on the order of the images alone, so it is the same whenever the site starts again.

    Raises:
        DatasetError: the images or labels cannot be used, or there are too few to train on.
    """
    if _same_folder(train, held_out):
        raise DatasetError(
            f"{train} is to be trained on and held out at once; pass two folders, or only the first"
        )
    training = read_split(train, classes, options)
    if held_out is not None:
        evaluated = read_split(held_out, classes, options)
    else:
        everything = range(len(training.labels))
        chosen = everything[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY] or everything[-1:]
        evaluated = training.part(chosen)
        training = training.part([position for position in everything if position not in chosen])
    check_training_size(len(training.labels))
    return training, evaluated


def encoded(
    split: Split,
    model: FederationModel,
    max_cache_bytes: int,
    observer: events.Observer,
    store: ContextStore | None = None,
) -> ImageContexts:
    """Return the source that encodes the images of `split` when they are first asked for."""
    return ImageContexts(
        split.dataset,
        split.labels,
        model.classifier.insertion,
        model.backbone_config,
        device=model.classifier.device,
        max_cache_bytes=max_cache_bytes,
        store=store,
        on_encoded=partial(_tell, observer),
    )


def set_up(
    model: FederationModel,
    site_name: str,
    train: Split,
    held_out: Split,
    options: ImageOptions,
    observer: events.Observer,
) -> Learner:
    """Return a learner on these images; the cache is shared out by the number of images."""
    for_training = options.max_cache_bytes * len(train.labels) // (len(train.labels) + len(held_out.labels))
    store = _store_of(model, options)
    training = encoded(train, model, for_training, observer, store)
    evaluated = encoded(held_out, model, options.max_cache_bytes - for_training, observer, store)
    head = model.classifier.config.head
    prior = class_prior_of(training.labels, head, len(model.specification.classes))
    return Learner(model, site_name, training, evaluated, prior)


def _store_of(model: FederationModel, options: ImageOptions) -> ContextStore | None:
    if options.store_directory is None or not options.max_store_bytes:
        return None
    insertion = model.classifier.insertion
    return ContextStore(options.store_directory, insertion, model.backbone_config, options.max_store_bytes)


def _same_folder(one: Images, other: Images | None) -> bool:
    paths = [Path(images).resolve() for images in (one, other) if isinstance(images, Path | str)]
    return len(paths) == 2 and paths[0] == paths[1]


def _tell(observer: events.Observer, num_done: int, num_images: int) -> None:
    observer(events.ImagesEncoded(num_done, num_images))
