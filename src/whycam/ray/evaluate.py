"""`whycam evaluate --on ray`: batches of photos, decoded here, are measured by workers that hold the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType

from whycam.config import EvaluateOptions
from whycam.explainer.model import Model
from whycam.jobs.evaluate import evaluate_folder
from whycam.metrics.evaluation import Evaluation
from whycam.metrics.measurer import Measure, Measurer, Question
from whycam.model.sent import SentGraph
from whycam.ray.cluster import Pool, import_ray
from whycam.ray.opening import Opening, describe_files, name_everywhere, put
from whycam.ray.workers import hire


def evaluate_on_ray(model: str, folder: Path, out: Path, options: EvaluateOptions) -> Evaluation:
    """As `evaluate_folder`, the batches measured by a cluster: the same numbers.

    Raises:
        UserError: as there; and a cluster that does not answer or has no room, workers that do not find the model, are
            of another version, or die again and again.
    """
    import_ray()
    return evaluate_folder(model, folder, out, options, partial(_measure_on, model, options))


@contextmanager
def _measure_on(name: str, options: EvaluateOptions, model: Model, question: Question, jobs: int) -> Iterator[Measure]:
    def describe(ray: ModuleType, pool: Pool) -> MakeMeasurer:
        engine = "torch" if pool.gpus else question.engine
        graph = model.classifier.having(engine=engine).find_graph("scores")
        kept = (put(ray, SentGraph.of(graph)),) if graph else ()
        words = options.describe_model() | describe_files(options)
        opening = Opening(name_everywhere(name), words, model.name, "torch", kept=kept)
        return MakeMeasurer(opening, replace(question, engine="onnx" if graph else "torch"))

    with hire(options, describe, jobs) as workers:
        yield lambda jobs: workers.map((job,) for job in jobs)


@dataclass(frozen=True)
class MakeMeasurer:
    """Makes on a worker what answers there."""

    opening: Opening
    question: Question

    def __call__(self) -> Callable[..., object]:
        """A function of a job."""
        return Measurer(Model(self.opening()), self.question)
