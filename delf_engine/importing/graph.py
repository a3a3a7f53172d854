"""The object graph of a TensorFlow 2 checkpoint: which Python attribute path leads to which stored tensor.

The names of the tensors alone do not tell (a SavedModel may number them), the graph does. It is one message
``TrackableObjectGraph {TrackableObject nodes = 1}`` with ``TrackableObject {ObjectReference children = 1;
SerializedTensor attributes = 2}``, ``ObjectReference {int32 node_id = 1; string local_name = 2}`` and
``SerializedTensor {string name = 1; string checkpoint_key = 3}``; node 0 is the root.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from delf_engine.errors import FormatError
from delf_engine.wire import read_fields

__all__ = ["OBJECT_GRAPH", "ObjectGraph"]

#: Name of the tensor that holds the graph.
OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"


class _Node(NamedTuple):
    children: dict[str, int]
    tensors: dict[str, str]


class ObjectGraph:
    """Objects of a checkpoint, by number.

    Parameters
    ----------
    data : bytes
        The message.
    where : str
        Names it in errors.

    Raises
    ------
    FormatError
        If it is not such a message, or refers to objects that it does not have.
    """

    def __init__(self, data: bytes, where: str) -> None:
        self._where = where
        self._nodes = [
            _node(_bytes(value, where), where) for field, value in read_fields(data, where) if field == 1
        ]
        for node in self._nodes:
            if any(child >= len(self._nodes) for child in node.children.values()):
                raise FormatError(f"{where}: damaged: refers to an object that is not there")

    def find(self, wanted: Collection[str]) -> int | None:
        """Return the object nearest to the root that has all these children; None if there is none."""
        queue, seen = [0] if self._nodes else [], {0}
        while queue:
            at = queue.pop(0)
            children = self._nodes[at].children
            if all(name in children for name in wanted):
                return at
            for child in children.values():
                if child not in seen:
                    seen.add(child)
                    queue.append(child)
        return None

    def child(self, node: int, path: str) -> int | None:
        """Return the object that a path such as ``backbone/conv1`` leads to from `node`, or None."""
        for name in path.split("/"):
            follow = self._nodes[node].children.get(name)
            if follow is None:
                return None
            node = follow
        return node

    def key(self, node: int, path: str) -> str | None:
        """Return the name under which the variable at a path is stored, or None if there is no such variable."""
        found = self.child(node, path)
        return None if found is None else self._nodes[found].tensors.get("VARIABLE_VALUE")


def _node(data: bytes, where: str) -> _Node:
    children, tensors = {}, {}
    for field, value in read_fields(data, where):
        if field not in (1, 2):
            continue
        fields = dict(read_fields(_bytes(value, where), where))
        if field == 1:
            number = fields.get(1, 0)
            if isinstance(number, bytes):
                raise FormatError(f"{where}: damaged: an object's number is not one")
            children[_text(fields.get(2, b""), where)] = number
        else:
            tensors[_text(fields.get(1, b""), where)] = _text(fields.get(3, b""), where)
    return _Node(children, tensors)


def _text(value: int | bytes, where: str) -> str:
    return _bytes(value, where).decode("utf-8", "replace")


def _bytes(value: int | bytes, where: str) -> bytes:
    if isinstance(value, int):
        raise FormatError(f"{where}: damaged: a number where a name or message should be")
    return value
