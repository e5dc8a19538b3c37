"""WhyCAM on the machines of a Ray cluster: `Explainer` for pipelines of your own, and `whycam explain --on ray`."""

from whycam.ray.explainer import Explainer

__all__ = ["Explainer"]
