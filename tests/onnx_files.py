"""Small files of ONNX, written without its package: messages of protocol buffers, of which a file consists."""

import struct

FLOAT, FLOAT16, DOUBLE, INT64 = 1, 10, 11, 7
INTS, INT = 7, 2


def message(*fields):
    """Fields (number, value): whole numbers, or bytes and text with their length before them."""
    written = b""
    for number, value in fields:
        if isinstance(value, int):
            written += varint(number << 3) + varint(value)
        else:
            content = value.encode() if isinstance(value, str) else value
            written += varint(number << 3 | 2) + varint(len(content)) + content
    return written


def varint(value):
    value &= 2**64 - 1
    written = b""
    while value > 127:
        written += bytes([value & 127 | 128])
        value >>= 7
    return written + bytes([value])


def tensor(name, shape, values):
    return message(
        *((1, length) for length in shape), (2, FLOAT), (8, name), (9, struct.pack(f"<{len(values)}f", *values))
    )


def node(kind, inputs, outputs, **attributes):
    """A node; attributes are whole numbers or lists of them."""
    encoded = [
        message((1, name), *(((8, item) for item in value) if isinstance(value, list) else ((3, value),)),
                (20, INTS if isinstance(value, list) else INT))
        for name, value in attributes.items()
    ]  # fmt: skip
    return message(
        *((1, name) for name in inputs), *((2, name) for name in outputs), (4, kind), *((5, item) for item in encoded)
    )


def value(name, shape, kind=FLOAT):
    """An input or an output; lengths are whole numbers, or names for any."""
    axes = [(1, message((1, length) if isinstance(length, int) else (2, length))) for length in shape]
    return message((1, name), (2, message((1, message((1, kind), (2, message(*axes)))))))


def model(nodes, inputs, outputs, tensors=()):
    graph = message(
        *((1, one) for one in nodes),
        (2, "graph"),
        *((5, one) for one in tensors),
        *((11, one) for one in inputs),
        *((12, one) for one in outputs),
    )
    return message((1, 8), (7, graph), (8, message((1, ""), (2, 17))))


def classifier(
    weights, shape=("N", 3, 16, 16), last=False, softmax=False, kind=FLOAT, inputs=1, sigmoid=False, means=False
):
    """The mean of each channel, times `weights` (C, classes): as many inputs as are wanted, of which the first counts.

    With `means`, the channels' means are an output before it.
    """
    nodes = [node("Transpose", ["picture"], ["turned"], perm=[0, 3, 1, 2])] if last else []
    nodes += [node("Cast", ["turned" if last else "picture"], ["cast"], to=FLOAT)]
    nodes += [node("ReduceMean", ["cast"], ["means"], axes=[2, 3], keepdims=0)]
    nodes += [node("MatMul", ["means", "weights"], ["logits"])]
    nodes += [node("Softmax", ["logits"], ["shares"], axis=1)] if softmax else []
    nodes += [node("Sigmoid", ["logits"], ["shares"])] if sigmoid else []
    rows = [value for row in weights for value in row]
    more = [value(f"more{number}", ("N", 1)) for number in range(inputs - 1)]
    return model(
        nodes,
        [value("picture", shape, kind), *more],
        [
            *([value("means", (shape[0], len(weights)))] if means else []),
            value("shares" if softmax or sigmoid else "logits", (shape[0], len(weights[0]))),
        ],
        [tensor("weights", (len(weights), len(weights[0])), rows)],
    )
