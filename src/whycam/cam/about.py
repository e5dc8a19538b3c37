"""What a person should know of a map method before choosing it; of the exact ones also without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# Of a model: its linear head, features, a tail to differentiate or to score, scores alone, scores of the images under
# their features' masks, attention matrices, a gradient down to the image; or the image and no model.
Needs = Literal[
    "linear head",
    "features",
    "gradients",
    "tail scores",
    "scores",
    "features and scores",
    "attention",
    "image gradients",
    "image",
]


@dataclass(frozen=True, kw_only=True)
class About:
    """A map method in words.

    Attributes:
        name: as the user types it, in kebab-case.
        needs: what it reads of its `Pass`, which says which models it can explain.
        paper: arXiv id or venue, and the equation.
        differs: in one sentence, when its map is not the plain class activation map's.
        cost: in words, beside one forward pass.
        is_signed: whether negative values are evidence against the target, not absence of evidence.
        layers: how many layers' passes it reads (`Pass.others`) where the caller names none.
    """

    name: str
    needs: Needs
    paper: str
    differs: str
    cost: str
    is_signed: bool = False
    layers: int = 1


CAM = About(
    name="cam",
    needs="linear head",
    paper="arXiv:1512.04150, eq. 2",
    differs="It is the class activation map: mean(map) + bias is the logit.",
    cost="one 1x1 convolution",
    is_signed=True,
)
CONTRAST = About(
    name="contrast",
    needs="linear head",
    paper="the difference of two maps of arXiv:1512.04150, eq. 2",
    differs="It explains why this class and not that one: mean(map) + bias difference is the difference of the logits.",
    cost="one 1x1 convolution",
    is_signed=True,
)
