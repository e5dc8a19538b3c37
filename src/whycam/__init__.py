"""WhyCAM: why did the network say that? Exact class activation maps, trained, explained, proved, shown, shipped."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from whycam.errors import UserError
    from whycam.explainer.explain import explain
    from whycam.explainer.explanation import Explanation
    from whycam.explainer.model import Model, load
    from whycam.metrics.evaluation import Evaluation, evaluate
    from whycam.metrics.pairs.comparison import Comparison, compare
    from whycam.model.cut.tap import cut_model
    from whycam.show.notebook import grid

__version__ = "0.1.0"
__all__ = [
    "Comparison",
    "Evaluation",
    "Explanation",
    "Model",
    "UserError",
    "__version__",
    "compare",
    "cut_model",
    "evaluate",
    "explain",
    "grid",
    "load",
]

# Public name -> the file that has it; loaded at first use, so that `import whycam` brings in no torch.
_HOMES = {
    "Comparison": "whycam.metrics.pairs.comparison",
    "Evaluation": "whycam.metrics.evaluation",
    "Explanation": "whycam.explainer.explanation",
    "Model": "whycam.explainer.model",
    "UserError": "whycam.errors",
    "compare": "whycam.metrics.pairs.comparison",
    "cut_model": "whycam.model.cut.tap",
    "evaluate": "whycam.metrics.evaluation",
    "explain": "whycam.explainer.explain",
    "grid": "whycam.show.notebook",
    "load": "whycam.explainer.model",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'whycam' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
