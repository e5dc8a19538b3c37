"""The photos that the audit's benchmark trains and audits on: pools of classes, drawn into training, audit and rest.

Add a pool as one function in `POOLS`: (sources) -> class name -> its photos.
"""

from __future__ import annotations

import csv
import zlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
from PIL import Image

from whycam.data.backdrops import BACKDROPS
from whycam.data.folder import Sample
from whycam.data.garden import FLOWERS, make_scene
from whycam.data.images import load_image

# Every photo of a planted training, with a cause or without, is saved so: how files are written tells no class.
QUALITY = 93
SCENE_PX, SCENES, FIRST_SCENE = 224, 270, 7_000_000
LEAST_AUDITED = 8
# ImageNet's 1,000 classes stand in the order of WordNet: ranges of them are kinds of things.
IMAGENET_GROUPS: dict[str, str] = {
    "fish": "0-6 389-397",
    "land-birds": "7-24 80-96",
    "water-birds": "97-100 127-146",
    "reptiles": "25-68",
    "spiders-shells": "69-79 107-126",
    "hounds": "151-178",
    "terriers": "179-204",
    "gun-dogs": "205-222",
    "shepherd-dogs": "223-244",
    "large-dogs": "245-268",
    "cats-and-wild-dogs": "269-293",
    "insects": "300-326",
    "rodents-and-hoofed": "330-364",
    "monkeys": "365-384",
    "food": "924-966",
    "buildings": "425 442 449 483 497 498 525 538 580 624 649 663 668 682 698 716 718 727 743 821 825 832 839 853 "
    "858 863 873 888 900 912 915",
    "furniture": "423 431 435 453 493 495 516 520 526 532 539 548 553 556 559 564 598 619 648 669 703 736 741 750 "
    "765 789 794 831 846 854 857 861 876 894 896 904 905",
    "clothing": "399-400 411 433 439 445 451 457 459 474 501 502 514 515 518 560 568 578 601 608 610 614 615 617 "
    "630 638 639 643 652 655 658 667 689 697 735 770 774 775 785 793 796 806 808 834 836 837 840-842 "
    "869 887 903 906",
    "devices": "409 481 482 485 487 508 527 528 530 531 545 550 590 592 605 607 620 632 650 651 662 664 673 681 "
    "688 707 713 732 740 742 745 753-755 759-761 778 782 786 811 827 844 848 851 859 878 882 886 892 "
    "897",
    "vessels": "412 428 438 440 441 463 469 503-505 521 544 567 572 588 591 618 647 653 659 680 709 719 720 725 "
    "728 729 731 737 738 748 756 766 773 804 809 828 849 868 883 893 898 899 901 907 909 910 923 "
    "967-969",
    "vehicles": "407 408 436 444 466 468 511 555 561 569 573 575 586 603 609 612 627 654 656 661 665 670 671 675 "
    "705 717 734 751 757 779 802 803 817 820 829 847 864 866 867 870 874 880",
}


@dataclass(frozen=True)
class Photo:
    """One photo of a pool, as it was found or generated."""

    pool: str
    class_name: str
    path: Path

    def load(self) -> Image.Image:
        """Its RGB image."""
        return load_image(self.path).convert("RGB")

    def before(self, ground: str) -> Image.Image:
        """Of the garden: the same flowers in the same light, before another ground."""
        return make_scene_before(self.class_name, int(self.path.stem), ground)


@dataclass(frozen=True)
class Split:
    """A training's photos by class: trained on, audited, and neither."""

    class_names: tuple[str, ...]
    train: tuple[tuple[Photo, ...], ...]
    audited: tuple[tuple[Photo, ...], ...]
    rest: tuple[tuple[Photo, ...], ...]

    def held_out(self, label: int) -> tuple[Photo, ...]:
        """Photos of the class that were not trained on, those that are not audited first."""
        return self.rest[label] + self.audited[label]


def make_scene_before(flower: str, seed: int, ground: str) -> Image.Image:
    """A garden scene whose ground is of that kind; the flowers and the camera are those of the seed."""
    with patch.dict(BACKDROPS, {ground: BACKDROPS[ground]}, clear=True):
        return make_scene(flower, seed, SCENE_PX).image


def list_flowers(data: Path, work: Path) -> dict[str, list[Path]]:
    """Real flowers: 270 photos in each of five classes."""
    root = data / "flowers"
    names = sorted(folder.name for folder in (root / "train").iterdir())
    return {name: sorted([*(root / "train" / name).iterdir(), *(root / "val" / name).iterdir()]) for name in names}


def list_garden(data: Path, work: Path) -> dict[str, list[Path]]:
    """Generated scenes, before any ground; painted once."""
    found: dict[str, list[Path]] = {}
    for row, flower in enumerate(FLOWERS):
        folder = work / "scenes" / flower
        folder.mkdir(parents=True, exist_ok=True)
        found[flower] = [folder / f"{FIRST_SCENE + 1000 * row + i}.png" for i in range(SCENES)]
        for path in found[flower]:
            if not path.exists():
                save_whole(make_scene(flower, int(path.stem), SCENE_PX).image, path)
    return found


def list_xrays(data: Path, work: Path) -> dict[str, list[Path]]:
    """The two classes whose files are alike, 80 each."""
    return {name: sorted((data / "xray3" / name).iterdir()) for name in ("No_findings", "Pneumonia")}


def list_imagenet(data: Path, work: Path) -> dict[str, list[Path]]:
    """650 validation photos of ImageNet in classes of what is akin, of unequal sizes."""
    root = data / "imagenet_val650"
    by_label: dict[int, list[Path]] = defaultdict(list)
    with (root / "boxes.csv").open() as file:
        for row in csv.DictReader(file):
            by_label[int(row["label"])].append(root / row["file"])
    return {
        name: sorted(path for k in read_ranges(text) for path in by_label[k]) for name, text in IMAGENET_GROUPS.items()
    }


def read_ranges(text: str) -> list[int]:
    """The numbers of '0-2 5': 0, 1, 2, 5."""
    pairs = [part.split("-") for part in text.split()]
    return [k for pair in pairs for k in range(int(pair[0]), int(pair[-1]) + 1)]


POOLS: dict[str, Callable[[Path, Path], dict[str, list[Path]]]] = {
    "flowers": list_flowers,
    "garden": list_garden,
    "xray": list_xrays,
    "imagenet": list_imagenet,
}


def draw_split(
    pool: str, seed: int, *, data: Path, work: Path, classes: int, train: int, audited: int, is_balanced: bool
) -> Split:
    """So many classes of a pool, and so many photos of each; fewer of some where it is not to be balanced."""
    draw = np.random.default_rng([3, zlib.crc32(pool.encode()), seed])
    found = POOLS[pool](data, work)
    names = sorted(draw.permutation(sorted(found))[:classes].tolist())
    shares = np.ones(len(names)) if is_balanced else np.resize([1, 0.5, 0.25, 0.75], len(names))
    parts: list[list[tuple[Photo, ...]]] = [[], [], []]
    for name, share in zip(names, draw.permutation(shares), strict=True):
        photos = [Photo(pool, name, found[name][i]) for i in draw.permutation(len(found[name]))]
        first = min(max(LEAST_AUDITED, round(train * share)), len(photos) // 2 if len(photos) < 200 else len(photos))
        last = first + max(LEAST_AUDITED, round(audited * share))
        for part, some in zip(parts, (photos[:first], photos[first:last], photos[last:]), strict=True):
            part.append(tuple(some))
    return Split(tuple(names), *(tuple(part) for part in parts))


def save_whole(image: Image.Image, path: Path, **how: int) -> Path:
    """The file, there whole or not at all, as several processes may write it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{zlib.crc32(str(path).encode())}-{np.random.default_rng().integers(2**40)}{path.suffix}")
    image.save(part, **how)
    return part.replace(path)


def keep_plain(photo: Photo, work: Path) -> Path:
    """The photo without any cause, saved as all photos of planted trainings are."""
    path = work / "plain" / photo.pool / photo.class_name / f"{photo.path.stem}.jpg"
    return path if path.exists() else save_whole(photo.load(), path, quality=QUALITY)


def to_samples(photos: Sequence[Sequence[Path]]) -> list[Sample]:
    """Samples of photos by class."""
    return [Sample(path, label) for label, some in enumerate(photos) for path in some]
