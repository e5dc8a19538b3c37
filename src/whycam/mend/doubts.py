"""How much each photo's label is doubted: by heads that never saw the photo, fitted on the features that are stored."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from whycam.train.last_layer import Layer, fit_layer
from whycam.train.retrain import FOLDS, split_folds

# Of the heads: as strong a ridge as serves the last layer. What of the second pass is said of 1,000 flowers with 50
# wrong labels: benchmarks/mend.py.
_DECAY = 0.1
# A photo whose label has less than this is not learnt from in the second pass.
_LEAST = 0.2
# So many photos are learnt from at the most: their features are held in memory, twice as wide as they are stored.
_MOST_LEARNT = 20_000


@dataclass(frozen=True)
class Doubts:
    """What heads that never saw a photo say of it.

    Attributes:
        probabilities: (N, K).
        own: (N,) that of the photo's own label: the less, the more it is doubted.
    """

    probabilities: Tensor
    own: Tensor


def doubt_labels(pooled: Tensor, labels: Tensor, classes: int, seed: int) -> Doubts:
    """The doubts on labels (N,) of photos with features (N, C).

    Five heads say of each fifth of the photos what the other four teach; then once more, without the photos whose
    labels are doubted most, which would teach what is wrong.

    Paper: out-of-sample probabilities, and dropping what they doubt before learning again, are those of confident
    learning (Northcutt et al., arXiv:1911.00068). Differs: one threshold for all classes, and the probability of the
    own label ranks.
    """
    folds = split_folds(labels, seed)
    first = _score_unseen(pooled, labels, folds, torch.ones(len(labels)), classes)
    trusted = (_pick_own(first, labels) >= _LEAST).float()
    # A class that is doubted as a whole is learnt all the same.
    for label in labels.unique():
        if not trusted[labels == label].any():
            trusted[labels == label] = 1.0
    second = _score_unseen(pooled, labels, folds, trusted, classes)
    return Doubts(second, _pick_own(second, labels))


def _score_unseen(pooled: Tensor, labels: Tensor, folds: Tensor, weights: Tensor, classes: int) -> Tensor:
    """(N, K) probabilities of each photo by a head that was fitted without its fold."""
    nothing = Layer(torch.zeros(classes, pooled.shape[1]), torch.zeros(classes))
    found = torch.full((len(labels), classes), 1 / classes)
    for fold in range(FOLDS):
        seen = ((folds != fold) & (weights > 0)).nonzero()[:, 0]
        if len(seen) > _MOST_LEARNT:
            seen = seen[:: -(-len(seen) // _MOST_LEARNT)]
        if len(seen) and (folds == fold).any():
            head = fit_layer(pooled[seen], labels[seen], weights[seen], nothing, decay=_DECAY)
            found[folds == fold] = head(pooled[folds == fold]).softmax(dim=1)
    return found


def _pick_own(probabilities: Tensor, labels: Tensor) -> Tensor:
    return probabilities.gather(1, labels[:, None])[:, 0]
