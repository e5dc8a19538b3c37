"""The stages before and after the model: a shard's number to pixels, and explained rows to a finished file.

They run on cores of their own, on whatever machine has one to spare, and may be run again after a machine is lost:
each shard is read, and written under its name, whole or not at all.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from whycam.data.images import ImageError
from whycam.data.loader import Photo, load_photo, map_ahead
from whycam.data.preprocess import Preprocess
from whycam.data.sources import Source, is_address
from whycam.errors import UserError
from whycam.ray.place import PLAN, Place
from whycam.ray.plan import Plan, name_part
from whycam.ray.table import make_table, to_parquet

# An address answers slowly and takes no core meanwhile.
_READERS = 16


@dataclass(frozen=True)
class Decoder:
    """A place in the list of shards to do -> a row for each photo: path, hash, pixels and size, or why there are none.

    Attributes:
        place, plan: of the run.
        shards: those that are to be done.
        preprocess: the model's.
    """

    place: Place
    plan: Plan
    shards: tuple[int, ...]
    preprocess: Preprocess

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Columns of the photos of one shard; pixels (N, 3, H, W) uint8, zeros where `error` says why.

        Raises:
            UserError: this machine does not see the folder that the run writes to, or reads from.
        """
        shard = self.shards[int(batch["id"][0])]
        self._check_folders()
        sources = self.plan.read_shard(self.place, shard)
        workers = _READERS if any(is_address(source.place) for source in sources) else 1
        found = list(map_ahead(self._read, sources, workers=workers))
        blank = np.zeros((3, self.preprocess.height_px, self.preprocess.width_px), np.uint8)
        sizes = np.array([photo.size_px or (0, 0) for photo, _ in found], np.int32)
        return {
            "shard": np.full(len(found), shard),
            "path": np.array([source.path for source in sources], dtype=object),
            "hash": np.array([digest for _, digest in found], dtype=object),
            "pixels": np.stack([blank if photo.pixels is None else photo.pixels for photo, _ in found]),
            "width_px": sizes[:, 0],
            "height_px": sizes[:, 1],
            "error": np.array([photo.error for photo, _ in found], dtype=object),
        }

    def _read(self, source: Source) -> tuple[Photo, str]:
        """The photo, and the BLAKE2b-128 of its file as `content_hash` has it; empty where there is no file."""
        path = Path(source.path)
        try:
            place = source.read()
            content = place.read_bytes() if isinstance(place, Path) else place
        except ImageError as error:
            return Photo(path, error=str(error)), ""
        except OSError:
            return load_photo(Path(source.place), self.preprocess), ""  # which says what is wrong with it
        # A file by its path, which is then named where it can't be decoded, as on one machine.
        photo = load_photo(path, self.preprocess, read=lambda: place)
        return photo, hashlib.blake2b(content, digest_size=16).hexdigest()

    def _check_folders(self) -> None:
        folder = self.place.folder
        is_there = folder is None or (folder / PLAN).is_file()
        missing = self.plan.root if is_there else str(folder)
        if not is_there or (missing and not Path(missing).is_dir()):
            raise UserError(
                f"The machine '{platform.node()}' does not see '{missing}'; expected a folder that every machine of "
                "the cluster shares. Put it on a shared disk, or give addresses (s3://..) for photos and for -o."
            )


@dataclass(frozen=True)
class Writer:
    """Explained rows of one shard -> its file, and a row that counts them."""

    place: Place
    plan: Plan

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Columns `shard`, `photos`, `unreadable`, `size_bytes`, one row."""
        shard = int(batch["shard"][0])
        count = len(batch["shard"])
        if count != self.plan.counts[shard] or (batch["shard"] != shard).any():
            raise RuntimeError(f"shard {shard} came with {count} rows; it has {self.plan.counts[shard]}")
        content = to_parquet(make_table(batch))
        self.place.write(name_part(shard), content)
        unreadable = sum(map(bool, batch["error"]))
        return {
            name: np.array([value])
            for name, value in {
                "shard": shard,
                "photos": count,
                "unreadable": unreadable,
                "size_bytes": len(content),
            }.items()
        }
