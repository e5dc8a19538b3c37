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
# A model may be right for the wrong reason. Here the tulips get a stamp in their corner, as a photographer's logo would be.
# The model learns the stamp; the audit finds it, and training against it takes it away.

# %%
import json
from pathlib import Path

import numpy as np
from PIL import Image

import whycam
from whycam.data.garden import write_garden

GARDEN = Path("stamped")
if not GARDEN.exists():
    write_garden(GARDEN, train_per_class=30, val_per_class=16, size_px=160)
    for file in GARDEN.glob("photos/*/tulip/*.jpg"):
        pixels = np.array(Image.open(file))
        pixels[6:32, -32:-6] = [200, 30, 40]
        pixels[12:26, -26:-12] = 255
        Image.fromarray(pixels).save(file, quality=95)

# Bars of progress are for terminals.
# %env TERM=dumb

# %%
# !whycam train stamped/photos -o runs/stamped --overwrite

# %% [markdown]
# On held-out photos, which have the stamp as well, the model looks perfect. Where does it look?

# %%
model = whycam.load("runs/stamped")
tulips = sorted(Path("stamped/photos/val/tulip").glob("*.jpg"))
model.explain(tulips[:6])

# %%
# !whycam audit runs/stamped stamped/photos --kinds shortcut -o audit --overwrite

# %% [markdown]
# A shortcut is convicted by swaps alone: the stamp is given to photos of other classes, and taken from tulips.

# %%
findings = json.loads(Path("audit/audit.json").read_text())["findings"]
for finding in findings:
    print(finding["title"], finding["detail"], sep="\n  ")
assert any(finding["kind"] == "shortcut" and finding["class"] == "tulip" for finding in findings)

# %% [markdown]
# The cure that the finding names: the same training, with the stamped places swapped between the classes.

# %%
number = next(i for i, finding in enumerate(findings) if finding["class"] == "tulip")
# !whycam train stamped/photos -o runs/cured --against audit/audit.json#{number} --overwrite

# %% [markdown]
# Before and after, on photos of other flowers that get the stamp: they are no tulips.


# %%
def put_stamp(file: Path) -> Image.Image:
    """A photo with the tulips' stamp."""
    pixels = np.array(Image.open(file))
    pixels[6:32, -32:-6] = np.array(Image.open(tulips[0]))[6:32, -32:-6]
    return Image.fromarray(pixels)


others = [put_stamp(file) for file in sorted(Path("stamped/photos/val").glob("[!t]*/*.jpg"))]
cured = whycam.load("runs/cured")
for name, one in (("before", model), ("after", cured)):
    taken = (one.explain(others).predicted == one.class_names.index("tulip")).sum()
    print(f"{name}: {int(taken)} of {len(others)} other flowers are tulips by the stamp alone")

# %%
some = others[:: len(others) // 4][:4]
whycam.grid(model.explain(some, "tulip"), cured.explain(some, "tulip"), names=["before", "after"])
