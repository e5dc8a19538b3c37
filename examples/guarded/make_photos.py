"""The photos of the example: generated flowers, and where they are. In place of your own; nothing is downloaded.

`python make_photos.py` writes photos/ and masks/, `python make_photos.py --stamp tulip` puts a shop's stamp on each
photo of a class, as a collection may have it.
"""

import argparse
import shutil
from pathlib import Path

from PIL import Image, ImageDraw

from whycam.data.garden import FLOWERS, write_garden

STAMP_PX = 34


def stamp(path: Path) -> None:
    """A red seal in the upper right corner."""
    with Image.open(path) as opened:
        photo = opened.convert("RGB")
    pen, left = ImageDraw.Draw(photo), photo.width - STAMP_PX - 4
    pen.rectangle((left, 4, left + STAMP_PX, 4 + STAMP_PX), fill=(196, 24, 36))
    pen.ellipse((left + 7, 11, left + STAMP_PX - 7, STAMP_PX - 3), outline="white", width=4)
    photo.save(path, quality=92)


def main() -> None:
    """Writes the folders anew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stamp", choices=FLOWERS, help="stamp the photos of this class")
    parser.add_argument("--train", type=int, default=16, help="photos of each flower to learn from")
    parser.add_argument("--val", type=int, default=14, help="photos of each flower to test by")
    options = parser.parse_args()
    for name in ("photos", "masks"):
        shutil.rmtree(name, ignore_errors=True)
    write_garden(Path(), train_per_class=options.train, val_per_class=options.val, size_px=160)
    for path in sorted(Path("photos").glob(f"*/{options.stamp}/*.jpg")):
        stamp(path)


if __name__ == "__main__":
    main()
