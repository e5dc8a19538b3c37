"""One forward pass of a model, cut at one or several layers: what all methods of one call share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from whycam.cam.fusion import Rule, fuse_maps
from whycam.cam.registry import Method, Pass
from whycam.errors import UserError, as_clause
from whycam.explainer.fits import WITHOUT_FEATURES, cut_itself
from whycam.explainer.scores import check_scores, make_score
from whycam.explainer.views import Smoothing
from whycam.model.cut.base import Cut
from whycam.model.cut.choose import cut_by_itself
from whycam.model.cut.layer import Call, NoCellsError, list_spatial, record_calls, settle_all
from whycam.model.cut.layout import read_cells
from whycam.model.cut.output import Wanted, read_logits
from whycam.model.cut.own import BlindCut, SelfCut
from whycam.model.cut.tap import ModuleCut, as_input, cut_model, unwrap

Layer = str | nn.Module | Cut
ScoreFunction = Callable[[Any], Tensor]


class MethodOptions(dict[str, object]):
    """Options of a method that know which of them were read: one that no method reads is a mistake of the caller's."""

    def __init__(self, given: Mapping[str, object]) -> None:
        super().__init__(given)
        self.unread = set(given)

    def get(self, name: str, default: Any = None) -> Any:
        """The option of that name, which counts as read."""
        self.unread.discard(name)
        return super().get(name, default)


@dataclass(frozen=True)
class Question:
    """What is explained, of N images and T targets.

    Attributes:
        targets: (N, T) class indices; -1 for a function.
        logits: (N, K) of the images themselves: they decide which side of a single logit is explained.
        function: of the output, instead of a class.
        versus: a second class.
        output: the entry of a structured output.
        chunk, seed, options, remarks: as in `Pass`.
    """

    targets: Tensor
    logits: Tensor
    function: ScoreFunction | None = None
    versus: int | None = None
    output: str | int | None = None
    chunk: int = 32
    seed: int = 0
    options: MethodOptions = field(default_factory=lambda: MethodOptions({}))
    remarks: list[str] = field(default_factory=list)

    def repeat(self, copies: int) -> Question:
        """The same of several copies of the images, one behind the other."""
        return replace(self, targets=self.targets.repeat(copies, 1), logits=self.logits.repeat(copies, 1))


@dataclass(frozen=True)
class Prepared:
    """One forward pass, cut at a layer; attributes are those of `Pass`, where, how, with how much noise, and a note."""

    module: nn.Module
    images: Tensor
    trace: tuple[Tensor, object]
    retrace: Callable[[Tensor], tuple[Tensor, object]]
    tail: Callable[[Tensor, Tensor], object]
    model: Callable[[Tensor], object]
    weight: Tensor | None
    bias: Tensor | None
    layer: str
    how: str
    noise: float = 0.0
    note: str = ""


def cut_layers(
    module: nn.Module,
    images: Tensor,
    layer: Layer | Sequence[Layer] | None,
    methods: Sequence[Method],
    output: Wanted = None,
) -> list[Cut]:
    """Where to cut, the deepest layer last; `output` as in `cut_model`.

    Raises:
        UserError: an unknown layer, one without cells, or one without gradient where a method reads the tail.
    """
    module, reads_tail = unwrap(module), any(method.reads_tail for method in methods)
    if isinstance(module, SelfCut):
        return cut_itself(module, images, layer, methods)
    if layer is not None:
        layers = [layer] if isinstance(layer, str | nn.Module | Cut) else list(layer)
        if not layers:
            raise UserError("Found an empty list of layers; expected one or more. Name them, or leave the layer out.")
        return [
            one.reading(images, output)
            if isinstance(one, Cut)
            else cut_model(module, images, one, needs_gradient=reads_tail, output=output)
            for one in layers
        ]
    try:
        last = cut_by_itself(module, images, reads_tail=reads_tail, output=output)
    except NoCellsError:
        if any(method.needs not in WITHOUT_FEATURES for method in methods):
            raise
        # A network without cells has scores all the same.
        return [BlindCut(layer="input", how="scores alone", has_gradient=False, module=module)]
    count = max(method.layers for method in methods)
    stages = find_stages(module, images, last, count - 1) if count > 1 else []
    return [*(replace(cut_model(module, images, stage, output=output), note="") for stage in stages), last]


def find_stages(module: nn.Module, images: Tensor, last: Cut, count: int) -> list[str]:
    """The `count` layers that end the stages before `last`: of each coarser or finer grid the outermost, latest layer.

    Where all layers have one grid, as in a vision transformer: the layers of the same kind before it. A layer whose
    cells stand for other parts of the image is left out, and one whose cells were not seen to stand right is taken
    only where there are too few others.

    Raises:
        UserError: there are no two such layers.
    """
    images = as_input(module, images[:2])
    calls = list_spatial(record_calls(module, images)[0])
    at = next((i for i, call in enumerate(calls) if _is_cut_at(last, call)), len(calls) - 1)
    ends: dict[tuple[int, ...], Call] = {}
    for call in calls[: at + 1]:
        held = ends.get(_read_grid(call))
        if held is None or _depth(call) <= _depth(held):
            ends.pop(_read_grid(call), None)
            ends[_read_grid(call)] = call
    before = _keep_placed([call for grid, call in ends.items() if grid != _read_grid(calls[at])], images, count)
    if not before:
        kind, grid = type(calls[at].site.layer), _read_grid(calls[at])
        alike = [c for c in calls[:at] if type(c.site.layer) is kind and _read_grid(c) == grid]
        before = _keep_placed(alike[-count:], images, count)
    if not before:
        raise UserError(
            f"Found one layer with cells in {type(module).__name__}, {calls[at].site.name!r}; expected two or more to "
            "combine. Name them: layer=['early', 'late']."
        )
    return [call.label for call in before]


def _is_cut_at(cut: Cut, call: Call) -> bool:
    return isinstance(cut, ModuleCut) and (cut.site.layer, cut.site.call) == (call.site.layer, call.site.call)


def _keep_placed(calls: list[Call], images: Tensor, count: int) -> list[Call]:
    """The last `count` calls whose cells were seen to stand right; then of those where that can't be seen."""
    places = settle_all(calls, images)
    right = [call for call, (settled, is_right) in zip(calls, places, strict=True) if settled and is_right]
    if len(right) < count:
        right = [call for call, (settled, _) in zip(calls, places, strict=True) if settled]
    return right[-count:]


def _depth(call: Call) -> int:
    return call.site.name.count(".")


def _read_grid(call: Call) -> tuple[int, ...]:
    if call.layout is None:
        raise RuntimeError(f"{call.site.name!r} has no cells.")
    return read_cells(call.layout, call.shape)


def prepare(module: nn.Module, images: Tensor, cut: Cut) -> Prepared:
    """One forward pass: the features at the layer, the output, and the tail between them."""
    module = unwrap(module)
    images = as_input(module, images)

    def retrace(batch: Tensor) -> tuple[Tensor, object]:
        again = cut.trace(batch)
        return again.features, again.output

    trace = cut.trace(images)
    ambient = _keep_autocast(images.device.type)
    return Prepared(
        module,
        trace.images,
        (trace.features, trace.output),
        ambient(retrace),
        ambient(trace.tail),
        ambient(lambda batch: cut.run(batch)[0]),
        cut.weight,
        cut.bias,
        cut.layer,
        cut.how,
        cut.noise,
        cut.note,
    )


def _keep_autocast(device: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator: inside it autocast is as it is now, whatever it is where the function is called.

    A method's own arithmetic is done in float32, while the model runs as the caller has it run.
    """
    if not torch.is_autocast_enabled(device):
        return lambda run: run
    dtype = torch.get_autocast_dtype(device)

    def wrap(run: Callable[..., Any]) -> Callable[..., Any]:
        def inside(*args: Any) -> Any:
            with torch.autocast(device, dtype):
                return run(*args)

        return inside

    return wrap


def prepare_views(module: nn.Module, images: Tensor, cuts: Sequence[Cut], smoothing: Smoothing) -> list[list[Prepared]]:
    """For each size of the images one forward pass cut at each layer; mirror images are in the same batch.

    Raises:
        UserError: the model takes no images of a further size.
    """
    views = [[prepare(module, smoothing.repeat(images), cut) for cut in cuts]]
    for scaled in smoothing.resize(images, views[0][-1].trace[0].shape[2:]):
        try:
            again = [cut.fit(scaled) for cut in cuts]
            views.append([prepare(module, smoothing.repeat(scaled), cut) for cut in again])
        except Exception as error:
            raise UserError(
                f"smooth='scales' ran the model at {tuple(scaled.shape[-2:])} px, which it refuses "
                f"({as_clause(error)}). Its input size is fixed: take smooth='flips'."
            ) from error
    return views


def describe_layers(method: Method, layers: Sequence[Prepared], fuse: Rule | None) -> dict[str, Any]:
    """What is recorded of the layers: where, how they were cut and combined; the model's noise where it has any."""
    noise = {"noise": layers[-1].noise} if layers[-1].noise else {}
    if len(layers) == 1:
        return {"layer": layers[0].layer, "cut": layers[0].how, **noise}
    how = "by the method" if method.layers > 1 else fuse or "mean"
    return {"layer": [one.layer for one in layers], "cut": [one.how for one in layers], "fuse": how, **noise}


def read_scores(output: object, key: str | int | None, function: ScoreFunction | None) -> Tensor:
    """(N, K) float32; where a function explains an output that holds no logits, its own values (N, 1)."""
    try:
        return read_logits(output, key).detach().float()
    except UserError:
        if function is None:
            raise
    scores = function(output)
    count = len(scores) if isinstance(scores, Tensor) and scores.ndim else 1
    return check_scores(scores, torch.arange(count)).detach()[:, None]


def run_method(method: Method, layers: Sequence[Prepared], question: Question, fuse: Rule) -> Tensor:
    """(N, T, h, w) float32 raw maps by one method; of several layers fused, where the method doesn't do that itself."""
    device = layers[-1].images.device.type
    question.remarks.extend(layer.note for layer in layers if layer.note)
    with torch.inference_mode(mode=False), torch.no_grad(), torch.autocast(device, enabled=False):
        if method.layers > 1 or len(layers) == 1:
            return _run_targets(method, layers, question)
        maps = [_run_targets(method, [layer], question).flatten(0, 1) for layer in layers]
        fused: Tensor = fuse_maps(maps, fuse).unflatten(0, question.targets.shape)
        return fused


def _run_targets(method: Method, layers: Sequence[Prepared], question: Question) -> Tensor:
    def run(target: Tensor) -> Tensor:
        *others, p = (_make_pass(layer, question, target) for layer in layers)
        return method.run(replace(p, others=tuple(others))).detach().float()

    if method.needs == "linear head":
        return run(question.targets)
    return torch.stack([run(target) for target in question.targets.unbind(1)], dim=1)


def _make_pass(prepared: Prepared, question: Question, target: Tensor) -> Pass:
    single = target if target.ndim == 1 else target[:, 0]
    weight, bias = prepared.weight, prepared.bias
    score = make_score(single, question.function, question.versus, question.logits, question.output)
    if weight is not None and bias is not None and len(weight) == 1 and question.function is None:
        # To a linear head the two sides of a single logit are two classes.
        weight, bias = torch.cat([weight, -weight]), torch.cat([bias, -bias])
        target = (question.logits[:, 0] < 0).long().view(-1, *[1] * (target.ndim - 1)).expand(target.shape)
    return Pass(
        images=prepared.images,
        features=prepared.trace[0].detach(),
        target=target,
        score=score,
        tail=prepared.tail,
        model=prepared.model,
        weight=weight,
        bias=bias,
        chunk=question.chunk,
        seed=question.seed,
        options=question.options,
        versus=question.versus,
        module=prepared.module,
        trace=prepared.trace,
        retrace=prepared.retrace,
        logits=lambda output: read_logits(output, question.output),
        remarks=question.remarks,
    )


def describe_noise(prepared: Prepared) -> list[str]:
    """A sentence where two answers of the model to the same images differ."""
    if not prepared.noise:
        return []
    return [
        f"The model's answer to the same photo changes from pass to pass, by up to {prepared.noise:.0%} of the largest "
        "number: dropout or other noise is on in eval mode. Scores and map are of one draw; average over several."
    ]


_NO_CHANGE = "the score does not change with the features of this layer"
_NOTHING_FOR_IT = "nothing in the features of this layer speaks for it, and the method keeps the positive part alone"
_NOTHING_AT_ALL = "nothing in the features of this layer speaks for or against it"


def explain_zeros(method: Method, prepared: Prepared, question: Question, maps: Tensor) -> list[list[str]]:
    """For each of the maps (N, T, h, w) that is zero everywhere, why; an empty string for the others."""
    is_zero = ~maps.flatten(2).any(2)  # (N, T)
    reasons = [[""] * maps.shape[1] for _ in maps]
    if not is_zero.any():
        return reasons
    has_features = prepared.trace[0].detach().flatten(1).any(1).tolist()
    for t in is_zero.any(0).nonzero()[:, 0].tolist():
        found = _find_reasons(method, prepared, question, t)
        for i in is_zero[:, t].nonzero()[:, 0].tolist():
            reasons[i][t] = found[i] if has_features[i] else "the features of this layer are all zero"
    return reasons


def _find_reasons(method: Method, prepared: Prepared, question: Question, column: int) -> list[str]:
    """For each image why its map of one target may be zero though its features are not."""
    nothing = _NOTHING_AT_ALL if method.is_signed else _NOTHING_FOR_IT
    if method.needs in {"gradients", "linear head"}:
        with torch.autocast(prepared.images.device.type, enabled=False):
            gradients = _make_pass(prepared, question, question.targets[:, column]).gradients
        return [nothing if moves else _NO_CHANGE for moves in gradients.flatten(1).any(1).tolist()]
    either = f"{nothing}; or {_NO_CHANGE}"
    reason = (
        either
        if method.needs in {"scores", "features and scores", "tail scores"}
        else f"{method.name} finds nothing in this image"
    )
    return [reason] * len(question.targets)
