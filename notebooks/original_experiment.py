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
# # The original experiment in ten cells
#
# Five kinds of flowers, a pretrained network whose top is taken off and frozen, a convolution with Global Average Pooling
# (GAP) and softmax on it: then each class's map can be read off ([Zhou et al. 2016](https://arxiv.org/abs/1512.04150)).
# The flowers here are drawn, so that nothing is downloaded. For photographs, run `whycam data flowers -o flowers` and set
# `PHOTOS` to `flowers/photos`; with VGG-16's weights at hand, leave out `--backbone imagenet`.

# %%
from pathlib import Path

import numpy as np
from PIL import Image

import whycam
from whycam.data.garden import write_garden

PHOTOS = Path("garden/photos")
if not PHOTOS.exists():
    write_garden(Path("garden"), train_per_class=12, val_per_class=6, size_px=160)

# Bars of progress are for terminals.
# %env TERM=dumb

# %% [markdown]
# One folder a class. `train/` is learned, `val/` is held out.

# %%
files = sorted(PHOTOS.glob("val/*/*.jpg"))
classes = sorted({file.parent.name for file in files})
print(len(files), "held-out photos of", ", ".join(classes))

# %% [markdown]
# The recipe: a frozen network, a 3 x 3 convolution with 1,024 channels, GAP, softmax; epochs of two steps of 32 photos.

# %%
# !whycam train {PHOTOS} --recipe vgg16-gap --backbone imagenet --epochs 5 -o runs/original --overwrite

# %%
Image.open("runs/original/accuracy.png")

# %% [markdown]
# The map of the class that the network names, on a photo that it has not learned.

# %%
model = whycam.load("runs/original")
why = model.explain(files[0])
why

# %% [markdown]
# The map is the evidence itself: its mean and the class's bias are the score. In the viewer, choose another class, or ask
# *why not* that one.

# %%
every = model.explain(files[0], "all")
weight, bias = model.classifier.weight, model.classifier.bias
means = every.maps[0].numpy().mean(axis=(1, 2))
print(np.abs(means + np.asarray(bias) - every.logits[0].numpy()).max())
assert np.allclose(means + np.asarray(bias), every.logits[0].numpy(), atol=1e-4)

# %%
every

# %% [markdown]
# A photo of each class.

# %%
model.explain([next(file for file in files if file.parent.name == name) for name in classes])

# %% [markdown]
# And one of your own: `model.explain("photo.jpg")`. What is drawn can be kept as files.

# %%
why.overlay().save("why.jpg")
Image.open("why.jpg")
