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
# # Which method when
#
# All methods of one family, on one photo, and numbers that tell them apart. In short: where a network ends in GAP and a linear
# layer, `cam` is exact and the fastest; elsewhere start with `grad-cam`, and measure.

# %%
from pathlib import Path

from PIL import Image
from skimage import data

import whycam
from whycam.data.garden import write_garden

model = whycam.load("imagenet")
cat = Image.fromarray(data.chelsea())

# Bars of progress are for terminals.
# %env TERM=dumb

# %% [markdown]
# Exact maps, gradients, and what needs neither class nor gradient, side by side. Those that hide parts of the photo over and
# over (`score-cam`, `ablation-cam`, `rise`) take a hundred times as long.

# %%
METHODS = ("cam", "grad-cam", "grad-cam++", "layer-cam", "hires-cam", "eigen-cam")
why = [model.explain(cat, method=method) for method in METHODS]
whycam.grid(*why)

# %% [markdown]
# `whycam methods` tells what each needs, its paper, and when it fits.

# %%
# !whycam methods

# %% [markdown]
# Pictures don't say which is better. On drawn flowers the truth is known: a mask of each flower, and what a network answers
# where the strongest places are hidden. Lower `deletion-auc` and higher `insertion-auc` are better; the interval says whether a difference is one.

# %%
if not Path("garden").exists():
    write_garden(Path("garden"), train_per_class=12, val_per_class=6, size_px=160)
# !whycam train garden/photos -o runs/garden --overwrite

# %%
trained = whycam.load("runs/garden")
files = sorted(Path("garden/photos/val").glob("*/*.jpg"))[::5]
found = whycam.evaluate(trained, files, methods=["cam", "layer-cam"], metrics=["deletion-auc", "insertion-auc"])
print(found)

# %% [markdown]
# What the numbers mean: [docs/metrics.md](../docs/metrics.md). Every method with a picture: [docs/methods.md](../docs/methods.md).
