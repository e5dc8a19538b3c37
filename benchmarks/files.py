"""Photos on disk to overlays on disk, whole cold processes: the command, and a script on each peer as its README shows.

`python benchmarks/files.py` writes results/files.md and .json. WHYCAM_DATA/flowers/val has the photos. The scripts load
the same EfficientNet-Lite0, take batches of 8, and write overlays of the same size and JPEG quality.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path

from common import RESULTS, ratio, save, write_table

WANTED = {"grad-cam": 6.0, "torchcam": 2.5}
BATCH, QUALITY = 8, 92
COMMON = f"""
    import sys
    from pathlib import Path
    import numpy as np, timm, torch
    from PIL import Image
    from timm.data import create_transform, resolve_model_data_config
    from whycam.model.backbone import read_installed
    model = timm.create_model("tf_efficientnet_lite0")
    model.load_state_dict(read_installed())
    model.eval()
    config = resolve_model_data_config(model)
    transform = create_transform(**config | {{"crop_pct": 1.0, "crop_mode": "squash"}})
    files, out = sorted(Path(sys.argv[1]).rglob("*.jpg")), Path(sys.argv[2])
    out.mkdir()
    for start in range(0, len(files), {BATCH}):
        paths = files[start : start + {BATCH}]
        photos = [Image.open(path).convert("RGB") for path in paths]
        images = torch.stack([transform(photo) for photo in photos])
"""
SCRIPTS = {
    "grad-cam": COMMON
    + f"""
        from pytorch_grad_cam import GradCAM
        from pytorch_grad_cam.utils.image import show_cam_on_image
        with GradCAM(model=model, target_layers=[model.bn2]) as cam:
            maps = cam(input_tensor=images, targets=None)
        for path, photo, heat in zip(paths, photos, maps):
            resized = np.asarray(Image.fromarray(heat).resize(photo.size))
            overlay = show_cam_on_image(np.asarray(photo, dtype=np.float32) / 255, resized, use_rgb=True)
            Image.fromarray(overlay).save(out / path.name, quality={QUALITY})
    """,
    "torchcam": COMMON
    + f"""
        from torchcam.methods import CAM
        from torchcam.utils import overlay_mask
        from torchvision.transforms.functional import to_pil_image
        with CAM(model, model.bn2, fc_layer=model.classifier) as cam, torch.no_grad():
            scores = model(images)
            maps = cam(scores.argmax(1).tolist(), scores)[0]
        for path, photo, heat in zip(paths, photos, maps):
            overlay = overlay_mask(photo, to_pil_image(heat[None], mode="F"), alpha=0.5)
            overlay.save(out / path.name, quality={QUALITY})
    """,
    # The floor: what any way of doing it needs.
    "decode and bare inference": """
    import sys
    from pathlib import Path
    import numpy as np
    from whycam.data.images import load_image
    from whycam.model.onnx.engine import OnnxEngine, find_engine
    engine = OnnxEngine(find_engine("imagenet"))
    files = sorted(Path(sys.argv[1]).rglob("*.jpg"))
    for start in range(0, len(files), 8):
        photos = [load_image(path) for path in files[start : start + 8]]
        engine(np.stack([engine.metadata.preprocess.to_pixels(photo) for photo in photos]))
    """,
}


def list_commands(photos: Path, out: Path) -> dict[str, list[str]]:
    words = ["-m", "whycam", "explain", "imagenet", str(photos), "-o", str(out), "--no-heatmaps"]
    scripts = {name: ["-c", textwrap.dedent(text), str(photos), str(out)] for name, text in SCRIPTS.items()}
    return {"whycam": words, **scripts}


def run(words: Sequence[str], out: Path) -> tuple[float, float]:
    """Seconds of the whole process, and its peak memory in MB."""
    shutil.rmtree(out, ignore_errors=True)
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        assert process.stderr is not None
        raise SystemExit(process.stderr.read().decode())
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def copy_photos(source: Path, folder: Path, count: int) -> Path:
    """`count` photos: those of the source again and again, as files of their own."""
    files = sorted(source.rglob("*.jpg"))
    made = folder / f"{count}"
    made.mkdir()
    for i in range(count):
        shutil.copyfile(files[i % len(files)], made / f"{i:06}.jpg")
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, default=Path(os.environ.get("WHYCAM_DATA", ".")) / "flowers" / "val")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--growth", default="100,1000,10000", help="numbers of photos; empty: none")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    count = len(sorted(args.photos.rglob("*.jpg")))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        out = folder / "out"
        commands = list_commands(args.photos, out)
        first, _ = run([*commands["whycam"], "--engine", "onnx"], out)
        times: dict[str, list[float]] = {key: [] for key in commands}
        for pair in range(args.pairs):
            for key in reversed(commands) if pair % 2 else commands:
                times[key].append(run(commands[key], out)[0])
        growth = []
        for text in filter(None, args.growth.split(",")):
            photos = copy_photos(args.photos, folder, int(text))
            seconds, peak = run(list_commands(photos, out)["whycam"], out)
            growth.append([int(text), seconds, 1000 * seconds / int(text), peak])
            shutil.rmtree(photos)
    medians = {key: statistics.median(values) for key, values in times.items()}
    ratios = {key: ratio(times, key, "whycam") for key in commands}
    lines = [
        "# Files to files",
        f"`python benchmarks/files.py`: {count} photos to overlays on disk, whole cold processes, one after the other;",
        f"medians of {args.pairs} rounds. The graph was in the cache; the process that made it took {first:.1f} s.",
        "",
        *write_table(["process", "seconds", "over whycam"], [[key, medians[key], ratios[key]] for key in commands]),
        "",
        *write_table(
            ["expected at least", "measured", "holds"],
            [
                [f"{k} takes at least {v} x ours", ratios[k], "yes" if ratios[k] >= v else "no"]
                for k, v in WANTED.items()
            ],
        ),
        "",
        "## Growth",
        "",
        *write_table(["photos", "seconds", "ms a photo", "peak memory, MB"], growth),
    ]
    save("files", lines, {"seconds": times, "first_s": first, "growth": growth}, args.out)


if __name__ == "__main__":
    main()
