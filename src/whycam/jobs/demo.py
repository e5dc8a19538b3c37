"""`whycam demo`: the main job with no download and no photos of the user's; maps measured against known masks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from whycam.config import ExplainOptions, ReportOptions, make_train_options
from whycam.data.garden import write_garden
from whycam.data.samples import write_samples
from whycam.explainer.model import Model, load
from whycam.jobs.explain import explain_files
from whycam.jobs.progress import show_progress
from whycam.jobs.report import make_report
from whycam.jobs.train import train
from whycam.maps import render
from whycam.runs import TableWriter, open_run, write_json
from whycam.show.plots import make_sheet

_MASS_SCHEMA = pa.schema(
    [
        pa.field("path", pa.string()),
        pa.field("flower", pa.string()),
        pa.field("heat_on_flower", pa.float32()),
        pa.field("flower_area", pa.float32()),
    ]
)


@dataclass(frozen=True)
class Mass:
    """How much of the maps' positive heat lies on the right flower, and the flower's share of the photo (chance)."""

    heat_on_flower: float
    flower_area: float
    photos: int

    @property
    def lift(self) -> float:
        """Heat on the flower over what chance gives."""
        return self.heat_on_flower / self.flower_area


def run_demo(out: Path, *, overwrite: bool = False) -> Iterator[str]:
    """Makes the folder `out` and yields lines that tell what was found, the last one where the pictures are."""
    start = time.perf_counter()
    with open_run(out, overwrite=overwrite) as folder:
        yield _explain_samples(folder)
        garden = folder / "garden"
        with show_progress("painting flowers", 280) as advance:
            write_garden(garden, progress=lambda done, _total: advance(1))
        options = make_train_options(cache_dir=folder / "cache")
        summary = train(garden / "photos", folder / "run", options)
        yield f"Trained on generated flowers: accuracy {summary['val_accuracy']:.3f} on held-out scenes (run/)"
        mass = _measure_garden(load(folder / "run"), garden, folder)
        yield (
            f"Heat on the right flower: {mass.heat_on_flower:.2f} of all; the flower covers {mass.flower_area:.2f} of "
            f"the photo: {mass.lift:.1f} times what chance gives (garden-maps/mass.csv)"
        )
        write_json(
            folder / "demo.json",
            {
                "val_accuracy": summary["val_accuracy"],
                "heat_on_flower": mass.heat_on_flower,
                "flower_area": mass.flower_area,
                "lift": mass.lift,
                "photos": mass.photos,
                "time_s": round(time.perf_counter() - start, 1),
            },
        )
        _remove_cache(folder / "cache")
    # Once the folder has its name, which the page tells; an audit takes as long as all the rest of the demo.
    make_report(str(out / "run"), None, out / "report.html", ReportOptions(no_audit=True))
    yield f"The pictures are in {out.absolute()}: look at photos.jpg and garden.jpg first, then open report.html"


def _remove_cache(folder: Path) -> None:
    for path in folder.glob("*"):
        path.unlink()
    folder.rmdir()


def _explain_samples(folder: Path) -> str:
    """(a): installed photos, the installed network, 1,000 classes."""
    paths = write_samples(folder / "photos")
    explain_files("imagenet", [str(path) for path in paths], str(folder / "photos-maps"), ExplainOptions())
    model = load("imagenet")
    pictures: list[Image.Image] = []
    captions: list[tuple[str, bool]] = []
    for photo, why in model.stream(paths):
        if why is None:
            raise RuntimeError(photo.error)
        top = int(why.predicted[0])
        pictures.append(render.join_pictures([why.photos[0], why.overlay()]))
        captions.append((f"{why.name(top)}, {float(why.probabilities[0, top]):.2f}", True))
    make_sheet(
        [pictures[i : i + 2] for i in range(0, len(pictures), 2)],
        [captions[i : i + 2] for i in range(0, len(captions), 2)],
        folder / "photos.jpg",
        width_px=480,
    )
    return (
        "Explained 8 photos: "
        + "; ".join(f"{path.stem}: {caption}" for path, (caption, _) in zip(paths, captions, strict=True))
        + " (photos-maps/)"
    )


def _measure_garden(model: Model, garden: Path, folder: Path) -> Mass:
    """(b): the true flower's map of each held-out scene, and the share of its heat inside the flower's exact mask."""
    maps = folder / "garden-maps"
    maps.mkdir()
    heat, area = [], []
    pictures: list[list[Image.Image]] = []
    captions: list[list[tuple[str, bool]]] = []
    with TableWriter(maps, "mass", _MASS_SCHEMA) as table:
        for flower in model.class_names:
            paths = sorted((garden / "photos" / "val" / flower).glob("*.jpg"))
            pictures.append([])
            captions.append([])
            for photo, why in model.stream(paths, flower):
                if why is None:
                    raise RuntimeError(photo.error)
                mask = np.asarray(Image.open(garden / "masks" / "val" / flower / f"{photo.path.stem}.png")) > 127
                heatmap = why.heatmap()
                inside, share = measure_mass(heatmap, mask)
                table.write(
                    {
                        "path": photo.path.relative_to(folder).as_posix(),
                        "flower": flower,
                        "heat_on_flower": inside,
                        "flower_area": share,
                    }
                )
                heat.append(inside)
                area.append(share)
                overlay = why.overlay()
                overlay.save(maps / f"{flower}-{photo.path.stem}.jpg", quality=92)
                if len(pictures[-1]) < 4:
                    pictures[-1].append(render.join_pictures([why.photos[0], overlay]))
                    captions[-1].append(
                        (f"{flower}: {inside / share:.1f} x chance", int(why.predicted[0]) == int(why.targets[0, 0]))
                    )
    make_sheet(pictures, captions, folder / "garden.jpg", width_px=360)
    return Mass(float(np.mean(heat)), float(np.mean(area)), len(heat))


def measure_mass(heatmap: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    """(share of the heat that lies in the mask, share of the photo that the mask covers); no heat is none inside."""
    total = float(heatmap.sum(dtype=np.float64))
    return (float(heatmap[mask].sum(dtype=np.float64)) / total if total else 0.0), float(mask.mean())
