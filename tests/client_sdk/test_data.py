"""Which folders and datasets a site takes, and what it says about the others."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.client_sdk.harness import CLASSES, IMAGE_SIDE, draw_images

from pfedbayespt.client.data import (
    ImageFolderDataset,
    ImageTableDataset,
    class_counts,
    image_of,
    labels_of,
    open_dataset,
)
from pfedbayespt.client.errors import DatasetError
from pfedbayespt.client.workplace import HELD_OUT_EVERY, ImageOptions, read_splits


class Pairs(torch.utils.data.Dataset[tuple[object, object]]):
    """Any torch dataset."""

    def __init__(self, *pairs: tuple[object, object]) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[object, object]:
        return self.pairs[index]


GREY = Image.new("L", (20, 10), 128)


def test_a_folder_of_class_folders_is_read_in_the_order_of_its_paths(tmp_path: Path) -> None:
    dataset = ImageFolderDataset(draw_images(tmp_path, 2), CLASSES)
    assert len(dataset) == 6
    assert dataset.labels == (0, 0, 1, 1, 2, 2)
    image, label = dataset[4]
    assert (image.size, image.mode, label) == ((IMAGE_SIDE, IMAGE_SIDE), "RGB", 2)


def test_labels_follow_the_federations_order_not_the_alphabet(tmp_path: Path) -> None:
    dataset = ImageFolderDataset(draw_images(tmp_path, 1), ("stripe", "square", "circle"))
    assert dataset.labels == (2, 1, 0)


def test_folders_inside_class_folders_are_searched_and_hidden_files_left_alone(tmp_path: Path) -> None:
    draw_images(tmp_path, 1)
    deeper = tmp_path / "circle" / "2026" / "may"
    deeper.mkdir(parents=True)
    (tmp_path / "circle" / "0-0.png").rename(deeper / "moved.png")
    (tmp_path / "circle" / ".DS_Store").write_bytes(b"x")
    hidden = tmp_path / "circle" / ".thumbnails"
    hidden.mkdir()
    (hidden / "small.png").write_bytes(b"x")
    (tmp_path / ".cache").mkdir()
    assert ImageFolderDataset(tmp_path, CLASSES).labels == (0, 1, 2)


def test_a_folder_that_is_no_class_is_refused_with_the_classes_that_have_none(tmp_path: Path) -> None:
    draw_images(tmp_path, 1, classes=("circle", "sqare", "stripe"))
    with pytest.raises(
        DatasetError, match=r"no class of the federation: 'sqare'; .*without a folder: 'square'"
    ):
        ImageFolderDataset(tmp_path, CLASSES)


def test_a_class_without_a_folder_is_allowed_unless_all_are_required(tmp_path: Path) -> None:
    draw_images(tmp_path, 1, classes=("circle", "stripe"))
    assert ImageFolderDataset(tmp_path, CLASSES).labels == (0, 2)
    with pytest.raises(DatasetError, match="without a folder: 'square'"):
        ImageFolderDataset(tmp_path, CLASSES, require_all_classes=True)


def test_unreadable_files_are_listed_and_skipped_only_when_that_is_allowed(tmp_path: Path) -> None:
    draw_images(tmp_path, 2)
    (tmp_path / "circle" / "notes.txt").write_text("not an image")
    torn = tmp_path / "stripe" / "0-1.png"
    torn.write_bytes(torn.read_bytes()[:100])
    with pytest.raises(DatasetError) as caught:
        ImageFolderDataset(tmp_path, CLASSES)
    message = str(caught.value)
    assert message.startswith("2 files cannot be read as images (skip_unreadable")
    assert str(torn) in message
    assert "notes.txt" in message
    dataset = ImageFolderDataset(tmp_path, CLASSES, skip_unreadable=True)
    assert dataset.labels == (0, 0, 1, 1, 2)
    assert {file.name for file in dataset.unreadable} == {"notes.txt", "0-1.png"}


def test_a_long_list_of_unreadable_files_is_cut(tmp_path: Path) -> None:
    for number in range(15):
        (tmp_path / "circle").mkdir(exist_ok=True)
        (tmp_path / "circle" / f"{number}.png").write_bytes(b"x")
    with pytest.raises(DatasetError, match="and 5 more"):
        ImageFolderDataset(tmp_path, CLASSES)
    with pytest.raises(DatasetError, match="holds no images"):
        ImageFolderDataset(tmp_path, CLASSES, skip_unreadable=True)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda root: None, "is not a folder"),
        (lambda root: root.mkdir(), "holds no class folders"),
        (lambda root: (root / "circle").mkdir(parents=True), "holds no images"),
        (lambda root: root.write_bytes(b""), "is not a folder"),
    ],
)
def test_a_root_that_holds_nothing_says_so(tmp_path: Path, make: object, expected: str) -> None:
    make(tmp_path / "root")  # type: ignore[operator]
    with pytest.raises(DatasetError, match=expected):
        ImageFolderDataset(tmp_path / "root", CLASSES)


def test_any_torch_dataset_may_label_by_position_or_by_name() -> None:
    dataset = Pairs((GREY, 1), (GREY, "stripe"), (GREY, torch.tensor(0)), (GREY, np.int64(2)))
    assert open_dataset(dataset, CLASSES) is dataset
    assert labels_of(dataset, CLASSES) == [1, 2, 0, 2]


@pytest.mark.parametrize("label", [3, -1, "triangle", 1.0, None, torch.tensor(1.5)])
def test_a_label_that_is_no_class_is_refused_with_its_position(label: object) -> None:
    with pytest.raises(
        DatasetError, match=r"image 1 has label .*allowed: 0 to 2, or one of 'circle', 'square'"
    ):
        labels_of(Pairs((GREY, 0), (GREY, label)), CLASSES)


def test_images_may_be_pil_images_of_any_mode_or_pixel_tensors() -> None:
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (3, 10, 20), dtype=torch.uint8, generator=random)
    image = image_of(pixels, 0)
    assert image.size == (20, 10)
    assert torch.equal(torch.from_numpy(np.array(image)).permute(2, 0, 1), pixels)
    assert np.array_equal(np.array(image_of(pixels / 255, 0)), np.array(image))
    assert image_of(GREY, 0).mode == "RGB"


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0)), "not normalised"),
        (torch.full((3, 8, 8), float("nan")), "not normalised"),
        (torch.zeros(8, 8, 3), r"shape \[8, 8, 3\]; allowed: \[3, H, W\]"),
        (torch.zeros(1, 3, 8, 8), "shape"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), "int64"),
        (np.zeros((3, 8, 8)), "is a ndarray"),
    ],
)
def test_an_image_of_another_form_is_refused(item: object, expected: str) -> None:
    with pytest.raises(DatasetError, match=f"image 7 .*{expected}"):
        image_of(item, 7)


def test_without_held_out_images_the_same_tenth_is_held_out_every_time(tmp_path: Path) -> None:
    root = draw_images(tmp_path, 20)
    training, held_out = read_splits(root, None, CLASSES, ImageOptions())
    assert (len(training.labels), len(held_out.labels)) == (54, 6)
    assert held_out.labels == [0, 0, 1, 1, 2, 2]
    everything = ImageFolderDataset(root, CLASSES)
    assert np.array_equal(held_out.dataset[0][0], everything[HELD_OUT_EVERY - 1][0])
    assert read_splits(root, None, CLASSES, ImageOptions())[1].labels == held_out.labels


def test_with_held_out_images_all_training_images_are_trained_on(tmp_path: Path) -> None:
    train, held_out = draw_images(tmp_path / "a", 4), draw_images(tmp_path / "b", 1)
    parts = read_splits(train, held_out, CLASSES, ImageOptions())
    assert [len(part.labels) for part in parts] == [12, 3]


def test_an_empty_dataset_is_refused() -> None:
    with pytest.raises(DatasetError, match="no images"):
        read_splits(Pairs(), None, CLASSES, ImageOptions())


def test_counts_name_every_class() -> None:
    assert class_counts([2, 0, 2], CLASSES) == {"circle": 1, "square": 0, "stripe": 2}


def test_the_same_folder_for_training_and_for_evaluation_is_refused(tmp_path: Path) -> None:
    root = draw_images(tmp_path / "images", 4)
    with pytest.raises(DatasetError, match="held out at once"):
        read_splits(root, tmp_path / "images" / ".." / "images", CLASSES, ImageOptions())


def test_what_is_neither_folder_nor_dataset_is_refused() -> None:
    with pytest.raises(DatasetError, match="generator is no dataset"):
        open_dataset((pair for pair in ()), CLASSES)  # type: ignore[arg-type]


def table_in(folder: Path, *lines: str, header: str = "path,label") -> Path:
    table = folder / "images.csv"
    table.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return table


def test_a_table_names_images_by_paths_from_its_own_folder_or_from_the_root(tmp_path: Path) -> None:
    draw_images(tmp_path, 2)
    there = tmp_path / "circle" / "0-1.png"
    table = table_in(
        tmp_path, "stripe/0-0.png,ward 3,stripe", f"{there},,circle", header="\ufeffpath,remark,label"
    )
    dataset = open_dataset(table, CLASSES)
    assert isinstance(dataset, ImageTableDataset)
    assert dataset.labels == (2, 0), "in the order of the lines"
    image, label = dataset[1]
    assert (image.size, label) == ((IMAGE_SIDE, IMAGE_SIDE), 0)
    assert labels_of(dataset, CLASSES) == [2, 0]


def test_everything_that_is_wrong_with_a_table_is_told_at_once_and_once(tmp_path: Path) -> None:
    draw_images(tmp_path, 1)
    (tmp_path / "broken.png").write_bytes(b"broken")
    table = table_in(
        tmp_path,
        "circle/0-0.png,circle",
        "circle/0-0.png,circle",
        "square/0-0.png,sqare",
        "stripe/0-0.png,sqare",
        "broken.png,circle",
        "gone.png,circle",
    )
    with pytest.raises(DatasetError) as refused:
        open_dataset(table, CLASSES)
    told = str(refused.value)
    assert told.count("'sqare'") == 1
    assert told.count("named more than once") == 1
    assert told.count("broken.png") == told.count("gone.png") == 1
    assert "classes without a label: 'square', 'stripe'" in told


def test_unreadable_images_of_a_table_are_left_out_where_that_is_allowed(tmp_path: Path) -> None:
    draw_images(tmp_path, 1)
    table = table_in(tmp_path, "circle/0-0.png,circle", "gone.png,square")
    dataset = open_dataset(table, CLASSES, skip_unreadable=True)
    assert (len(dataset), list(dataset.unreadable)) == (1, [tmp_path / "gone.png"])  # type: ignore[attr-defined]
    with pytest.raises(DatasetError, match="classes without a label: 'stripe'"):
        open_dataset(table, CLASSES, skip_unreadable=True, require_all_classes=True)


@pytest.mark.parametrize(
    ("header", "line", "told"),
    [
        ("file,class", "a.png,circle", "no column 'label', 'path'; needed: path, label"),
        ("path,label", "a.png,", "no path or no label in lines 2"),
        ("path,label", ",circle", "no path or no label in lines 2"),
        ("path,label", "", "names no images"),
    ],
)
def test_a_table_without_what_is_needed_says_so(tmp_path: Path, header: str, line: str, told: str) -> None:
    with pytest.raises(DatasetError, match=told):
        open_dataset(table_in(tmp_path, line, header=header), CLASSES)


def test_a_table_that_is_no_text_or_not_there_says_so(tmp_path: Path) -> None:
    (tmp_path / "images.csv").write_bytes(b"\xff\xfe\x00")
    for name in ("images.csv", "gone.csv"):
        with pytest.raises(DatasetError, match="cannot be read as CSV"):
            open_dataset(tmp_path / name, CLASSES)


def test_a_folders_faults_are_told_at_once_too(tmp_path: Path) -> None:
    draw_images(tmp_path, 1, classes=("circle", "triangle"))
    (tmp_path / "circle" / "broken.png").write_bytes(b"broken")
    with pytest.raises(DatasetError, match=r"(?s)'triangle'.*1 files cannot be read.*broken\.png"):
        open_dataset(tmp_path, CLASSES)
