"""What an ONNX file must not hold, found in its bytes before a runtime opens it.

Only known operators run at a site, and a model is one file: no custom domains, no functions, no data kept elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import sha256

from edge.errors import BadCandidate

MAX_BYTES = 512 << 20
DOMAINS = frozenset({b"", b"ai.onnx", b"ai.onnx.ml"})
OPERATORS = frozenset(
    b"""
    Abs Acos Acosh Add And ArgMax ArgMin ArrayFeatureExtractor Asin Asinh Atan Atanh AveragePool
    BatchNormalization Binarizer BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike
    CategoryMapper Ceil Celu Clip Compress Concat Constant ConstantOfShape Conv ConvInteger ConvTranspose Cos
    Cosh CumSum DepthToSpace DequantizeLinear DictVectorizer Div Dropout DynamicQuantizeLinear Einsum Elu Equal
    Erf Exp Expand EyeLike FeatureVectorizer Flatten Floor GRU Gather GatherElements GatherND Gelu Gemm
    GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual GroupNormalization HardSigmoid HardSwish Hardmax
    Identity If Imputer InstanceNormalization IsInf IsNaN LRN LSTM LabelEncoder LayerNormalization LeakyRelu
    Less LessOrEqual LinearClassifier LinearRegressor Log LogSoftmax LpNormalization LpPool MatMul MatMulInteger
    Max MaxPool Mean MeanVarianceNormalization Min Mish Mod Mul Neg NonZero Normalizer Not OneHot OneHotEncoder
    Or PRelu Pad Pow QLinearConv QLinearMatMul QuantizeLinear RMSNormalization RNN Range Reciprocal ReduceL1
    ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare
    Relu Reshape Resize ReverseSequence Round SVMClassifier SVMRegressor Scaler ScatterElements ScatterND Selu
    Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze
    StringConcat StringNormalizer Sub Sum Swish Tan Tanh TfIdfVectorizer ThresholdedRelu Tile TopK Transpose
    TreeEnsemble TreeEnsembleClassifier TreeEnsembleRegressor Trilu Unique Unsqueeze Where Xor ZipMap
    """.split()
)
"""What a model may do: standard operators that end, and that give the same answer each time. Not among them: loops
(Loop, Scan), chance (RandomNormal, Bernoulli, Multinomial), sequences and optional values."""

_DEPTH = 64
# Of onnx.proto: which fields of a message hold which messages, and what is looked at in them.
_CHILDREN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 8: "opset", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "opset": {},
    "tensor": {},
}


def check(model: bytes) -> None:
    """Raises BadCandidate for a model that a site will not open."""
    if len(model) > MAX_BYTES:
        raise BadCandidate(f"has {len(model)} bytes, at most {MAX_BYTES}", "model.onnx")
    try:
        graphs = _walk(memoryview(model), "model", 0)
    except (IndexError, ValueError) as error:
        raise BadCandidate(f"is not an ONNX model: {error}", "model.onnx") from error
    if not graphs:
        raise BadCandidate("is not an ONNX model: it holds no graph", "model.onnx")


def outline(model: bytes) -> str:
    """sha256 of what a model is built of: its operators in order, and the shapes of its tensors, not what they hold.

    Raises IndexError or ValueError where it is no ONNX model.
    """
    found = sha256()
    _draw(memoryview(model), "model", found.update)
    return found.hexdigest()


def _draw(message: memoryview, kind: str, write: Callable[[bytes], None]) -> None:
    for number, value in _fields(message):
        if (kind, number) in (("node", 4), ("node", 7), ("tensor", 1)):
            said = bytes(value) if isinstance(value, memoryview) else str(value).encode()
            write(f"{kind} {number} {len(said)} ".encode() + said)
        elif number in _CHILDREN[kind] and isinstance(value, memoryview) and _CHILDREN[kind][number] in _CHILDREN:
            _draw(value, _CHILDREN[kind][number], write)


def _walk(message: memoryview, kind: str, depth: int) -> int:
    """How many graphs there are at this level."""
    if depth > _DEPTH:
        raise BadCandidate(f"is nested more than {_DEPTH} deep", "model.onnx")
    graphs = 0
    children = _CHILDREN[kind]
    for number, value in _fields(message):
        if (kind, number) in (("node", 7), ("opset", 1)):
            domain = bytes(value) if isinstance(value, memoryview) else b"?"
            if domain not in DOMAINS:
                raise BadCandidate(f"uses operators of {domain.decode(errors='replace')!a}", "model.onnx")
        elif (kind, number) == ("node", 4):
            operator = bytes(value) if isinstance(value, memoryview) else b"?"
            if operator not in OPERATORS:
                raise BadCandidate(f"uses the operator {operator.decode(errors='replace')!a}", "model.onnx")
        elif kind == "tensor" and (number == 13 or (number == 14 and value != 0)):
            raise BadCandidate("keeps data in other files", "model.onnx")
        elif number in children and isinstance(value, memoryview):
            child = children[number]
            if child in ("training", "function"):
                raise BadCandidate(f"holds a {child}; only a plain graph is run", "model.onnx")
            graphs += child == "graph"
            _walk(value, child, depth + 1)
    return graphs


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of every field of a protobuf message; IndexError or ValueError where it is none."""
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at)
        if tag >= 1 << 32:
            raise ValueError("a tag of more than 32 bits")  # of which a parser may read the lower 32 alone
        wire = tag & 7
        value: int | memoryview = 0
        if wire == 0:
            value, at = _varint(message, at)
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        elif wire == 2:
            size, at = _varint(message, at)
            value = message[at : at + size]
            at += size
        else:
            raise ValueError(f"wire type {wire}")
        if at > end:
            raise IndexError("it ends in the middle of a field")
        yield tag >> 3, value


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = message[at]
    at += 1
    if value < 128:
        return value, at
    value &= 127
    for shift in range(7, 70, 7):
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("a number of more than 10 bytes")
