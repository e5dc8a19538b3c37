"""Somebody else's ONNX file as a graph that can be asked: who makes a tensor, its shape, its constant, a part of it.

Weights that lie in files of their own are left there: a graph of any size is read in the time of its nodes.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from whycam.errors import UserError
from whycam.model.onnx.wire import find_place, read_model, read_tensor
from whycam.runs import is_utf8

# ONNX Runtime promises no older ones.
_OLDEST_OPSET = 7
# Constants of so many bytes may be shapes, which shape inference reads; larger ones are weights.
_SHAPE_BYTES = 1024
_LFS = b"version https://git-lfs"


@dataclass(frozen=True)
class Part:
    """A part of a graph, or the whole, with what was added to it.

    Attributes:
        inputs: names of tensors that are given.
        outputs: names of tensors that are wanted.
        nodes: added behind the graph's own.
        constants: added, by name.
        added: inputs beside the graph's own, of the added nodes.
    """

    outputs: Sequence[str]
    inputs: Sequence[str] = ()
    nodes: Sequence[NodeProto] = ()
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    added: Sequence[ValueInfoProto] = ()


class Graph:
    """A model's graph, with an index of its tensors."""

    def __init__(self, proto: ModelProto, path: Path) -> None:
        """Indexes the nodes and infers shapes.

        Args:
            proto: without the data that lie in other files.
            path: of the file, beside which those are.
        """
        self.proto, self.path, self.folder = proto, path, path.absolute().parent
        graph = proto.graph
        self.weights: dict[str, TensorProto] = {tensor.name: tensor for tensor in graph.initializer}
        # Up to IR version 3 each weight was listed as an input too.
        self.inputs = [value for value in graph.input if value.name not in self.weights]
        self.outputs = list(graph.output)
        self.metadata = {entry.key: entry.value for entry in proto.metadata_props}
        self._makers = {name: node for node in graph.node for name in node.output if name}
        self._order = {id(node): at for at, node in enumerate(graph.node)}
        self.shapes, self.types = _infer(proto)
        self._computed = {value.name for value in self.inputs}
        for node in graph.node:
            if not self._computed.isdisjoint(list_inputs(node)):
                self._computed.update(node.output)

    @property
    def nodes(self) -> list[NodeProto]:
        """In the order in which they can run."""
        return list(self.proto.graph.node)

    def infer_at(self, sides: Sequence[int]) -> None:
        """Finds the shapes anew, for an input of those sides behind the batch."""
        self.shapes, self.types = _infer(self.proto, self._size_input(sides))

    def settle(self, sides: Sequence[int]) -> None:
        """Finds the sizes that are known only once the batch is: those that are the same in batches of 3 and of 5.

        Exporters compute the length of a row of tokens from the shape of the batch.
        """
        is_open = any(not isinstance(side, int) for shape in self.shapes.values() for side in shape[1:])
        if not is_open or self.inputs[0].type.tensor_type.shape.dim[0].dim_value > 0:
            return
        three, five = (_infer(self.proto, self._size_input(sides, batch))[0] for batch in (3, 5))
        for name in three.keys() & five.keys():
            one, other, known = three[name], five[name], self.shapes.get(name)
            if len(one) != len(other) or not one or (known is not None and len(known) != len(one)):
                continue
            same = [a if a == b else None for a, b in zip(one, other, strict=True)]
            told = known or (None,) * len(one)
            inner = (t if isinstance(t, int) else s for t, s in zip(told[1:], same[1:], strict=True))
            self.shapes[name] = (told[0], *inner)

    def _size_input(self, sides: Sequence[int], batch: int | None = None) -> ValueInfoProto:
        value = ValueInfoProto()
        value.CopyFrom(self.inputs[0])
        for dim, side in zip(value.type.tensor_type.shape.dim, [batch, *sides], strict=True):
            if side is not None:
                dim.dim_value = side
        return value

    @property
    def opset(self) -> int:
        """Of ONNX's own operators."""
        return max((one.version for one in self.proto.opset_import if one.domain in {"", "ai.onnx"}), default=0)

    def is_computed(self, name: str) -> bool:
        """Whether a tensor depends on the input."""
        return name in self._computed

    def find_maker(self, name: str) -> NodeProto | None:
        """The node that gives that tensor; None for an input or a weight."""
        return self._makers.get(name)

    def find_users(self, name: str) -> list[NodeProto]:
        """The nodes that take that tensor."""
        return [node for node in self.nodes if name in node.input]

    def find_rank(self, name: str) -> int | None:
        """How many axes that tensor has, where it is known."""
        shape = self.shapes.get(name)
        return None if shape is None else len(shape)

    def collect(self, outputs: Iterable[str], stop: Iterable[str] = ()) -> list[NodeProto]:
        """The nodes that those tensors take, in order; of the tensors in `stop` no maker is asked for."""
        found: dict[int, NodeProto] = {}
        closed, open_names = set(stop), list(outputs)
        while open_names:
            name = open_names.pop()
            node = self._makers.get(name)
            if name in closed or node is None or id(node) in found:
                continue
            found[id(node)] = node
            open_names.extend(list_inputs(node))
        return sorted(found.values(), key=lambda node: self._order[id(node)])

    def read_constant(self, name: str) -> np.ndarray | None:
        """The value of a tensor that depends on no input: a weight, or what is computed of weights alone."""
        if name in self.weights:
            tensor = self.weights[name]
            is_outside = tensor.data_location == TensorProto.EXTERNAL
            return read_tensor(tensor, self.folder) if is_outside else numpy_helper.to_array(tensor)
        node = self._makers.get(name)
        if node is None or self.is_computed(name) or len(node.output) != 1 or not all(node.input):
            return None
        values = [self.read_constant(each) for each in node.input]
        if any(value is None for value in values):
            return None
        from onnx.reference import ReferenceEvaluator  # noqa: PLC0415 - slow, and few graphs need it

        opsets: Any = {one.domain: one.version for one in self.proto.opset_import}
        try:
            found: Any = ReferenceEvaluator(node, opsets=opsets).run(None, dict(zip(node.input, values, strict=True)))
        except Exception:  # noqa: BLE001 - an operator that NumPy has not, or not for these types
            return None
        return np.asarray(found[0])

    def to_bytes(self, part: Part) -> bytes:
        """A model of that part alone; weights of the file itself are in it, those of other files stay there."""
        wanted = [*part.outputs, *(name for node in part.nodes for name in list_inputs(node))]
        nodes = [*self.collect(wanted, stop=part.inputs), *part.nodes]
        needed = {name for node in nodes for name in list_inputs(node)} | set(part.outputs)
        given = {value.name: value for value in self.inputs}
        names = [*part.inputs, *(name for name in given if name in needed and name not in part.inputs)]
        graph = GraphProto(
            name=self.proto.graph.name or "graph",
            node=nodes,
            input=[*(given.get(name) or self._describe(name) for name in names), *part.added],
            output=[ValueInfoProto(name=name) for name in part.outputs],
            initializer=[numpy_helper.from_array(value, name) for name, value in part.constants.items()],
        )
        model = ModelProto(ir_version=self.proto.ir_version, graph=graph)
        model.opset_import.extend(self.proto.opset_import)
        # Protobuf joins messages that stand one behind the other: so no weight is in memory more than once for long.
        content = io.BytesIO(model.SerializeToString())
        content.seek(0, io.SEEK_END)
        for name, tensor in self.weights.items():
            if name in needed:
                whole = self._take_in(tensor)
                content.write(ModelProto(graph=GraphProto(initializer=[whole])).SerializeToString())
        return content.getvalue()

    def _take_in(self, tensor: TensorProto) -> TensorProto:
        """A weight with its bytes, where ONNX Runtime would not find them: those of the model's own file."""
        is_outside = tensor.data_location == TensorProto.EXTERNAL
        if not is_outside or (find_place(tensor)[0] != self.path.name and is_utf8(self.folder)):
            return tensor
        return numpy_helper.from_array(read_tensor(tensor, self.folder), tensor.name)

    def _describe(self, name: str) -> ValueInfoProto:
        """A tensor as an input: its type, and nothing of its shape but the rank, so that the batch is free."""
        rank = self.find_rank(name)
        return helper.make_tensor_value_info(
            name, self.types.get(name, TensorProto.FLOAT), None if rank is None else [None] * rank
        )


def list_inputs(node: NodeProto) -> Iterator[str]:
    """What a node takes, the graphs inside it (of If, Loop and Scan) included."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for inner in [attribute.g, *attribute.graphs] if attribute.type in {5, 10} else []:
            for each in inner.node:
                yield from list_inputs(each)
            yield from (value.name for value in inner.output)


def read_attributes(node: NodeProto) -> dict[str, Any]:
    """A node's attributes by name."""
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def name_node(node: NodeProto) -> str:
    """A node in a sentence: "Gemm 'fc'"."""
    return f"{node.op_type} '{node.name or node.output[0]}'"


def load_graph(path: Path) -> Graph:
    """The graph in an ONNX file.

    Raises:
        UserError: no such file, none of ONNX, of an opset that is too old, or without the files of its weights.
    """
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no file"
        raise UserError(f"Found {found} at '{path.absolute()}'; expected an .onnx file. Check the path.")
    try:
        proto = read_model(path)
    except Exception as error:
        raise _make_no_onnx(path) from error
    # Almost any few bytes are a protobuf message of something.
    if not proto.graph.node or not proto.opset_import or not proto.graph.output:
        raise _make_no_onnx(path)
    _check_external(proto, path)
    if proto.functions:
        from onnx.inliner import inline_local_functions  # noqa: PLC0415 - few graphs need it

        proto = inline_local_functions(proto)
    graph = Graph(proto, path)
    if graph.opset < _OLDEST_OPSET:
        raise UserError(
            f"'{path.absolute()}' has opset {graph.opset}; ONNX Runtime takes {_OLDEST_OPSET} and later. Export the "
            "model again with a newer opset, or convert it: onnx.version_converter.convert_version(model, 17)."
        )
    return graph


def _make_no_onnx(path: Path) -> UserError:
    with path.open("rb") as file:
        start = file.read(len(_LFS))
    size = path.stat().st_size
    if start == _LFS:
        return UserError(
            f"'{path.absolute()}' is a Git LFS pointer of {size} bytes, not the model itself. Get it: git lfs pull."
        )
    return UserError(
        f"'{path.absolute()}' ({size:,} bytes) is no ONNX model, or one that was cut short. "
        "Export or download it again."
    )


def _check_external(proto: ModelProto, path: Path) -> None:
    """Refuses a graph whose weights lie in files that are not there.

    Raises:
        UserError: the first that is missing, too short, or in another folder.
    """
    least: dict[str, int] = {}
    for tensor in proto.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            name, offset, length = find_place(tensor)
            least[name] = max(least.get(name, 0), offset + length)
    folder = path.absolute().parent
    for name, size in least.items():
        file = folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise UserError(
                f"'{path.absolute()}' keeps its weights in '{name}', outside its own folder, where it is not followed. "
                "Export the model again, to one file or beside it."
            )
        if not file.is_file():
            raise UserError(
                f"'{path.absolute()}' keeps its weights in '{name}', and found no such file in '{folder}'. "
                "Put it beside the model under that name, or export to one file (external_data=False)."
            )
        if file.stat().st_size < size:
            raise UserError(
                f"'{file}' has {file.stat().st_size:,} bytes; '{path.name}' expects {size:,} or more of it. "
                "It was cut short, or belongs to another model: copy both files again."
            )


def _infer(
    proto: ModelProto, given: ValueInfoProto | None = None
) -> tuple[dict[str, tuple[int | str | None, ...]], dict[str, int]]:
    """Shape and element type of each tensor that they are known of; weights need not be read for that.

    Of an input that is given in another size, what the file says of sizes is not believed.
    """
    light = ModelProto(ir_version=proto.ir_version)
    light.opset_import.extend(proto.opset_import)
    light.graph.name = "light"
    light.graph.node.extend(proto.graph.node)
    if given is None:
        light.graph.value_info.extend(proto.graph.value_info)
    light.graph.input.extend(
        given if given is not None and given.name == one.name else one for one in proto.graph.input
    )
    light.graph.output.extend(proto.graph.output)
    for output in light.graph.output if given is not None else []:
        output.type.tensor_type.ClearField("shape")
    for tensor in proto.graph.initializer:
        if tensor.ByteSize() <= _SHAPE_BYTES and tensor.data_location != TensorProto.EXTERNAL:
            light.graph.initializer.append(tensor)
        else:
            light.graph.initializer.add(
                name=tensor.name, dims=tensor.dims, data_type=tensor.data_type, data_location=TensorProto.EXTERNAL
            )
    with suppress(Exception):  # a graph of operators that ONNX does not know has the shapes that it states
        light = onnx.shape_inference.infer_shapes(light, data_prop=True)
    values = [*light.graph.input, *light.graph.value_info, *light.graph.output]
    shapes = {value.name: _read_shape(value) for value in values if value.type.tensor_type.HasField("shape")}
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    for tensor in proto.graph.initializer:
        shapes[tensor.name], types[tensor.name] = tuple(tensor.dims), tensor.data_type
    return shapes, types


def _read_shape(value: ValueInfoProto) -> tuple[int | str | None, ...]:
    def read(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
        if dim.HasField("dim_value"):
            return int(dim.dim_value) if dim.dim_value > 0 else None
        return dim.dim_param or None

    return tuple(read(dim) for dim in value.type.tensor_type.shape.dim)
