"""ONNX graphs written as arithmetic: values with operators, loops and branches.

What torch's exporter makes of a solver has several times the nodes, and on small matrices the time
goes by nodes. Only operators of ONNX itself are written, and no functions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

FLOAT: Final = 1  # numbers of onnx.TensorProto
INT: Final = 7
BOOL: Final = 9
_KINDS: Final = {"f": FLOAT, "i": INT, "b": BOOL}


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor of the graph.

    Attributes:
        graph: Where it is.
        name: Of the tensor.
        kind: Its element type, ``FLOAT``, ``INT`` or ``BOOL``.
    """

    graph: GraphBuilder
    name: str
    kind: int = FLOAT

    #: Arrays leave their operators to this class.
    __array_ufunc__ = None

    def __add__(self, other: Any) -> Value:
        return self.graph.op("Add", self, other)

    def __radd__(self, other: Any) -> Value:
        return self.graph.op("Add", other, self)

    def __sub__(self, other: Any) -> Value:
        return self.graph.op("Sub", self, other)

    def __rsub__(self, other: Any) -> Value:
        return self.graph.op("Sub", other, self)

    def __mul__(self, other: Any) -> Value:
        return self.graph.op("Mul", self, other)

    def __rmul__(self, other: Any) -> Value:
        return self.graph.op("Mul", other, self)

    def __truediv__(self, other: Any) -> Value:
        return self.graph.op("Div", self, other)

    def __rtruediv__(self, other: Any) -> Value:
        return self.graph.op("Div", other, self)

    def __matmul__(self, other: Any) -> Value:
        return self.graph.op("MatMul", self, other)

    def __rmatmul__(self, other: Any) -> Value:
        return self.graph.op("MatMul", other, self)

    def __neg__(self) -> Value:
        return self.graph.op("Neg", self)

    def __lt__(self, other: Any) -> Value:
        return self.graph.op("Less", self, other, kind=BOOL)

    def __gt__(self, other: Any) -> Value:
        return self.graph.op("Greater", self, other, kind=BOOL)

    def __le__(self, other: Any) -> Value:
        return self.graph.op("LessOrEqual", self, other, kind=BOOL)

    def __and__(self, other: Value) -> Value:
        return self.graph.op("And", self, other)

    def __or__(self, other: Value) -> Value:
        return self.graph.op("Or", self, other)

    def __invert__(self) -> Value:
        return self.graph.op("Not", self)

    def equals(self, other: Any) -> Value:
        """Where both are equal."""
        return self.graph.op("Equal", self, other, kind=BOOL)

    def reshape(self, *shape: int) -> Value:
        """Another shape; one -1."""
        return self.graph.op("Reshape", self, np.array(shape, np.int64))

    def permute(self, *order: int) -> Value:
        """Another order of the axes."""
        return self.graph.op("Transpose", self, perm=list(order))

    def take(self, index: Any, axis: int) -> Value:
        """Rows of an axis; a whole number drops the axis."""
        if not isinstance(index, Value):
            index = np.asarray(index, np.int64)
        return self.graph.op("Gather", self, index, axis=axis)

    def cut(self, axis: int, start: int, stop: int) -> Value:
        """A range of an axis."""
        bounds = (np.array([each], np.int64) for each in (start, stop, axis))
        return self.graph.op("Slice", self, *bounds)

    def widen(self, *axes: int) -> Value:
        """New axes of length 1."""
        return self.graph.op("Unsqueeze", self, np.array(axes, np.int64))

    def sum(self, *axes: int, keep: bool = False) -> Value:
        """Sum over axes."""
        return self.graph.op("ReduceSum", self, np.array(axes, np.int64), keepdims=int(keep))

    def mean(self, *axes: int, keep: bool = False) -> Value:
        """Mean over axes."""
        return self.graph.op("ReduceMean", self, np.array(axes, np.int64), keepdims=int(keep))

    def any(self) -> Value:
        """Whether one of all is true, as a scalar."""
        largest = self.graph.op("ReduceMax", self.to(INT), keepdims=0)
        return largest > np.int64(0)

    def to(self, kind: int) -> Value:
        """Another element type."""
        return self.graph.op("Cast", self, kind=kind, to=kind)

    def at_least(self, other: Any) -> Value:
        """The larger of two."""
        return self.graph.op("Max", self, other)

    def at_most(self, other: Any) -> Value:
        """The smaller of two."""
        return self.graph.op("Min", self, other)

    def fn(self, name: str) -> Value:
        """An operator of one value: ``Sqrt``, ``Exp``, ``Sin``, ..."""
        return self.graph.op(name, self)


class GraphBuilder:
    """Nodes in the order in which they are computed, and the constants of all graphs.

    Args:
        prefix: Before all names.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix, self._count = prefix, 0
        self._scopes: list[list[Any]] = [[]]
        #: The constants; graphs of loops and branches read those of the outermost one.
        self.constants: dict[tuple[Any, ...], tuple[str, np.ndarray]] = {}

    @property
    def nodes(self) -> list[Any]:
        """The nodes of the outermost graph."""
        return self._scopes[0]

    def _name(self) -> str:
        self._count += 1
        return f"{self._prefix}{self._count}"

    def const(self, array: Any) -> Value:
        """A constant: float32, int64 or bool; equal ones are one."""
        array = np.asarray(array)
        if array.dtype.kind == "f":
            array = array.astype(np.float32)
        elif array.dtype.kind == "i":
            array = array.astype(np.int64)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self.constants:
            self.constants[key] = (self._name(), array)
        return Value(self, self.constants[key][0], _KINDS[array.dtype.kind])

    def op(self, operator: str, *inputs: Any, kind: int | None = None, **attributes: Any) -> Value:
        """Compute one tensor; numbers and arrays become constants.

        Args:
            operator: Name of the operator.
            inputs: Values and constants.
            kind: Element type of the result; default: of the first value.
            attributes: Of the operator.
        """
        return self.ops(operator, 1, *inputs, kind=kind, **attributes)[0]

    def ops(
        self, operator: str, outputs: int, *inputs: Any, kind: int | None = None, **attributes: Any
    ) -> tuple[Value, ...]:
        """As ``op``, of operators with several results."""
        import onnx

        values = [each if isinstance(each, Value) else self._as_const(each) for each in inputs]
        if kind is None:
            given = [each for each in inputs if isinstance(each, Value)]
            kind = given[0].kind if given else values[0].kind
        names = [self._name() for _ in range(outputs)]
        node = onnx.helper.make_node(operator, [v.name for v in values], names, **attributes)
        self._scopes[-1].append(node)
        return tuple(Value(self, name, kind) for name in names)

    def _as_const(self, number: Any) -> Value:
        return self.const(np.float32(number) if isinstance(number, int | float) else number)

    def where(self, yes: Value, some: Any, other: Any) -> Value:
        """One of two for each element."""
        parts = [
            each if isinstance(each, Value) else self._as_const(each) for each in (some, other)
        ]
        if parts[0].kind == BOOL:  # for which ONNX Runtime has no Where
            return (yes & parts[0]) | (~yes & parts[1])
        return self.op("Where", yes, *parts, kind=parts[0].kind)

    def concat(self, axis: int, *parts: Value) -> Value:
        """Join along an axis."""
        return self.op("Concat", *parts, axis=axis)

    def loop(
        self,
        limit: int | Value,
        start: Sequence[Value],
        body: Callable[..., tuple[Value, Sequence[Value]]],
        goes_on: Value | None = None,
    ) -> tuple[Value, ...]:
        """Repeat while somebody goes on.

        Args:
            limit: Most repetitions.
            start: What is carried from one to the next.
            body: From the number of the repetition and these to whether to go on, and their new
                values; may read all values outside.
            goes_on: Whether to begin at all; None: yes.
        """
        import onnx

        carried = [Value(self, self._name(), value.kind) for value in start]
        number, going = self._name(), self._name()
        self._scopes.append([])
        again, ends = body(Value(self, number, INT), *carried)
        outs = self._outputs([again, *ends])
        nodes = self._scopes.pop()
        inputs = [_info(number, INT, ()), _info(going, BOOL, ())]
        inputs += [_info(value.name, value.kind) for value in carried]
        graph = onnx.helper.make_graph(nodes, self._name(), inputs, outs)
        first = self.const(np.array(True)) if goes_on is None else goes_on
        names = [self._name() for _ in start]
        most = limit if isinstance(limit, Value) else self.const(np.int64(limit))
        given = [most.name, first.name, *(value.name for value in start)]
        self._scopes[-1].append(onnx.helper.make_node("Loop", given, names, body=graph))
        return tuple(Value(self, n, v.kind) for n, v in zip(names, start, strict=True))

    def branch(
        self,
        yes: Value,
        then: Callable[[], Sequence[Value]],
        other: Callable[[], Sequence[Value]],
    ) -> tuple[Value, ...]:
        """One of two, whichever a scalar says."""
        import onnx

        graphs, kinds = [], []
        for build in (then, other):
            self._scopes.append([])
            values = build()
            outs = self._outputs(values)
            graphs.append(onnx.helper.make_graph(self._scopes.pop(), self._name(), [], outs))
            kinds = [value.kind for value in values]
        names = [self._name() for _ in kinds]
        node = onnx.helper.make_node(
            "If", [yes.name], names, then_branch=graphs[0], else_branch=graphs[1]
        )
        self._scopes[-1].append(node)
        return tuple(Value(self, name, kind) for name, kind in zip(names, kinds, strict=True))

    def _outputs(self, values: Sequence[Value]) -> list[Any]:
        """Results of an inner graph: its own nodes, each a tensor of its own."""
        found = [self.op("Identity", value) for value in values]
        return [_info(value.name, value.kind) for value in found]


def add_constants(model: Any, graph: GraphBuilder) -> None:
    """Put the constants of a graph into the model that its nodes are in."""
    import onnx

    for name, array in graph.constants.values():
        tensor = onnx.numpy_helper.from_array(np.array(array, order="C"), name)
        model.graph.initializer.append(tensor)


def _info(name: str, kind: int, shape: tuple[int, ...] | None = None) -> Any:
    import onnx

    return onnx.helper.make_tensor_value_info(name, kind, shape)
