# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # Find a shortcut and cure it
#
# A model may be right for the wrong reason. Here the sunflowers get a seal in their corner, as a photographer's logo would be.
# The model learns the seal; the audit finds it, and training against it takes it away.

# %%
import json
import shutil
from pathlib import Path

from PIL import Image, ImageDraw

import whycam
from whycam.data.garden import write_garden

SEAL_PX = 56


def put_seal(photo: Image.Image) -> Image.Image:
    """A photo with a red seal in its corner."""
    sealed = photo.convert("RGB")
    pen, left = ImageDraw.Draw(sealed), sealed.width - SEAL_PX - 4
    pen.rectangle((left, 4, left + SEAL_PX, 4 + SEAL_PX), fill=(196, 24, 36))
    pen.ellipse((left + 7, 11, left + SEAL_PX - 7, SEAL_PX - 3), outline="white", width=4)
    return sealed


if not Path("sealed").exists():
    write_garden(Path("sealed"), train_per_class=16, val_per_class=14, size_px=160)
    for folder in Path("sealed/photos").glob("*/d*"):
        shutil.rmtree(folder)  # three kinds are enough: roses, sunflowers and tulips
    for file in Path("sealed/photos").glob("*/sunflower/*.jpg"):
        put_seal(Image.open(file)).save(file, quality=92)

# Bars of progress are for terminals.
# %env TERM=dumb

# %%
# !whycam train sealed/photos -o runs/sealed --overwrite

# %% [markdown]
# On held-out photos, which have the seal as well, the model looks perfect. Where does it look?

# %%
model = whycam.load("runs/sealed")
sunflowers = sorted(Path("sealed/photos/val/sunflower").glob("*.jpg"))
model.explain(sunflowers[:6])

# %%
# !whycam audit runs/sealed sealed/photos --kinds shortcut -o audit --overwrite

# %% [markdown]
# A shortcut is convicted by swaps alone: the seal is given to photos of other classes, and taken from sunflowers.

# %%
findings = json.loads(Path("audit/audit.json").read_text())["findings"]
for finding in findings:
    print(finding["title"], finding["detail"], sep="\n  ")
assert any(finding["kind"] == "shortcut" and finding["class"] == "sunflower" for finding in findings)

# %% [markdown]
# The cure that the finding names: the same training, with the sealed places swapped between the classes.

# %%
found = next(finding["id"] for finding in findings if finding["class"] == "sunflower")
# !whycam train sealed/photos -o runs/cured --against audit/audit.json#{found} --overwrite

# %% [markdown]
# Before and after, on photos of other flowers that get the seal: they are no sunflowers.

# %%
others = [put_seal(Image.open(file)) for file in sorted(Path("sealed/photos/val").glob("[!s]*/*.jpg"))]
cured = whycam.load("runs/cured")
for name, one in (("before", model), ("after", cured)):
    taken = (one.explain(others).predicted == one.class_names.index("sunflower")).sum()
    print(f"{name}: {int(taken)} of {len(others)} other flowers are sunflowers by the seal alone")

# %%
some = others[:: len(others) // 4][:4]
whycam.grid(model.explain(some, "sunflower"), cured.explain(some, "sunflower"), names=["before", "after"])
