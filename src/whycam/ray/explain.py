"""`whycam explain --on ray`: photos in shards through a pool of workers that hold the model, to one table in parts.

    shards -> read and decode -> a pool of Explainers -> a Parquet file a shard

A shard is done when its file is there, whole; who dies in the middle has written nothing, and its shard is done again.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

from whycam import __version__
from whycam.config import ClusterOptions, ExplainOptions
from whycam.data.sources import gather_sources
from whycam.errors import make_unreadable_error
from whycam.explainer.exact import ExactReader
from whycam.jobs.explain import Outcome
from whycam.jobs.progress import show_progress
from whycam.jobs.readers import Reader, open_reader
from whycam.model.sent import SentClassifier
from whycam.ray.cluster import CPUS_OF_WRITER, Pool, Watch, check_workers, choose_pool, connect, import_ray
from whycam.ray.explainer import Explainer, Form, check_options, read_form
from whycam.ray.opening import describe_files, name_everywhere, put
from whycam.ray.place import PLAN, PLAN_LINES, RECORD, Place, open_place
from whycam.ray.plan import Plan, choose_size, find_done, make_plan, name_part, read_plan
from whycam.ray.stages import Decoder, Writer
from whycam.ray.telling import STARTS, TRIES, told_as_here
from whycam.runs import command_line, to_json


def explain_on_ray(model: str, inputs: Sequence[str], out: str, options: ExplainOptions) -> Outcome:
    """Explains photos on a cluster into the table `out/explanations`, a row a photo.

    Args:
        model: see `whycam.load`; one whose exported graph answers is sent to the workers, others they open by name.
        inputs: see `gather_sources`.
        out: a folder that every machine sees, or an address.
        options: what is explained, and by which cluster.

    Raises:
        UserError: no photos, an unknown model, class or method, an output that exists, a cluster that does not answer
            or has no room, workers of another version or that die again and again, or not one photo that can be read.
    """
    check_options(options)
    ray = import_ray()
    with open_place(out, options) as place:
        state = _describe(model, inputs, options)
        plan = read_plan(place, state) if options.resume else None
        done = find_done(place) if plan else set()
        found = ([], 0) if plan else gather_sources(inputs)
        reader = open_reader(model, options, plan.photos if plan else len(found[0]))
        form = read_form(reader)
        with connect(ray, options.address):
            pool = choose_pool(ray, options, shares_core=True)
            check_workers(ray)
            plan = plan or make_plan(place, found, state, _choose_size(reader, options, pool))
            unreadable = _count_unreadable(place, done)
            if pending := tuple(shard for shard in range(len(plan.counts)) if shard not in done):
                unreadable += _Job(ray, place, plan, pool, reader, options).run(name_everywhere(model), pending)
        if unreadable == plan.photos:
            first = plan.read_shard(place, 0)[0].path
            place.remove(PLAN)
            raise make_unreadable_error(plan.photos, first)
        _finish(place, plan, {**_tell_question(options, reader, form), "unreadable": unreadable})
    return Outcome(plan.photos, unreadable, out, plan.doubles)


@dataclass(frozen=True)
class _Job:
    """One run over the shards that are left."""

    ray: ModuleType
    place: Place
    plan: Plan
    pool: Pool
    reader: Reader
    options: ExplainOptions

    def run(self, model: str, pending: tuple[int, ...]) -> int:
        """Leaves a file for each of the shards; how many photos could not be read."""
        photos = self.plan.photos
        unreadable = 0
        watched = Watch(self.ray, "shard", "Ctrl-C ends it, and --resume goes on")
        kept = "What is done is kept: the same command with --resume goes on."
        telling = told_as_here(self.ray, tries=TRIES, root=self.place.root, kept=kept)
        with telling, watched as watch, show_progress("explaining", photos) as advance:
            advance(photos - sum(self.plan.counts[shard] for shard in pending))
            for counted in self._stream(model, pending).iter_batches(batch_size=None, prefetch_batches=0):
                watch.beat()
                unreadable += int(counted["unreadable"].sum())
                advance(int(counted["photos"].sum()))
        return unreadable

    def _stream(self, model: str, pending: tuple[int, ...]) -> Any:
        """The pipeline, a row a finished shard; a block is a shard from end to end."""
        data = self.ray.data
        context = data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        # A block is a shard, however large: parts of one would each be written under its name.
        context.target_max_block_size = None
        context.max_consecutive_actor_init_deaths = STARTS
        warnings.filterwarnings("ignore", message="`ray_remote_args`")  # no other way says max_task_retries yet
        decode = Decoder(self.place, self.plan, pending, self.reader.preprocess)
        # Not `range`: what reads it asks for a whole core, which there is none of beside the workers.
        stream = data.from_items([{"id": i} for i in range(len(pending))], override_num_blocks=len(pending))
        stream = stream.map_batches(decode, batch_size=1, num_cpus=self.pool.cpus_beside)
        stream = stream.map_batches(
            Explainer,
            batch_size=None,
            fn_constructor_kwargs=self._describe_model(model),
            # Ray adds workers one after the other while shards wait, which takes a small run half its time.
            compute=data.ActorPoolStrategy(
                min_size=self.pool.least,
                max_size=self.pool.most,
                initial_size=max(self.pool.least, min(self.pool.most, len(pending))),
            ),
            num_cpus=self.pool.cpus,
            num_gpus=self.pool.gpus or None,
            zero_copy_batch=True,
            # Ray's own default is to try for ever, which a machine with too little memory makes a run without an end.
            max_task_retries=TRIES,
        )
        # Hardly any work; it must find room beside a core that decodes.
        return stream.map_batches(Writer(self.place, self.plan), batch_size=None, num_cpus=CPUS_OF_WRITER)

    def _describe_model(self, model: str) -> dict[str, Any]:
        """What each worker is made of."""
        given = self.options.model_fields_set - set(ClusterOptions.model_fields) - {"overwrite", "resume"}
        words = {**self.options.model_dump(include=given), "version": __version__}
        words |= describe_files(self.options)
        sent = None
        if not self.pool.gpus and isinstance(self.reader, ExactReader):
            sent = SentClassifier.of(self.reader.classifier)
        if sent is None:
            # What answers is decided here, and once.
            return {**words, "model": model, "engine": "torch"}
        return {**words, "sent": put(self.ray, sent)}


def _describe(model: str, inputs: Sequence[str], options: ExplainOptions) -> dict[str, Any]:
    """What a resumed run must share with the one that was interrupted; the cluster may be another one."""
    free = {"overwrite", "resume", *ClusterOptions.model_fields}
    return {"model": model, "inputs": list(inputs), "options": options.model_dump(mode="json", exclude=free)}


def _choose_size(reader: Reader, options: ExplainOptions, pool: Pool) -> Callable[[int], int]:
    pixels_bytes = reader.preprocess.height_px * reader.preprocess.width_px * 3
    return partial(choose_size, pixels_bytes, options.batch_size, pool.most)


def _count_unreadable(place: Place, done: set[int]) -> int:
    """Of the shards that an interrupted run finished."""
    import pyarrow.parquet as pq  # noqa: PLC0415 - slow to import, and only a resumed run needs it

    tables = (pq.read_table(io.BytesIO(place.read(name_part(shard))), columns=["error"]) for shard in done)
    return sum(len(table) - table["error"].null_count for table in tables)


def _tell_question(options: ExplainOptions, reader: Reader, form: Form) -> dict[str, Any]:
    return {
        "options": options.model_dump(mode="json"),
        "class_names": list(reader.class_names),
        "map_shape": list(form.shape),
        "map_is": "scale * int8",
        **form.record,
    }


def _finish(place: Place, plan: Plan, told: dict[str, Any]) -> None:
    for name in (PLAN, PLAN_LINES):
        place.remove(name)
    if place.folder is not None:
        # Of workers that were killed while they wrote.
        for part in place.folder.rglob("*.part"):
            part.unlink()
    # The last one: at an address it says that the result is whole.
    about = {"command": command_line(), "photos": plan.photos, "doubles": plan.doubles}
    place.write(RECORD, to_json({**about, **told}, indent=2))
