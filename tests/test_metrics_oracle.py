"""The metrics of maps alone against Quantus: the same numbers, or a difference that is named."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from metric_cases import make_case, make_images, make_mask, make_random
from whycam.metrics import complexity, localization
from whycam.metrics.case import Case

quantus = pytest.importorskip("quantus", reason="Quantus is not installed: pip install quantus")
pytestmark = pytest.mark.oracle


def ask(metric: Any, maps: Tensor) -> list[float]:
    """Quantus's numbers of maps (N, H, W) as they are: nothing is normalised, nothing is made absolute."""
    count = len(maps)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(
            metric(
                model=torch.nn.Conv2d(3, 1, 1).eval(),
                x_batch=make_images(count).numpy(),
                y_batch=np.zeros(count, dtype=int),
                a_batch=maps[:, None].numpy(),
                s_batch=make_mask().numpy()[None, None].repeat(count, 0),
                device="cpu",
            )
        )


def make(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(quantus, name)(abs=False, normalise=False, disable_warnings=True)


@pytest.mark.parametrize(
    ("ours", "theirs", "factor"),
    [
        (complexity.gini, "Sparseness", 1),
        (complexity.entropy, "Complexity", 1 / math.log(2)),  # theirs is in nats, ours in bits
        (localization.mass_in_mask, "RelevanceMassAccuracy", 1),
        (localization.rank_accuracy, "RelevanceRankAccuracy", 1),
    ],
)
def test_quantus_has_the_same_numbers(ours: Callable[[Case], Tensor], theirs: str, factor: float) -> None:
    maps = make_random()
    found = ours(make_case(maps)).tolist()
    assert found == pytest.approx([factor * value for value in ask(make(theirs), maps)], abs=1e-5)
