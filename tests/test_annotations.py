"""Boxes and masks from files, put to photos and to the network's input; what does not fit is told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from whycam.data.annotations import Annotation, AnnotationError, draw_segments, read_boxes, read_coco, read_photos
from whycam.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of two photos, 40 x 20 px."""
    for name in ("cat/a.jpg", "cat/b.jpg", "dog/a.jpg", "dog/c.jpg"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 20), "red").save(path)
    return tmp_path / "photos"


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_folders_are_classes(folder: Path) -> None:
    found = read_photos(folder)
    assert [(a.photo.name, a.classes) for a in found] == [
        ("a.jpg", ("cat",)),
        ("b.jpg", ("cat",)),
        ("a.jpg", ("dog",)),
        ("c.jpg", ("dog",)),
    ]
    assert [a.classes for a in read_photos(folder / "cat")] == [None, None]
    folder.rename(folder.parent / "val")
    assert [a.classes for a in read_photos(folder.parent)] == [("cat",), ("cat",), ("dog",), ("dog",)]


def test_boxes_of_a_table(folder: Path) -> None:
    table = write(
        folder / "boxes.csv", 'file,label,w,h,boxes\ncat/a.jpg,tabby,40,20,"1 2 11 12;20 0 30 9"\nc.jpg,7,,,\n'
    )
    found = {(a.photo.parent.name, a.photo.name): a for a in read_photos(folder, boxes=table)}
    assert found["cat", "a.jpg"].boxes == ((1, 2, 11, 12), (20, 0, 30, 9))
    assert found["cat", "a.jpg"].classes == ("tabby",)
    assert found["cat", "a.jpg"].size == (40, 20)
    assert found["dog", "c.jpg"].classes == ("7",)
    assert not found["dog", "c.jpg"].has_truth
    assert found["dog", "a.jpg"].classes == ("dog",)
    truth = found["cat", "a.jpg"].fit((40, 20), (80, 80))
    assert truth.boxes.tolist() == [[2, 8, 22, 48], [40, 0, 60, 36]]
    assert truth.region.sum() == 20 * 40 + 20 * 36


def test_corners_in_columns_and_masks_with_a_value(folder: Path) -> None:
    mask = np.zeros((20, 40), dtype=np.uint8)
    mask[5:10, 10:20], mask[0, 0] = 64, 1
    Image.fromarray(mask).save(folder / "mask.png")
    rows = (
        "image,imagenet,x0,y0,x1,y1,mask,mask_value\ncat/b.jpg,664 782,10,5,20,10,mask.png,64\ndog/a.jpg,,1,1,3,3,,\n"
    )
    first, second = read_boxes(write(folder / "objects.csv", rows))
    assert first.classes == ("664", "782")
    assert second.classes == ()
    truth = first.fit((40, 20), (20, 40))
    assert truth.mask is not None
    assert truth.mask.sum() == 50


def test_masks_of_a_folder(folder: Path) -> None:
    masks = folder.parent / "masks"
    (masks / "cat").mkdir(parents=True)
    drawn = np.zeros((20, 40), dtype=np.uint8)
    drawn[:10], drawn[15:, :5] = 255, 1
    Image.fromarray(drawn).save(masks / "cat" / "a.png")
    found = read_photos(folder, masks=masks)
    assert [a.has_truth for a in found] == [True, False, False, False]
    truth = found[0].fit((40, 20), (20, 40))
    assert truth.boxes.tolist() == [[0, 0, 40, 10], [0, 15, 5, 20]]
    (masks / "cat" / "a.png").rename(masks / "x.png")
    with pytest.raises(UserError, match="none of the name of a photo"):
        read_photos(folder, masks=masks)


def test_coco(folder: Path) -> None:
    square = [10, 5, 20, 5, 20, 10, 10, 10]
    content = {
        "images": [{"id": 1, "file_name": "cat/a.jpg", "width": 40, "height": 20}],
        "categories": [{"id": 3, "name": "cat"}, {"id": 4, "name": "sofa"}],
        "annotations": [
            {"image_id": 1, "category_id": 3, "bbox": [10, 5, 10, 5], "segmentation": [square]},
            {"image_id": 1, "category_id": 3, "bbox": [0, 0, 4, 4], "segmentation": {"counts": [0, 2, 798]}},
            {"image_id": 1, "category_id": 4, "bbox": [1, 1, 2, 2]},
        ],
    }
    path = write(folder / "coco.json", json.dumps(content))
    cat, sofa = read_coco(path)
    assert cat.boxes == ((10, 5, 20, 10), (0, 0, 4, 4))
    assert cat.classes == ("cat",)
    truth = cat.fit((40, 20), (20, 40))
    assert truth.mask is not None
    assert truth.mask[7, 15]
    assert truth.mask[:3, 0].tolist() == [True, True, False]
    assert not truth.mask[15, 30]
    assert sofa.mask is None
    # A photo with two classes comes twice, the others once.
    assert len(read_photos(folder, coco=path)) == 5
    with pytest.raises(UserError, match="COCO"):
        read_coco(write(folder / "bad.json", "[]"))
    for word, what in (("category_id", "category"), ("image_id", "photo")):
        objects = [*content["annotations"], {**content["annotations"][0], word: 77}]
        with pytest.raises(UserError, match=f"1 annotations of the {what} 77, which its list of .* lacks"):
            read_coco(write(folder / "bad.json", json.dumps({**content, "annotations": objects})))


def test_compressed_runs() -> None:
    """Runs 3, 40, 5, 2 and 750: the fourth and fifth are differences to those two before."""
    text = encode([3, 40, 5, 2, 750])
    drawn = draw_segments([{"counts": text}], (40, 20)).T.ravel()  # column by column
    assert np.flatnonzero(drawn).tolist() == [*range(3, 43), 48, 49]


def encode(runs: list[int]) -> str:
    """COCO's own text, written from its description."""
    text = ""
    for k, run in enumerate(runs):
        value = run - runs[k - 2] if k > 2 else run
        while True:
            bits, value = value & 31, value >> 5
            is_last = value == (-1 if bits & 16 else 0)
            text += chr(48 + (bits if is_last else bits | 32))
            if is_last:
                break
    return text


def test_what_does_not_fit_is_told(folder: Path) -> None:
    photo = folder / "cat" / "a.jpg"
    clipped = Annotation(photo, boxes=((30.0, 10.0, 90.0, 90.0),)).fit((40, 20), (20, 40))
    assert clipped.boxes.tolist() == [[30, 10, 40, 20]]
    mask = folder / "mask.png"
    Image.new("L", (20, 40), 1).save(mask)
    bad = {
        "outside": Annotation(photo, boxes=((41.0, 0.0, 50.0, 10.0),)),
        "another size": Annotation(photo, boxes=((0.0, 0.0, 5.0, 5.0),), size=(20, 20)),
        "mask of another size": Annotation(photo, mask=mask),
        "without a pixel": Annotation(photo, mask=lambda: np.zeros((20, 40), dtype=bool)),
        "can't be read": Annotation(photo, mask=folder / "none.png"),
    }
    for told, annotation in bad.items():
        with pytest.raises(AnnotationError, match=told):
            annotation.fit((40, 20), (20, 40))


def test_tables_that_are_none(folder: Path) -> None:
    with pytest.raises(UserError, match="columns name, kind"):
        read_boxes(write(folder / "a.csv", "name,kind\nx,y\n"))
    with pytest.raises(UserError, match="Line 2"):
        read_boxes(write(folder / "b.csv", "file,boxes\ncat/a.jpg,1 2 three 4\n"))
    with pytest.raises(UserError, match="can't be read"):
        read_boxes(folder / "missing.csv")
    with pytest.raises(UserError, match="Not one of the 1 photos"):
        read_photos(folder, boxes=write(folder / "c.csv", "file,boxes\nelsewhere.jpg,1 2 3 4\n"))
