"""Does an ONNX file keep weights outside itself? Read from its protobuf framing, without the onnx package.

One file is the model: a file with external weights would be incomplete after a copy, and could name any path of the
host.

Source: onnx.proto of ONNX 1.x (field numbers) and the protobuf wire format.
"""

from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# Message → {field number: message inside}; only the paths that lead to a TensorProto.
_PATHS: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 25: "Function"},
    "Function": {7: "Node"},
    "Graph": {1: "Node", 5: "Tensor", 15: "Sparse"},
    "Sparse": {1: "Tensor", 2: "Tensor"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "Sparse", 23: "Sparse"},
}
_TENSOR_EXTERNAL_DATA = 13
_TENSOR_DATA_LOCATION = 14
_EXTERNAL = 1
_MAX_DEPTH = 64


class MalformedFile(ValueError):
    """The bytes are not a protobuf message; the file is truncated, or no ONNX file."""


def has_external_data(data: bytes) -> bool:
    """Return whether any tensor of an ONNX file, including subgraphs and functions, is stored outside the file.

    Raises:
        MalformedFile: not an ONNX file, or a truncated one.
    """
    return _reaches_external(memoryview(data), "Model", _MAX_DEPTH)


def _reaches_external(message: memoryview, kind: str, depth: int) -> bool:
    if depth == 0:
        raise MalformedFile("nested too deeply")
    if kind == "Tensor":
        return any(
            number == _TENSOR_EXTERNAL_DATA or (number == _TENSOR_DATA_LOCATION and value == _EXTERNAL)
            for number, value in _fields(message)
        )
    paths = _PATHS[kind]
    return any(
        isinstance(value, memoryview) and _reaches_external(value, paths[number], depth - 1)
        for number, value in _fields(message)
        if number in paths
    )


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield (field number, value) of a message; the value of a length-delimited field is a view."""
    position, end = 0, len(message)
    while position < end:
        tag, position = _varint(message, position)
        number, wire = tag >> 3, tag & 7
        value: int | memoryview
        if wire == _VARINT:
            value, position = _varint(message, position)
        elif wire == _BYTES:
            length, position = _varint(message, position)
            value, position = message[position : position + length], position + length
        elif wire in (_FIXED64, _FIXED32):
            width = 8 if wire == _FIXED64 else 4
            value, position = int.from_bytes(message[position : position + width], "little"), position + width
        else:
            raise MalformedFile(f"unknown wire type {wire}")
        if position > end or number == 0:
            raise MalformedFile("a field ends after its message")
        yield number, value


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    result = shift = 0
    while position < len(message) and shift < 70:
        byte = message[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, position
        shift += 7
    raise MalformedFile("a number has no end")
