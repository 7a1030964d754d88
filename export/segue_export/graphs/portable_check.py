"""Checks that a model file is exactly what export writes for its manifest. Anything else is refused.

A model file may come from anywhere, and ONNX allows much that no segue model needs: weights in other files, nested
graphs, operators from libraries. So the manifest, which is small and validated, defines the file:

    size      bounded before parsing; little more than the weights' raw bytes, so that parsing takes little memory
    tensors   names, types and shapes before any array is made; raw bytes in the file itself; finite numbers
    the rest  equal to `graph_without_constants`, with the manifest in the metadata

The file is parsed in memory, never opened by a path, and nothing in it is run. Its outer form, up to its raw bytes, is
checked in the file (`check_frame`), so that only what may be a model is read into memory.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from typing import Any, BinaryIO, Final

import msgspec
import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import AttributeProto, TensorProto, helper

from segue_export.errors import ForeignGraph
from segue_export.graphs.portable import (
    IR_VERSION,
    OPSET,
    Constants,
    TensorType,
    fixed_constants,
    graph_without_constants,
    weight_types,
    weights_of_constants,
)
from segue_export.manifest import METADATA_KEY, Manifest, Weights, to_json

_MAX_EMBEDDING: Final = 2**16
_MAX_PROTOBUF: Final = 2**31 - 1  # bytes; no larger message can be written or parsed
_FIRST_TAG: Final = 8  # field 1, as a varint
_RAW_DATA: Final = (7, 5, 9)  # the fields that lead to the weights: ModelProto.graph, .initializer, .raw_data


def largest_graph(manifest: Manifest) -> int:
    """Return the largest possible size of the graph of `manifest`, in bytes."""
    weights = sum(tensor.nbytes for tensor in weight_types(manifest, _MAX_EMBEDDING).values())
    return min(weights + _largest_frame(manifest), _MAX_PROTOBUF)


def check_graph(graph: bytes, manifest: Manifest) -> Weights:
    """Return the weights in `graph`, the bytes of a model file, by torch's names. The arrays are read-only.

    Raises ForeignGraph with the reason if `graph` is not what `portable_graph` writes for `manifest`.
    """
    check_frame(BytesIO(graph), manifest)
    model, expected = _parse(graph), graph_without_constants(manifest)
    _check_head(model)
    _check_nodes(model.graph.node, expected.graph.node)
    _check_names("inputs", model.graph.input, expected.graph.input)
    _check_names("outputs", model.graph.output, expected.graph.output)
    constants = _constants(model.graph, manifest)
    _check_metadata(model, manifest)
    _check_rest(model, expected, graph)
    return weights_of_constants(manifest, constants)


def check_frame(file: BinaryIO, manifest: Manifest) -> None:
    """Check size and outer form of a model file without reading its weights. Raises ForeignGraph with the reason."""
    _check_size(_Message(file, 0, file.seek(0, os.SEEK_END)), manifest)


class _Message:
    """A part of a file, read where it is looked at."""

    def __init__(self, file: BinaryIO, start: int, stop: int) -> None:
        self._file = file
        self._start = start
        self._stop = stop

    def __len__(self) -> int:
        return self._stop - self._start

    def byte(self, position: int) -> int:
        """Return one byte; raises IndexError after the last."""
        if position >= len(self):
            raise IndexError(position)
        self._file.seek(self._start + position)
        return self._file.read(1)[0]

    def part(self, start: int, stop: int) -> "_Message":
        """Return a part of this part."""
        return _Message(self._file, self._start + start, self._start + stop)


def _check_size(message: _Message, manifest: Manifest) -> None:
    if len(message) > largest_graph(manifest):
        raise ForeignGraph(f"has {len(message):,} bytes; a model of its shape has at most {largest_graph(manifest):,}")
    limit = _largest_frame(manifest)
    try:
        frame = _frame(message, _RAW_DATA, limit)
    except (IndexError, ValueError) as error:
        raise ForeignGraph("is not an ONNX model, or not a whole one") from error
    if frame > limit:
        raise ForeignGraph(f"holds more beside its raw weights than the {limit:,} bytes that a model of its shape may")


def _largest_frame(manifest: Manifest) -> int:
    """Return a bound for everything except the weights: nodes, names, and the manifest."""
    return 2**15 + 2**12 * manifest.layers + 2 * len(manifest.to_json())


def _frame(message: _Message, path: Sequence[int], limit: int) -> int:
    """Return how many bytes of `message` are outside the fields at `path`; stop counting beyond `limit`.

    Raises IndexError or ValueError if `message` is not a complete protobuf message.
    """
    if not path:
        return 0
    count = position = 0
    while position < len(message) and count <= limit:
        tag, start = _varint(message, position)
        if tag < _FIRST_TAG:
            raise ValueError("fields are numbered from 1")
        size, start = _content(message, start, tag & 7)
        if start + size > len(message):
            raise ValueError("a field ends after its message")
        count += start - position
        position = start + size
        on_path = tag == path[0] << 3 | 2
        count += _frame(message.part(start, position), path[1:], limit - count) if on_path else size
    return count


def _content(message: _Message, position: int, wire_type: int) -> tuple[int, int]:
    """Return the size and the position of a field's content."""
    match wire_type:
        case 0:  # a varint
            return 0, _varint(message, position)[1]
        case 1:
            return 8, position
        case 2:  # a string or a message, after its length
            return _varint(message, position)
        case 5:
            return 4, position
        case _:
            raise ValueError(f"wire type {wire_type}")


def _varint(message: _Message, position: int) -> tuple[int, int]:
    """Return the number at `position`, encoded in 7 bits a byte, and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = message.byte(position)
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - the last one
            return value, position
    raise ValueError("a number of more than 64 bits")


def _parse(graph: bytes) -> onnx.ModelProto:
    model = onnx.ModelProto()
    try:
        model.ParseFromString(graph)
    except DecodeError as error:
        raise ForeignGraph("is not an ONNX model, or not a whole one") from error
    return model


def _check_head(model: onnx.ModelProto) -> None:
    if model.functions or model.training_info:
        raise ForeignGraph("defines functions or training steps")
    domains = [(opset.domain, opset.version) for opset in model.opset_import]
    if model.ir_version != IR_VERSION or domains != [("", OPSET)]:
        raise ForeignGraph(
            f"has IR version {model.ir_version} and operator sets {_short(domains)}; "
            f"export writes IR version {IR_VERSION} and opset {OPSET} of the default domain alone"
        )


def _check_nodes(found: Sequence[onnx.NodeProto], expected: Sequence[onnx.NodeProto]) -> None:
    known = {node.op_type for node in expected}
    for node in found:
        if node.domain or node.op_type not in known:
            raise ForeignGraph(f"uses the operator {_short((node.domain, node.op_type))}, which its model does not use")
        if any(attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for attribute in node.attribute):
            raise ForeignGraph(f"holds a graph within its node of {node.op_type}")
    if len(found) != len(expected):
        raise ForeignGraph(f"has {len(found)} nodes; export writes {len(expected)}")
    for index, (ours, theirs) in enumerate(zip(expected, found, strict=True)):
        if ours != theirs:
            raise ForeignGraph(
                f"has another node {index} than export writes: "
                f"{theirs.op_type} of {_short(list(theirs.input))} to {_short(list(theirs.output))}, "
                f"not {ours.op_type} of {list(ours.input)} to {list(ours.output)}, or other attributes"
            )


def _check_names(kind: str, found: Sequence[onnx.ValueInfoProto], expected: Sequence[onnx.ValueInfoProto]) -> None:
    names = [value.name for value in found]
    if names != [value.name for value in expected]:
        raise ForeignGraph(f"has the {kind} {_short(names)}, not {', '.join(value.name for value in expected)}")


def _constants(graph: onnx.GraphProto, manifest: Manifest) -> Constants:
    """Return the initializers, checked."""
    if graph.sparse_initializer:
        raise ForeignGraph("holds sparse tensors")
    fixed = fixed_constants(manifest)
    types = {name: TensorType(value.dtype, value.shape) for name, value in fixed.items()}
    types |= weight_types(manifest, _embedding(graph, manifest))
    _check_initializer_names([tensor.name for tensor in graph.initializer], types)
    for tensor in graph.initializer:  # all of them, before the first array is made
        _check_type(tensor, types[tensor.name])
    constants = {tensor.name: _array(tensor, types[tensor.name]) for tensor in graph.initializer}
    for name, value in fixed.items():
        if not np.array_equal(constants[name], value):
            raise ForeignGraph(f"has other values in {name} than export writes")
    return constants


def _embedding(graph: onnx.GraphProto, manifest: Manifest) -> int:
    """Return the width of the embedding, which the manifest does not say."""
    shapes = [list(tensor.dims) for tensor in graph.initializer if tensor.name == "embedding"]
    match shapes:
        case [[vocabulary, width]] if vocabulary == len(manifest.vocabulary) and 1 <= width <= _MAX_EMBEDDING:
            return width
        case _:
            raise ForeignGraph(
                f"has embeddings of the shapes {_short(shapes)}; export writes one, "
                f"[{len(manifest.vocabulary)}, 1 to {_MAX_EMBEDDING}]"
            )


def _check_initializer_names(found: Sequence[str], types: dict[str, TensorType]) -> None:
    if missing := types.keys() - set(found):
        raise ForeignGraph(f"lacks the tensors {_short(sorted(missing))}")
    if extra := [name for name in found if name not in types]:
        raise ForeignGraph(f"holds the tensors {_short(extra)}, which export does not write")
    if len(found) > len(types):
        raise ForeignGraph("holds two tensors of one name")


def _check_type(tensor: TensorProto, expected: TensorType) -> None:
    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        raise ForeignGraph(f"keeps the values of {tensor.name} in another file")
    data_type = helper.np_dtype_to_tensor_dtype(expected.dtype)
    if tensor.data_type != data_type or tuple(tensor.dims) != expected.shape:
        raise ForeignGraph(
            f"has type {tensor.data_type}, shape {_short(list(tensor.dims))} for {tensor.name}; "
            f"its manifest implies type {data_type} ({expected.dtype}), shape {list(expected.shape)}"
        )
    header = TensorProto(name=tensor.name, data_type=data_type, dims=expected.shape, raw_data=tensor.raw_data)
    if len(header.raw_data) != expected.nbytes or tensor != header:
        raise ForeignGraph(f"does not hold {tensor.name} as {expected.nbytes:,} raw bytes alone")


def _array(tensor: TensorProto, expected: TensorType) -> NDArray[Any]:
    array = np.frombuffer(tensor.raw_data, dtype=expected.dtype.newbyteorder("<")).reshape(expected.shape)
    if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
        raise ForeignGraph(f"has numbers in {tensor.name} that are not finite")
    return array


def _check_metadata(model: onnx.ModelProto, manifest: Manifest) -> None:
    match [(entry.key, entry.value) for entry in model.metadata_props]:
        case [(key, document)] if key == METADATA_KEY:
            pass
        case entries:
            raise ForeignGraph(f"has the metadata {_short([key for key, _ in entries])}, not {METADATA_KEY} alone")
    try:
        written, entries = Manifest.from_json(document), msgspec.json.decode(document)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ForeignGraph("has a manifest in its metadata that is not one") from error
    expected = replace(manifest, files={})
    if written != expected:
        raise ForeignGraph("comes from another model: the manifest in its metadata is not the one beside it")
    if document != to_json(entries).decode() or not _within(entries, msgspec.json.decode(expected.to_json())):
        raise ForeignGraph("has a manifest in its metadata that export writes in other words")


def _within(found: Any, expected: Any) -> bool:
    """Return whether all of `found` is in `expected`, which may have further fields."""
    if isinstance(found, dict) and isinstance(expected, dict):
        return found.keys() <= expected.keys() and all(_within(found[name], expected[name]) for name in found)
    return bool(found == expected)


def _check_rest(model: onnx.ModelProto, expected: onnx.ModelProto, graph: bytes) -> None:
    """Refuse whatever has not been checked: other fields, unknown ones, and other encodings of the same."""
    if model.SerializeToString(deterministic=True) != graph:
        raise ForeignGraph("is not encoded as export encodes it")
    model.graph.ClearField("initializer")
    model.ClearField("metadata_props")
    if model.SerializeToString(deterministic=True) != expected.SerializeToString(deterministic=True):
        raise ForeignGraph("holds types, texts or fields that export does not write")


def _short(value: object) -> str:
    """Return untrusted `value` on one line of bounded length."""
    return f"{value!r:.120}"
