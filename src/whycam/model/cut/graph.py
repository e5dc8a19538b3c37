"""A model's torch.fx graph, split at a layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor, fx, nn
from torch.fx.node import Argument

Halves = tuple[Callable[[Tensor], tuple[Tensor, ...]], Callable[..., object]]


class _Outline(fx.Tracer):
    """Traces through the modules that contain the layer, and takes all others as they are."""

    def __init__(self, layer: str) -> None:
        super().__init__()
        self.layer = layer

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not self.layer.startswith(module_qualified_name + ".")


def split_graph(module: nn.Module, layer: str, call: int) -> Halves | None:
    """`before(images)`: what `after(raw, *values)` needs beside the layer's output. None if not traceable."""
    with _unchanged(module):
        try:
            # The tracer keeps a model's constants on the model, from where the halves take copies.
            return _split(module, list(_Outline(layer).trace(module).nodes), layer, call)
        except Exception:  # noqa: BLE001 - the model's own code runs here on stand-ins and may fail in any way
            return None


def _split(module: nn.Module, nodes: list[fx.Node], layer: str, call: int) -> Halves | None:
    cuts = [node for node in nodes if node.op == "call_module" and node.target == layer]
    images, *options = [node for node in nodes if node.op == "placeholder"]
    if call >= len(cuts) or any(not node.args for node in options):
        return None
    cut = cuts[call]
    position = {node: index for index, node in enumerate(nodes)}
    behind = [node for node in _needed([nodes[-1]], stop=cut) if position[node] > position[cut]]
    shared = {source for node in behind for source in node.all_input_nodes if position[source] < position[cut]}
    parameters = [node for node in shared if node.op == "get_attr"]
    values = sorted(shared.difference(parameters, options), key=position.__getitem__)
    ahead = _needed(values, stop=None).difference([images, *options])

    fixed = {node: node.args[0] for node in options}  # arguments of forward that the model is never given
    before, copies = _copy([images], ahead, fixed, position)
    before.output(tuple(copies[value] for value in values))
    after, _ = _copy([cut, *values], [*parameters, *behind], fixed, position)
    # Called as a module, a graph prints a traceback of its own where it fails, and these are only tried.
    return fx.GraphModule(module, before).forward, fx.GraphModule(module, after).forward


@contextmanager
def _unchanged(module: nn.Module) -> Iterator[None]:
    """Afterwards no module keeps a stand-in that passed through it, as an attribute or in a cache of its own."""
    states = [(part, dict(vars(part))) for part in module.modules()]
    caches = [(value, value.copy()) for _, state in states for value in state.values() if type(value) is dict]
    try:
        yield
    finally:
        for part, state in states:
            vars(part).clear()
            vars(part).update(state)
        for cache, content in caches:
            cache.clear()
            cache.update(content)


def _needed(ends: Iterable[fx.Node], stop: fx.Node | None) -> set[fx.Node]:
    found: set[fx.Node] = set()
    queue = list(ends)
    while queue:
        node = queue.pop()
        if node not in found and node is not stop:
            found.add(node)
            queue.extend(node.all_input_nodes)
    return found


def _copy(
    given: list[fx.Node], nodes: Iterable[fx.Node], fixed: dict[fx.Node, Argument], position: dict[fx.Node, int]
) -> tuple[fx.Graph, dict[fx.Node, Argument]]:
    graph = fx.Graph()
    copies: dict[fx.Node, Argument] = dict(fixed)
    copies.update((node, graph.placeholder(f"given_{index}")) for index, node in enumerate(given))
    for node in sorted(nodes, key=position.__getitem__):
        copies[node] = graph.node_copy(node, copies.__getitem__)
    return graph, copies
