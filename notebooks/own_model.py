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
# # Bring your own model
#
# Any PyTorch module that answers with class scores can be explained; so can a Keras or ONNX file and a Hugging Face folder
# ([docs/models.md](../docs/models.md)). Where the network ends in GAP and a linear layer, its maps are exact.

# %%
from pathlib import Path

import timm
import torch
from torch import nn

import whycam
from whycam.data.garden import write_garden

if not Path("garden").exists():
    write_garden(Path("garden"), train_per_class=12, val_per_class=6, size_px=160)
files = sorted(Path("garden/photos").glob("val/*/*.jpg"))
classes = sorted({file.parent.name for file in files})

# %% [markdown]
# A network as one might have trained it: here with random weights, so its answers mean nothing. What matters is that it is
# a plain `nn.Module`.

# %%
torch.manual_seed(0)
net = timm.create_model("resnet18", num_classes=len(classes)).eval()
model = whycam.load(net, class_names=classes, image_size=224)
print(model.classifier.card.is_exact)

# %%
why = model.explain(files[:3])
why

# %% [markdown]
# The same by other methods, side by side: a click on a photo shows it below.

# %%
whycam.grid(why, *[model.explain(files[:3], method=method) for method in ("grad-cam", "layer-cam")])

# %% [markdown]
# A network with no GAP before its last layer has no exact maps. It is explained by gradients, and says so. Code of your own
# does not say how its photos were prepared, so that is given: `preprocess`.


# %%
class Flat(nn.Module):
    """A small network that flattens its feature maps."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 16, 3, 4), nn.ReLU(), nn.Conv2d(16, 16, 3, 4), nn.ReLU())
        self.head = nn.Linear(16 * 6 * 6, len(classes))

    def forward(self, images):
        return self.head(self.features(images).flatten(1))


flat = whycam.load(Flat().eval(), class_names=classes, image_size=96, preprocess="imagenet")
print(flat.classifier.card.is_exact)
flat.explain(files[:3], method="grad-cam")

# %% [markdown]
# What was found out about a model, and from where:

# %%
print(model.classifier.card.preprocess)
why.record
