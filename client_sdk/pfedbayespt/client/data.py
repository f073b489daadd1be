"""A site's images: a folder of class folders, a CSV file of paths and labels, or any dataset of (image, label).

Rules:
1. Labels are positions in the federation's list of classes, or their names; anything else is refused by name.
2. Images pass the same gates as those of a prediction request, whoever put them on the disk.
3. An image that cannot be read is listed, and left out only where that was allowed. All faults are told at once,
   each once.
4. Pixels go in as they are in the file: sizing and normalisation belong to the federation, not to the site.
"""

import csv
import operator
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from PIL import Image
from torch import Tensor

from pfedbayespt.client.errors import DatasetError
from pfedbayespt.model.images import ImageError, read_image

MIN_TRAINING_IMAGES = 8
"""An update computed from fewer describes the images themselves rather than what they have in common."""
_LISTED = 10


@runtime_checkable
class LabelledImages(Protocol):
    """What a torch map-style `Dataset` offers: a length, and (PIL image or pixel tensor, label) by position.

    A pixel tensor is uint8 in [0, 255] or floating in [0, 1], of shape [3, H, W], any size, not normalised.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Any, Any]: ...


class ImageFolderDataset:
    """Images in one folder per class; hidden files are left alone, folders inside class folders are searched.

    Args:
        root: holds the class folders, each named like a class of the federation.
        classes: the federation's classes, in its order.
        require_all_classes: refuse a root in which a class has no folder.
        skip_unreadable: leave out what is no readable image instead of refusing the folder.

    Attributes:
        files: the images, sorted by path.
        labels: the position in `classes` of each.
        unreadable: what was left out, and why.

    Raises:
        DatasetError: no images, a folder that is no class, a class without a folder, or an unreadable image.
    """

    def __init__(
        self,
        root: Path | str,
        classes: Sequence[str],
        *,
        require_all_classes: bool = False,
        skip_unreadable: bool = False,
    ) -> None:
        self.root = Path(root)
        self.classes = tuple(classes)
        folders = _class_folders(self.root)
        names = [folder.name for folder in folders]
        faults = _class_faults(self.root, names, self.classes, "folder", require_all=require_all_classes)
        found = [(file, folder.name) for folder in folders for file in _files_below(folder)]
        self.unreadable = _unreadable(file for file, _ in found)
        _refuse(faults, {} if skip_unreadable else self.unreadable)
        kept = [(file, name) for file, name in found if file not in self.unreadable]
        if not kept:
            raise DatasetError(f"{self.root} holds no images; put them into one folder per class")
        positions = {name: position for position, name in enumerate(self.classes)}
        self.files = tuple(file for file, _ in kept)
        self.labels = tuple(positions[name] for _, name in kept)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int, /) -> tuple[Image.Image, int]:
        return read_image(self.files[index].read_bytes()), self.labels[index]


class ImageTableDataset:
    """Images named by a CSV file with the columns `path` and `label`; any further columns are left alone.

    Args:
        table: the file, UTF-8 with a header line; a path that is not absolute starts at the file's folder.
        classes: the federation's classes, in its order.
        require_all_classes: refuse a table in which a class has no image.
        skip_unreadable: leave out what is no readable image instead of refusing the table.

    Attributes:
        files: the images, in the order of the lines.
        labels: the position in `classes` of each.
        unreadable: what was left out, and why.

    Raises:
        DatasetError: no images, a missing column, a label that is no class, a path twice, an unreadable image.
    """

    def __init__(
        self,
        table: Path | str,
        classes: Sequence[str],
        *,
        require_all_classes: bool = False,
        skip_unreadable: bool = False,
    ) -> None:
        self.table = Path(table)
        self.classes = tuple(classes)
        rows = _read_table(self.table)
        files, labels = [file for file, _ in rows], [label for _, label in rows]
        faults = _class_faults(self.table, labels, self.classes, "label", require_all=require_all_classes)
        self.unreadable = _unreadable(files)
        _refuse(faults + _repeat_faults(self.table, files), {} if skip_unreadable else self.unreadable)
        kept = [(file, label) for file, label in rows if file not in self.unreadable]
        if not kept:
            raise DatasetError(f"{self.table} names no images")
        self.files = tuple(file for file, _ in kept)
        self.labels = tuple(self.classes.index(label) for _, label in kept)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int, /) -> tuple[Image.Image, int]:
        return read_image(self.files[index].read_bytes()), self.labels[index]


ImageFiles = ImageFolderDataset | ImageTableDataset


def open_dataset(
    source: LabelledImages | Path | str,
    classes: Sequence[str],
    *,
    require_all_classes: bool = False,
    skip_unreadable: bool = False,
) -> LabelledImages:
    """Return `source` if it is a dataset, or the dataset of a path: of a `.csv` file or of a folder.

    Raises:
        DatasetError: it is none of these, or the files cannot be used.
    """
    if isinstance(source, Path | str):
        kind = ImageTableDataset if Path(source).suffix.lower() == ".csv" else ImageFolderDataset
        return kind(source, classes, require_all_classes=require_all_classes, skip_unreadable=skip_unreadable)
    if not isinstance(source, LabelledImages):
        raise DatasetError(
            f"{type(source).__name__} is no dataset; allowed: a folder, a CSV file, or a map-style Dataset"
        )
    return source


def labels_of(dataset: LabelledImages, classes: Sequence[str]) -> list[int]:
    """Return the position in `classes` of each label.

    Raises:
        DatasetError: a label is neither a class nor the position of one.
    """
    if isinstance(dataset, ImageFiles):
        return list(dataset.labels)
    return [_position_of(dataset[index][1], index, classes) for index in range(len(dataset))]


def check_training_size(num_images: int) -> None:
    """Return if a site may train on so many images.

    Raises:
        DatasetError: they are too few.
    """
    if num_images < MIN_TRAINING_IMAGES:
        raise DatasetError(
            f"{num_images} training images are too few; allowed: {MIN_TRAINING_IMAGES} or more"
        )


def image_of(item: object, index: int) -> Image.Image:
    """Return the image that a dataset gave, in RGB.

    Raises:
        DatasetError: it is neither a PIL image nor a pixel tensor.
    """
    if isinstance(item, Image.Image):
        return item.convert("RGB")
    if not isinstance(item, Tensor):
        raise DatasetError(f"image {index} is a {type(item).__name__}; allowed: a PIL image or a tensor")
    if item.dim() != 3 or item.shape[0] != 3:
        raise DatasetError(f"image {index} has shape {list(item.shape)}; allowed: [3, H, W]")
    return Image.fromarray(_pixels(item, index).permute(1, 2, 0).contiguous().cpu().numpy())


def class_counts(labels: Iterable[int], classes: Sequence[str]) -> dict[str, int]:
    """Return how many images each class has, in the federation's order, classes without images included."""
    counts = Counter(labels)
    return {name: counts[position] for position, name in enumerate(classes)}


def _pixels(item: Tensor, index: int) -> Tensor:
    if item.dtype == torch.uint8:
        return item
    if not item.is_floating_point() or not bool(((item >= 0) & (item <= 1)).all()):
        raise DatasetError(
            f"image {index} is {item.dtype} from {item.min():.3g} to {item.max():.3g}; allowed: uint8 in [0, 255] "
            "or floating in [0, 1], not normalised"
        )
    return (item * 255).round().to(torch.uint8)


def _position_of(label: object, index: int, classes: Sequence[str]) -> int:
    if isinstance(label, str) and label in classes:
        return classes.index(label)
    try:
        position = operator.index(label)  # type: ignore[arg-type] # refuses what is no integer
    except TypeError:
        position = -1
    if not 0 <= position < len(classes):
        raise DatasetError(
            f"image {index} has label {label!r}; allowed: 0 to {len(classes) - 1}, or one of {_listing(classes)}"
        )
    return position


def _class_folders(root: Path) -> list[Path]:
    if not root.is_dir():
        raise DatasetError(f"{root} is not a folder")
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not folders:
        raise DatasetError(f"{root} holds no class folders; put the images into one folder per class")
    return folders


def _class_faults(
    source: Path, names: Sequence[str], classes: Sequence[str], what: str, *, require_all: bool
) -> list[str]:
    """Say which names are no class, and then also, or where it matters, which classes have no name."""
    unknown, missing = sorted(set(names) - set(classes)), sorted(set(classes) - set(names))
    faults = []
    if unknown:
        faults.append(f"{what}s that are no class of the federation: {_listing(unknown)}")
    if missing and (unknown or require_all):
        faults.append(f"classes without a {what}: {_listing(missing)}")
    return [f"{source}: " + "; ".join(faults)] if faults else []


def _repeat_faults(table: Path, files: Sequence[Path]) -> list[str]:
    repeated = sorted(str(file) for file, count in Counter(files).items() if count > 1)
    return [f"{table}: named more than once: {_listing(repeated)}"] if repeated else []


def _unreadable(files: Iterable[Path]) -> dict[Path, str]:
    return {file: fault for file in files if (fault := _fault_of(file)) is not None}


def _refuse(faults: Sequence[str], unreadable: dict[Path, str]) -> None:
    """Raise everything that is wrong, if anything is."""
    told = [*faults, *([_describe_unreadable(unreadable)] if unreadable else [])]
    if told:
        raise DatasetError("\n".join(told))


def _read_table(table: Path) -> list[tuple[Path, str]]:
    try:
        with table.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            missing = {"path", "label"} - set(reader.fieldnames or ())
            if missing:
                raise DatasetError(f"{table} has no column {_listing(sorted(missing))}; needed: path, label")
            rows = [(row["path"] or "", row["label"] or "") for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{table} cannot be read as CSV: {error}") from error
    empty = [number for number, row in enumerate(rows, start=2) if not all(row)]
    if empty:
        raise DatasetError(f"{table}: no path or no label in lines {_listing(empty)}")
    return [(table.parent / path, label) for path, label in rows]


def _files_below(folder: Path) -> list[Path]:
    """Return the regular files below `folder`, sorted, without hidden ones."""
    below = (path for path in folder.rglob("*") if path.is_file())
    return sorted(
        path for path in below if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def _fault_of(file: Path) -> str | None:
    try:
        read_image(file.read_bytes())
    except ImageError as error:
        return str(error)
    except OSError as error:
        return error.strerror or str(error)
    return None


def _describe_unreadable(unreadable: dict[Path, str]) -> str:
    lines = [f"  {file}: {fault}" for file, fault in list(unreadable.items())[:_LISTED]]
    if len(unreadable) > _LISTED:
        lines.append(f"  and {len(unreadable) - _LISTED} more")
    return "\n".join(
        [f"{len(unreadable)} files cannot be read as images (skip_unreadable leaves them out):", *lines]
    )


def _listing(names: Sequence[object]) -> str:
    shown = ", ".join(repr(name) for name in names[:_LISTED])
    return f"{shown} and {len(names) - _LISTED} more" if len(names) > _LISTED else shown
