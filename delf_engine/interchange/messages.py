"""The messages of protocol buffers that other software keeps features and models in, as protobuf classes.

They are described here in place of ``.proto`` files, which a compiler would have to turn into code that fits the
installed protobuf. Fields that are not listed are passed over. Sources: tensorflow/models,
research/delf/delf/protos (datum.proto, feature.proto); tensorflow/core/protobuf (tensor_bundle.proto,
trackable_object_graph.proto).
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

from delf_engine.errors import FormatError
from delf_engine.support.files import system_errors

#: Messages by package and syntax: fields as "number type name"; "*" marks repeated ones, packed where they can be.
_MESSAGES = {
    ("delf.protos", "proto2"): {
        "DatumShape": "1 int64* dim",
        "FloatList": "1 float* value",
        "Uint32List": "1 uint32* value",
        "DatumProto": "1 DatumShape shape, 2 FloatList float_list, 3 Uint32List uint32_list",
        "DelfFeature": "1 DatumProto descriptor, 2 float x, 3 float y, 4 float scale, 5 float orientation, "
        "6 float strength",
        "DelfFeatures": "1 DelfFeature* feature",
    },
    ("tensorflow", "proto3"): {
        "BundleHeaderProto": "1 int32 num_shards, 2 int32 endianness",
        "Dim": "1 int64 size",
        "TensorShapeProto": "2 Dim* dim",
        # Slices are messages, of which it only matters whether there are any.
        "BundleEntryProto": "1 int32 dtype, 2 TensorShapeProto shape, 3 int32 shard_id, 4 int64 offset, "
        "5 int64 size, 6 fixed32 crc32c, 7 bytes* slices",
        "ObjectReference": "1 int32 node_id, 2 string local_name",
        "SerializedTensor": "1 string name, 3 string checkpoint_key",
        "TrackableObject": "1 ObjectReference* children, 2 SerializedTensor* attributes",
        "TrackableObjectGraph": "1 TrackableObject* nodes",
    },
}


def parse_message(kind: Any, data: bytes, where: str) -> Any:
    """Read a message of a class of this module; `FormatError`, naming `where`, if `data` is none."""
    message: Message = kind()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise FormatError(f"{where}: damaged, or no message {kind.DESCRIPTOR.name}: {error}") from error
    return message


def read_datum(path: str | os.PathLike[str]) -> npt.NDArray[np.float32]:
    """Read a ``.datum`` file of the published DELF code: an array of float32, of the shape that the file states.

    A `FormatError` if it cannot be read, is not a datum of floats, or its shape does not fit its values.
    """
    with system_errors(f"{path}: cannot be read"):
        data = Path(path).read_bytes()
    return array_of(parse_message(DatumProto, data, str(path)), str(path))


def array_of(datum: Any, where: str) -> npt.NDArray[np.float32]:
    """Return the array of a `DatumProto`; errors as of `read_datum`, naming `where`."""
    if datum.HasField("uint32_list"):
        raise FormatError(f"{where}: holds uint32_list; only float_list is an array of floats")
    shape, count = tuple(datum.shape.dim), len(datum.float_list.value)
    packed = datum.float_list.SerializeToString()  # its end is the floats: quicker than one by one
    values = np.frombuffer(packed[len(packed) - 4 * count :], "<f4").astype(np.float32)
    if min(shape, default=0) >= 0:
        with suppress(ValueError):
            return values.reshape(shape)
    raise FormatError(f"{where}: its shape {shape} does not fit the {count} values that it holds")


def _classes() -> dict[str, Any]:
    # A pool of its own: TensorFlow, if it is loaded, keeps its messages in the common one.
    pool = descriptor_pool.DescriptorPool()
    classes = {}
    for (package, syntax), messages in _MESSAGES.items():
        file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax=syntax)
        for name, fields in messages.items():
            entry = file.message_type.add(name=name)
            for field in fields.split(", "):
                _add_field(entry, package, *field.split())
        pool.Add(file)
        for name in messages:
            classes[name] = message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}"))
    return classes


def _add_field(entry: Any, package: str, number: str, kind: str, name: str) -> None:
    proto = descriptor_pb2.FieldDescriptorProto
    field = entry.field.add(name=name, number=int(number))
    repeated, kind = kind.endswith("*"), kind.removesuffix("*")
    field.label = proto.LABEL_REPEATED if repeated else proto.LABEL_OPTIONAL
    if kind[0].isupper():
        field.type, field.type_name = proto.TYPE_MESSAGE, f".{package}.{kind}"
    else:
        field.type = getattr(proto, f"TYPE_{kind.upper()}")
        if repeated and kind != "bytes":
            field.options.packed = True


_CLASSES = _classes()
DatumProto, DelfFeatures = _CLASSES["DatumProto"], _CLASSES["DelfFeatures"]
BundleHeaderProto, BundleEntryProto = _CLASSES["BundleHeaderProto"], _CLASSES["BundleEntryProto"]
TrackableObjectGraph = _CLASSES["TrackableObjectGraph"]
