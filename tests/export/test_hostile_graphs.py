"""Model folders that someone made to do harm, or that broke on the way: each is refused, in one line, unread.

There are more than 600 cases. In most of them the manifest's SHA-256 has been made anew to fit the file, as an
attacker would, so that only the check of the graph stands in the way.
"""

import gzip
import hashlib
import io
import json
import os
import pickle
import random
import sys
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from segue_export.artifact import MODEL_FILE, read_artifact
from segue_export.errors import DamagedArtifact, ForeignGraph
from segue_export.export import describe, export_checkpoint
from segue_export.graphs.portable import portable_graph
from segue_export.graphs.portable_check import check_graph, largest_graph
from segue_export.graphs.quantization import quantize
from segue_export.manifest import ARCHITECTURES, MANIFEST_FILE, METADATA_KEY, Manifest, to_json
from segue_training.text.vocabulary import Vocabulary
from segue_training.train.checkpoint import Checkpoint, save_checkpoint

EditModel = Callable[[onnx.ModelProto], object]

_opened: list[str] | None = None  # an audit hook cannot be removed, but it can be told to look away


def _note_open(event: str, arguments: tuple[object, ...]) -> None:
    if _opened is not None and event == "open":
        _opened.append(os.fsdecode(arguments[0]) if isinstance(arguments[0], str | bytes) else repr(arguments[0]))


sys.addaudithook(_note_open)


@contextmanager
def files_opened() -> Iterator[list[str]]:
    """Collect the paths that Python opens meanwhile."""
    global _opened  # noqa: PLW0603
    _opened = []
    try:
        yield _opened
    finally:
        _opened = None


@dataclass(frozen=True)
class Sound:
    """An artifact as export writes it."""

    manifest: Manifest
    graph: bytes


@pytest.fixture(scope="module")
def make_sound(make_checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Sound]:
    """Return the function that exports a model of a given shape."""

    @cache
    def make(layers: int, hidden: int, architecture: str) -> Sound:
        folder = tmp_path_factory.mktemp("sound")
        save_checkpoint(folder / "checkpoint", make_checkpoint(layers, hidden, 1, architecture))
        artifact = read_artifact(export_checkpoint(folder / "checkpoint", folder / "models", "a").folder)
        return Sound(artifact.manifest, artifact.graph)

    return make


@pytest.fixture(scope="module")
def sound(make_sound) -> Sound:
    return make_sound(2, 6, "lstm")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "models" / "a" / "1").mkdir(parents=True)
    return tmp_path / "models" / "a" / "1"


def plant(folder: Path, manifest: Manifest, graph: bytes) -> None:
    """Write an artifact whose hash is right."""
    manifest = replace(manifest, files={MODEL_FILE: hashlib.sha256(graph).hexdigest()})
    (folder / MANIFEST_FILE).write_bytes(manifest.to_json())
    (folder / MODEL_FILE).write_bytes(graph)


def assert_refused(folder: Path, words: str = "", error_type: type[DamagedArtifact] = DamagedArtifact) -> None:
    with files_opened() as paths, pytest.raises(error_type) as error:
        read_artifact(folder)
    message = str(error.value)
    assert words in message
    assert len(message.splitlines()) == 1
    assert len(message) < 600 + len(str(folder))
    assert {path for path in paths if Path(path).parent != folder} <= {str(folder)}


def assert_foreign(graph: bytes, manifest: Manifest, folder: Path, words: str = "") -> None:
    plant(folder, manifest, graph)
    assert_refused(folder, words, ForeignGraph)


# What export writes is accepted.


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("vocabulary", [Vocabulary.from_text("a small\nvocabulary é你𝄞"), Vocabulary.of_bytes()])
def test_what_export_writes_is_accepted_and_holds_the_checkpoint(
    make_checkpoint, tmp_path: Path, architecture: str, layers: int, vocabulary: Vocabulary
) -> None:
    checkpoint = make_checkpoint(layers, 5, 1, architecture, vocabulary=vocabulary)
    save_checkpoint(tmp_path / "checkpoint", checkpoint)
    artifact = read_artifact(export_checkpoint(tmp_path / "checkpoint", tmp_path / "models", "a").folder)
    assert artifact.weights.keys() == checkpoint.weights.keys()
    for name, tensor in checkpoint.weights.items():
        assert np.array_equal(artifact.weights[name], tensor.numpy())
        assert artifact.weights[name].dtype == np.float32


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("layers", [1, 3])
def test_weights_in_8_bits_come_back_as_they_were(
    make_checkpoint, folder: Path, architecture: str, layers: int
) -> None:
    manifest, weights = quantized(make_checkpoint(layers, 5, 1, architecture))
    plant(folder, manifest, portable_graph(manifest, weights))
    found = read_artifact(folder).weights
    assert found.keys() == weights.keys()
    for name, value in weights.items():
        assert np.array_equal(found[name], value)
        assert found[name].dtype == value.dtype


def quantized(checkpoint: Checkpoint) -> tuple[Manifest, dict[str, np.ndarray]]:
    weights = {name: tensor.numpy() for name, tensor in checkpoint.weights.items()}
    return replace(describe(checkpoint), weights="int8"), quantize(weights, checkpoint.model.layers)


def test_the_width_of_weights_cannot_be_misstated(make_checkpoint, sound: Sound, folder: Path) -> None:
    manifest, weights = quantized(make_checkpoint(2, 6, 1, "lstm"))
    assert_foreign(portable_graph(manifest, weights), sound.manifest, folder)
    assert_foreign(sound.graph, replace(sound.manifest, weights="int8"), folder)


def test_the_largest_vocabulary_fits(make_checkpoint, folder: Path) -> None:
    vocabulary = Vocabulary(("<unk>", "\n", *map(chr, range(0x10000, 0x1FFFE))))
    checkpoint = make_checkpoint(1, 1, 1, vocabulary=vocabulary)
    manifest = describe(checkpoint)
    weights = {name: tensor.numpy() for name, tensor in checkpoint.weights.items()}
    plant(folder, manifest, portable_graph(manifest, weights))
    assert len(read_artifact(folder).manifest.vocabulary) == 2**16


def test_the_form_of_a_graph_has_not_changed_with_onnx(sound: Sound) -> None:
    """A library that builds the same nodes into other bytes would make every artifact of before be refused."""
    model = onnx.load_from_string(sound.graph)
    model.graph.ClearField("initializer")
    model.ClearField("metadata_props")
    digest = hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
    assert digest == "db3978cade8294beea28615b569175a043acfb1a8a03a42d3c828df47a5dce64"


def test_an_artifact_from_before_a_field_existed_is_read(sound: Sound, folder: Path) -> None:
    model = onnx.load_from_string(sound.graph)
    set_metadata(model, lambda entries: {name: value for name, value in entries.items() if name != "documents"})
    plant(folder, sound.manifest, model.SerializeToString(deterministic=True))
    assert read_artifact(folder).manifest.documents == "none"


# Files that are broken or disguised.


def zipped(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("model.onnx", content)
    return buffer.getvalue()


class Payload:
    def __reduce__(self):
        return (os.system, ("false",))


DISGUISES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "a zero": lambda _: b"\0",
    "zeros": lambda graph: bytes(len(graph)),
    "ones": lambda graph: b"\xff" * len(graph),
    "text": lambda _: b"not a model\n",
    "html": lambda _: b"<!DOCTYPE html><html><body>404</body></html>",
    "git-lfs": lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
    "json": lambda _: b"{}",
    "pickle": lambda _: pickle.dumps(Payload()),
    "pickle 0": lambda _: pickle.dumps(Payload(), protocol=0),
    "gzip": gzip.compress,
    "zip": zipped,
    "elf": lambda _: b"\x7fELF\x02\x01\x01" + bytes(57),
    "numpy": lambda _: b"\x93NUMPY\x01\x00v\x00" + b" " * 118,
    "safetensors": lambda _: (2).to_bytes(8, "little") + b"{}",
    "twice": lambda graph: graph + graph,
    "a byte before": lambda graph: b"\0" + graph,
    "a byte behind": lambda graph: graph + b"\0",
    "reversed": lambda graph: graph[::-1],
    "noise": lambda graph: random.Random(1).randbytes(len(graph)),
    "an unknown field": lambda graph: graph + b"\xf8\x07\x01",
    "an unknown field in front": lambda graph: b"\xf8\x07\x01" + graph,
    "a second ir_version": lambda graph: b"\x08\x63" + graph,
    "a second graph": lambda graph: graph + b"\x3a\x00",
    "another order": lambda graph: graph[2:] + graph[:2],
    "a long number": lambda graph: b"\x08\x88\x80\x00" + graph[2:],
    "a huge number": lambda graph: b"\x08" + b"\xff" * 9 + b"\x01" + graph[2:],
    "an endless number": lambda graph: b"\x08" + b"\xff" * 40 + graph[2:],
    "a huge length": lambda _: b"\x3a" + b"\xff" * 9 + b"\x01" + b"\0",
    "a length of 2^40": lambda _: b"\x3a\x80\x80\x80\x80\x80\x20" + b"\0" * 100,
    "field 0": lambda graph: b"\x00\x00" + graph,
    "a group": lambda graph: graph + b"\x0b\x0c",
    "an open group": lambda graph: graph + b"\x0b" * 1000,
    "a closed group": lambda graph: graph + b"\x0c",
    "many empty graphs": lambda _: b"\x3a\x00" * 100_000,
    "many empty nodes": lambda _: b"\x3a\x80\x80\x20" + b"\x0a\x00" * (2**18),
    "many empty tensors": lambda _: b"\x3a\x80\x80\x20" + b"\x2a\x00" * (2**18),
    "many empty weights": lambda _: b"\x3a\x84\x80\x20\x2a\x80\x80\x20" + b"\x4a\x00" * (2**18),
    "deep messages": lambda _: nested(5000),
    "deep types": lambda _: nested_types(400),
}


def nested(depth: int) -> bytes:
    """Nodes with graphs in their attributes, each within the one before."""
    message = b""
    for tag in [b"\x32", b"\x2a", b"\x0a"] * depth:  # AttributeProto.g, NodeProto.attribute, GraphProto.node
        message = tag + varint(len(message)) + message
        if len(message) > 40_000:
            break
    return b"\x08\x08\x3a" + varint(len(message)) + message


def nested_types(depth: int) -> bytes:
    message = b""
    for tag in [b"\x0a", b"\x22"] * depth:  # TypeProto.Sequence.elem_type, TypeProto.sequence_type
        message = tag + varint(len(message)) + message
    value = b"\x0a\x01h\x12" + varint(len(message)) + message
    graph = b"\x5a" + varint(len(value)) + value
    return b"\x08\x08\x3a" + varint(len(graph)) + graph


def varint(number: int) -> bytes:
    parts = []
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


@pytest.mark.parametrize("name", DISGUISES)
def test_what_is_not_a_model_is_refused(sound: Sound, folder: Path, name: str) -> None:
    assert_foreign(DISGUISES[name](sound.graph), sound.manifest, folder)


@pytest.mark.parametrize("part", range(50))
def test_a_file_that_is_cut_off_is_refused(sound: Sound, folder: Path, part: int) -> None:
    length = random.Random(part).randrange(1, len(sound.graph))
    assert_foreign(sound.graph[:length], sound.manifest, folder)


def test_every_cut_near_an_end_is_refused(sound: Sound) -> None:
    for length in (*range(300), *range(len(sound.graph) - 300, len(sound.graph))):
        with pytest.raises(ForeignGraph):
            check_graph(sound.graph[:length], sound.manifest)


def weight_bytes(graph: bytes) -> set[int]:
    """Return where the raw bytes of tensors stand in `graph`."""
    found: set[int] = set()
    for tensor in onnx.load_from_string(graph).graph.initializer:
        start = graph.index(tensor.raw_data)
        found |= set(range(start, start + len(tensor.raw_data)))
    return found


def assert_refused_or_the_same_but_for_weights(graph: bytes, manifest: Manifest) -> None:
    try:
        weights = check_graph(graph, manifest)
    except ForeignGraph:
        return
    assert portable_graph(manifest, weights) == graph
    assert all(np.isfinite(value).all() for value in weights.values())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("seed", range(50))
def test_a_flipped_bit_is_refused_or_a_weight(make_sound, architecture: str, seed: int) -> None:
    whole = make_sound(2, 6, architecture)
    generator = random.Random(f"{architecture} {seed}")
    weights = weight_bytes(whole.graph)
    others = [position for position in range(len(whole.graph)) if position not in weights]
    for where in [others] * 9 + [sorted(weights)]:
        position = generator.choice(where)
        flipped = bytearray(whole.graph)
        flipped[position] ^= 1 << generator.randrange(8)
        if position in weights:
            assert_refused_or_the_same_but_for_weights(bytes(flipped), whole.manifest)
            continue
        with pytest.raises(ForeignGraph):
            check_graph(bytes(flipped), whole.manifest)


@pytest.mark.parametrize("seed", range(20))
def test_every_flipped_bit_is_refused_where_the_hash_is_the_old_one(sound: Sound, folder: Path, seed: int) -> None:
    plant(folder, sound.manifest, sound.graph)
    flipped = bytearray(sound.graph)
    flipped[random.Random(seed).randrange(len(flipped))] ^= 1 << seed % 8
    (folder / MODEL_FILE).write_bytes(flipped)
    assert_refused(folder, "SHA-256 differs")


# Graphs that ONNX allows and export does not write.


def node_of(model: onnx.ModelProto, operator: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.op_type == operator)


def tensor_of(model: onnx.ModelProto, name: str) -> TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def set_attribute(model: onnx.ModelProto, operator: str, name: str, value: object) -> None:
    node = node_of(model, operator)
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    node.ClearField("attribute")
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def set_values(model: onnx.ModelProto, name: str, values: np.ndarray) -> None:
    tensor_of(model, name).CopyFrom(onnx.numpy_helper.from_array(values, name))


def poison(model: onnx.ModelProto, name: str, value: float) -> None:
    values = onnx.numpy_helper.to_array(tensor_of(model, name)).copy()
    values.flat[values.size // 2] = value
    set_values(model, name, values)


def outside(model: onnx.ModelProto, name: str, location: str, *, keep: bool = False) -> None:
    """Make a tensor's values come from a file."""
    tensor = tensor_of(model, name)
    if not keep:
        tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)


def body() -> onnx.GraphProto:
    """A graph to put into an attribute."""
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    return helper.make_graph([helper.make_node("Identity", ["h"], ["y"])], "body", [], [value])


def deep_body(depth: int) -> onnx.GraphProto:
    graph = body()
    for _ in range(depth):
        graph = helper.make_graph(
            [helper.make_node("If", ["condition"], ["y"], then_branch=graph, else_branch=body())],
            "body",
            [],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        )
    return graph


def swap_inputs(model: onnx.ModelProto, first: tuple[str, int], second: tuple[str, int]) -> None:
    (a, i), (b, j) = ((node_of(model, operator), index) for operator, index in (first, second))
    a.input[i], b.input[j] = b.input[j], a.input[i]


def replace_node(model: onnx.ModelProto, operator: str, **changes: object) -> None:
    node = node_of(model, operator)
    for name, value in changes.items():
        setattr(node, name, value)


def swap_layers(model: onnx.ModelProto) -> None:
    lower, upper = (node for node in model.graph.node if node.op_type == "LSTM")
    lower.input[1], upper.input[1] = upper.input[1], lower.input[1]
    lower.input[2], upper.input[2] = upper.input[2], lower.input[2]


def permute_nodes(model: onnx.ModelProto) -> None:
    nodes = list(model.graph.node)
    model.graph.ClearField("node")
    model.graph.node.extend([nodes[1], nodes[0], *nodes[2:]])


def rename(model: onnx.ModelProto, old: str, new: str) -> None:
    """Rename a value everywhere: the graph computes the same."""
    for node in model.graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]
    for value in (*model.graph.initializer, *model.graph.input, *model.graph.output):
        if value.name == old:
            value.name = new


def edit_manifest(model: onnx.ModelProto, **changes: object) -> None:
    (entry,) = model.metadata_props
    entry.value = json.dumps(json.loads(entry.value) | changes)


def set_metadata(model: onnx.ModelProto, change: Callable[[dict[str, object]], object]) -> None:
    (entry,) = model.metadata_props
    entry.value = to_json(change(json.loads(entry.value))).decode()


def append_node(model: onnx.ModelProto, operator: str, domain: str = "", **attributes: object) -> None:
    model.graph.node.append(helper.make_node(operator, ["h"], ["spare"], domain=domain, **attributes))


def not_utf8(model: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.ModelProto.FromString(model.SerializeToString().replace(b"tokens_TB", b"tokens\xff\xfe\xfd"))


WEIGHTS = ("embedding", "output_weight", "output_bias", "W0", "R0", "b0", "W1", "R1", "b1")
PLACES = (
    "../secret.bin",
    "/etc/passwd",
    "weights.bin",
    "link.bin",
    "pipe.bin",
    "a/../../../../etc/passwd",
    "",
    "*",
    "x\n",
)

EDITS: dict[str, tuple[EditModel, str]] = {
    **{
        f"{name} in {place!r}": (lambda m, n=name, p=place: outside(m, n, p), f"values of {name} in another file")
        for name, place in zip(WEIGHTS, PLACES, strict=True)
    },
    **{
        f"embedding in {place!r}": (lambda m, p=place: outside(m, "embedding", p), "in another file")
        for place in PLACES
    },
    "raw and external data": (lambda m: outside(m, "W0", "../secret.bin", keep=True), "in another file"),
    "external data without a flag": (
        lambda m: tensor_of(m, "W0").external_data.add(key="location", value="/etc/passwd"),
        "in another file",
    ),
    "an axis in a file": (lambda m: outside(m, "direction_axis", "/etc/passwd"), "in another file"),
    "sparse tensors": (lambda m: m.graph.sparse_initializer.add(), "sparse"),
    "sparse tensors of 2^40": (lambda m: m.graph.sparse_initializer.add().dims.append(2**40), "sparse"),
    "a function": (
        lambda m: m.functions.append(helper.make_function("d", "f", ["x"], ["y"], [], [helper.make_opsetid("", 17)])),
        "functions",
    ),
    "training": (lambda m: m.training_info.add(), "training"),
    **{
        f"IR version {version}": (lambda m, v=version: setattr(m, "ir_version", v), "IR version")
        for version in (-1, 0, 3, 7, 9, 13, 2**62)
    },
    **{
        f"opset {version}": (lambda m, v=version: setattr(m.opset_import[0], "version", v), "opset")
        for version in (-1, 0, 1, 16, 18, 26, 2**62)
    },
    "no opset": (lambda m: m.ClearField("opset_import"), "opset"),
    "another domain": (lambda m: m.opset_import.append(helper.make_opsetid("com.microsoft", 1)), "opset"),
    "the domain's other name": (lambda m: setattr(m.opset_import[0], "domain", "ai.onnx"), "opset"),
    **{
        f"operator {domain}.{operator}": (lambda m, o=operator, d=domain: append_node(m, o, d), f"'{operator}'")
        for domain, operator in [
            ("", "If"),
            ("", "Loop"),
            ("", "Scan"),
            ("", "Constant"),
            ("", "ConstantOfShape"),
            ("", "RandomNormal"),
            ("", "StringNormalizer"),
            ("", "Nonsense"),
            ("", ""),
            ("ai.onnx", "Identity"),
            ("ai.onnx.ml", "TreeEnsembleClassifier"),
            ("ai.onnx.preview.training", "Gradient"),
            ("com.microsoft", "FusedMatMul"),
            ("com.microsoft.nchwc", "Conv"),
            ("ai.onnx.contrib", "PyOp"),
            ("evil", "LSTM"),
        ]
    },
    "PythonOp in a node's place": (lambda m: replace_node(m, "LSTM", domain="evil"), "evil"),
    "an If with branches": (lambda m: append_node(m, "If", then_branch=body(), else_branch=body()), "'If'"),
    "a Loop with a body": (lambda m: append_node(m, "Loop", body=body()), "'Loop'"),
    "nested branches": (lambda m: append_node(m, "If", then_branch=deep_body(10), else_branch=body()), "'If'"),
    "a graph in an LSTM": (lambda m: set_attribute(m, "LSTM", "body", body()), "graph within"),
    "graphs in an LSTM": (lambda m: set_attribute(m, "LSTM", "body", [body(), body()]), "graph within"),
    "deep graphs in a Gather": (lambda m: set_attribute(m, "Gather", "g", deep_body(10)), "graph within"),
    "a graph of another type": (
        lambda m: node_of(m, "LSTM").attribute.append(onnx.AttributeProto(name="g", type=2, g=body())),
        "node",
    ),
    **{f"NaN in {name}": (lambda m, n=name: poison(m, n, np.nan), f"numbers in {name}") for name in WEIGHTS},
    **{f"infinity in {name}": (lambda m, n=name: poison(m, n, -np.inf), f"numbers in {name}") for name in WEIGHTS},
    **{
        f"embedding of {list(dims)}": (lambda m, d=dims: tensor_of(m, "embedding").dims.__setitem__(slice(None), d), "")
        for dims in [(2**40, 16), (50, 2**40), (50, -16), (50, 0), (50,), (), (50, 16, 1), (16, 50), (-1, -1), (50, 15)]
    },
    **{
        f"{name} of 2^40": (lambda m, n=name: tensor_of(m, n).dims.append(2**40), f"for {name}")
        for name in WEIGHTS
        if name != "embedding"
    },
    "dimensions without an end": (lambda m: tensor_of(m, "W0").dims.extend([1] * 5000), "for W0"),
    **{
        f"{np.dtype(dtype)} in {name}": (
            lambda m, n=name, t=dtype: set_values(m, n, onnx.numpy_helper.to_array(tensor_of(m, n)).astype(t)),
            f"for {name}",
        )
        for name in ("embedding", "W0", "b1")
        for dtype in (np.float64, np.float16, np.int32, np.uint8, np.bool_, np.complex64)
    },
    "strings": (lambda m: set_values(m, "W0", np.full((1, 24, 16), "x", dtype=object)), "for W0"),
    "an unknown type": (lambda m: setattr(tensor_of(m, "W0"), "data_type", 99), "for W0"),
    "no type": (lambda m: tensor_of(m, "W0").ClearField("data_type"), "for W0"),
    "too few raw bytes": (lambda m: setattr(tensor_of(m, "W0"), "raw_data", b"\0" * 4), "raw bytes"),
    "too many raw bytes": (lambda m: setattr(tensor_of(m, "W0"), "raw_data", b"\0" * 4000), "raw bytes"),
    "no raw bytes": (lambda m: tensor_of(m, "W0").ClearField("raw_data"), "raw bytes"),
    "numbers instead of raw bytes": (
        lambda m: tensor_of(m, "output_bias").CopyFrom(
            helper.make_tensor("output_bias", TensorProto.FLOAT, [50], [0.0] * 50)
        ),
        "raw bytes",
    ),
    "numbers beside raw bytes": (lambda m: tensor_of(m, "W0").float_data.append(1.0), "raw bytes"),
    "a part of a tensor": (lambda m: setattr(tensor_of(m, "W0").segment, "end", 1), "raw bytes"),
    "a text in a tensor": (lambda m: setattr(tensor_of(m, "W0"), "doc_string", "x"), "raw bytes"),
    **{f"without {name}": (lambda m, n=name: m.graph.initializer.remove(tensor_of(m, n)), "") for name in WEIGHTS},
    "W0 twice": (lambda m: m.graph.initializer.append(tensor_of(m, "W0")), "one name"),
    "the embedding twice": (lambda m: m.graph.initializer.append(tensor_of(m, "embedding")), "embeddings"),
    "a tensor too many": (lambda m: m.graph.initializer.add(name="more"), "'more'"),
    "a tensor with a terrible name": (lambda m: m.graph.initializer.add(name="\n" * 5000), "does not write"),
    "a tensor by another name": (lambda m: setattr(tensor_of(m, "W0"), "name", "W9"), "'W0'"),
    "a tensor renamed everywhere": (lambda m: rename(m, "W0", "V0"), ""),
    "a value renamed everywhere": (lambda m: rename(m, "product", "result"), "another node"),
    "another axis": (lambda m: set_values(m, "direction_axis", np.array([0])), "direction_axis"),
    "another split": (lambda m: set_values(m, "one_each", np.array([2, 0])), "one_each"),
    "tokens by another name": (lambda m: rename(m, "tokens", "input_ids"), ""),
    "h and c exchanged": (lambda m: m.graph.input[1:].reverse() or swap_ports(m), "inputs"),
    "an input too many": (lambda m: m.graph.input.append(m.graph.input[0]), "inputs"),
    "weights as an input": (
        lambda m: m.graph.input.append(helper.make_tensor_value_info("W0", TensorProto.FLOAT, [1, 24, 16])),
        "inputs",
    ),
    "an input missing": (lambda m: m.graph.input.pop(), "inputs"),
    "no inputs": (lambda m: m.graph.ClearField("input"), "inputs"),
    "an output too many": (lambda m: m.graph.output.append(m.graph.output[0]), "outputs"),
    "an inner value as output": (
        lambda m: m.graph.output.append(helper.make_tensor_value_info("product", TensorProto.FLOAT, None)),
        "outputs",
    ),
    "an output missing": (lambda m: m.graph.output.pop(), "outputs"),
    "float tokens": (lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", TensorProto.FLOAT), "types"),
    "double logits": (lambda m: setattr(m.graph.output[0].type.tensor_type, "elem_type", TensorProto.DOUBLE), "types"),
    "a batch of 1": (lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", 1), "types"),
    "a state of 2^40": (
        lambda m: setattr(m.graph.input[1].type.tensor_type.shape.dim[2], "dim_value", 2**40),
        "types",
    ),
    "a sequence for an input": (lambda m: m.graph.input[0].type.sequence_type.SetInParent(), "types"),
    "a node too many": (lambda m: append_node(m, "Identity"), "'Identity'"),
    "a known node too many": (lambda m: append_node(m, "Transpose"), "nodes"),
    "a node twice": (lambda m: m.graph.node.append(m.graph.node[0]), "nodes"),
    "a node missing": (lambda m: m.graph.node.pop(), "nodes"),
    "no nodes": (lambda m: m.graph.ClearField("node"), "nodes"),
    "nodes in another order": (permute_nodes, "another node"),
    "a node with a name": (lambda m: replace_node(m, "LSTM", name="x"), "another node"),
    "a node with a text": (lambda m: replace_node(m, "LSTM", doc_string="x"), "another node"),
    "a node of another operator": (lambda m: replace_node(m, "Add", op_type="MatMul"), "another node"),
    "W for R": (lambda m: swap_inputs(m, ("LSTM", 1), ("LSTM", 2)), "another node"),
    "h for c": (lambda m: swap_inputs(m, ("LSTM", 5), ("LSTM", 6)), "another node"),
    "the embedding for the output": (lambda m: swap_inputs(m, ("Gather", 0), ("MatMul", 1)), "another node"),
    "the bias first": (lambda m: swap_inputs(m, ("Add", 0), ("Add", 1)), "another node"),
    "layers exchanged": (swap_layers, "another node"),
    "a layer that reads itself": (
        lambda m: node_of(m, "LSTM").input.__setitem__(0, "layer1_input"),
        "another node",
    ),
    "lengths of sequences": (lambda m: node_of(m, "LSTM").input.__setitem__(4, "lengths"), "another node"),
    "peepholes": (lambda m: node_of(m, "LSTM").input.append("P"), "another node"),
    "an output of an LSTM missing": (lambda m: node_of(m, "LSTM").output.pop(), "another node"),
    **{
        f"LSTM with {name}={value!r}": (lambda m, n=name, v=value: set_attribute(m, "LSTM", n, v), "another node")
        for name, value in [
            ("hidden_size", 7),
            ("hidden_size", 2**40),
            ("hidden_size", -1),
            ("direction", "reverse"),
            ("direction", "bidirectional"),
            ("layout", 1),
            ("clip", 0.5),
            ("input_forget", 1),
            ("activations", ["Relu", "Tanh", "Tanh"]),
            ("activation_alpha", [0.5]),
            ("activation_beta", [0.5]),
            ("nonsense", 1),
        ]
    },
    "LSTM without its size": (lambda m: node_of(m, "LSTM").ClearField("attribute"), "another node"),
    "another permutation": (lambda m: set_attribute(m, "Transpose", "perm", [0, 1]), "another node"),
    "a permutation without an end": (lambda m: set_attribute(m, "Transpose", "perm", [0] * 4000), "another node"),
    "a joint on another axis": (lambda m: set_attribute(m, "Concat", "axis", 1), "another node"),
    "a tensor in an attribute": (
        lambda m: set_attribute(m, "Split", "t", helper.make_tensor("t", TensorProto.FLOAT, [1], [1.0])),
        "another node",
    ),
    "a name of bytes": (not_utf8, "another node"),
    "another graph's name": (lambda m: setattr(m.graph, "name", "x"), "does not write"),
    "a text in the graph": (lambda m: setattr(m.graph, "doc_string", "x"), "does not write"),
    "inner values": (lambda m: m.graph.value_info.append(m.graph.input[0]), "does not write"),
    "quantization": (lambda m: m.graph.quantization_annotation.add(), "does not write"),
    "metadata of the graph": (lambda m: m.graph.metadata_props.add(key="a", value="b"), "does not write"),
    "another producer": (lambda m: setattr(m, "producer_name", "x"), "does not write"),
    "a producer's version": (lambda m: setattr(m, "producer_version", "x"), "does not write"),
    "a domain": (lambda m: setattr(m, "domain", "x"), "does not write"),
    "a model's version": (lambda m: setattr(m, "model_version", 1), "does not write"),
    "a text in the model": (lambda m: setattr(m, "doc_string", "x"), "does not write"),
    "a text too long": (lambda m: setattr(m, "doc_string", "x" * 10**6), "beside its raw weights"),
    "no metadata": (lambda m: m.ClearField("metadata_props"), "metadata []"),
    "metadata twice": (lambda m: m.metadata_props.append(m.metadata_props[0]), "alone"),
    "other metadata": (lambda m: m.metadata_props.add(key="a", value="b"), "alone"),
    "metadata by another name": (lambda m: setattr(m.metadata_props[0], "key", "x"), METADATA_KEY),
    "metadata of nothing": (lambda m: setattr(m.metadata_props[0], "value", ""), "not one"),
    "metadata without sense": (lambda m: setattr(m.metadata_props[0], "value", "{}"), "not one"),
    "metadata too deep": (lambda m: setattr(m.metadata_props[0], "value", '{"x":' + "[" * 9000), "not one"),
    **{
        f"metadata with {name}": (lambda m, n=name, v=value: edit_manifest(m, **{n: v}), "another model")
        for name, value in [
            ("hidden", 7),
            ("layers", 3),
            ("architecture", "gru"),
            ("recipe", "x"),
            ("validation_loss", 0.5),
            ("documents", "lines"),
            ("normalization", "nfc"),
            ("files", {"model.onnx": "0"}),
            ("tools", {}),
        ]
    },
    "metadata in other words": (edit_manifest, "in other words"),
    "metadata with something new": (lambda m: set_metadata(m, lambda entries: entries | {"new": 1}), "in other words"),
    "a manifest of 2^40": (lambda m: edit_manifest(m, hidden=2**40), "not one"),
}


def swap_ports(model: onnx.ModelProto) -> None:
    h, c = (onnx.ValueInfoProto.FromString(model.graph.input[i].SerializeToString()) for i in (1, 2))
    model.graph.input[1].CopyFrom(c)
    model.graph.input[2].CopyFrom(h)


@pytest.mark.parametrize("name", EDITS)
def test_what_export_does_not_write_is_refused(sound: Sound, folder: Path, name: str) -> None:
    edit, words = EDITS[name]
    model = onnx.load_from_string(sound.graph)
    edited = edit(model)
    graph = (edited if isinstance(edited, onnx.ModelProto) else model).SerializeToString(deterministic=True)
    assert graph != sound.graph
    secret = folder.parent / "secret.bin"
    secret.write_bytes(bytes(2**16))
    (folder / "weights.bin").write_bytes(bytes(2**16))
    (folder / "link.bin").symlink_to(secret)
    os.mkfifo(folder / "pipe.bin")  # whoever opens it waits for ever
    assert_foreign(graph, sound.manifest, folder, words)


def set_gru(model: onnx.ModelProto, value: int) -> None:
    set_attribute(model, "GRU", "linear_before_reset", value)


@pytest.mark.parametrize(
    ("architecture", "edit"),
    [
        ("gru", lambda m: set_gru(m, 0)),
        ("gru-reset-before", lambda m: set_gru(m, 1)),
        ("gru", lambda m: set_gru(m, 2)),
        ("gru", lambda m: node_of(m, "GRU").attribute.pop()),
        ("gru", lambda m: set_attribute(m, "GRU", "activations", ["Tanh", "Tanh"])),
        ("rnn", lambda m: set_attribute(m, "RNN", "activations", ["Relu"])),
        ("rnn", lambda m: set_attribute(m, "RNN", "hidden_size", 5)),
        ("rnn", lambda m: set_attribute(m, "Pad", "mode", "reflect")),
        ("rnn", lambda m: set_values(m, "spare_row", np.array([0, 0, 0, 0, 2**40, 0]))),
        ("rnn", lambda m: set_values(m, "last", np.array([2]))),
        ("rnn", lambda m: set_values(m, "last", np.array([-1], dtype=np.int32))),
        ("gru", lambda m: m.graph.node[-4].input.__setitem__(0, "h")),
    ],
)
def test_other_architectures_are_checked_as_closely(
    make_sound, folder: Path, architecture: str, edit: EditModel
) -> None:
    whole = make_sound(1, 4, architecture)
    model = onnx.load_from_string(whole.graph)
    edit(model)
    assert_foreign(model.SerializeToString(deterministic=True), whole.manifest, folder)


@pytest.mark.parametrize(
    "shape",
    [(2, 6, "gru"), (2, 6, "gru-reset-before"), (2, 6, "rnn"), (1, 6, "lstm"), (3, 6, "lstm"), (2, 7, "lstm")],
)
def test_the_graph_of_another_model_is_refused(
    make_sound, sound: Sound, folder: Path, shape: tuple[int, int, str]
) -> None:
    other = make_sound(*shape)
    assert_foreign(other.graph, sound.manifest, folder)
    assert_foreign(sound.graph, other.manifest, folder)


def test_a_model_of_the_same_shape_is_told_apart_by_its_manifest(sound: Sound, folder: Path) -> None:
    other = replace(sound.manifest, characters=("<unk>", *reversed(sound.manifest.characters[1:])))
    assert_foreign(sound.graph, other, folder, "another model")


# Manifests.


def edited(name: str, value: object) -> Callable[[dict[str, object]], bytes]:
    return lambda document: json.dumps(document | {name: value}).encode()


MANIFESTS: dict[str, Callable[[dict[str, object]], bytes]] = {
    "empty": lambda _: b"",
    "null": lambda _: b"null",
    "a list": lambda _: b"[]",
    "an empty object": lambda _: b"{}",
    "html": lambda _: b"<html>",
    "pickle": lambda _: pickle.dumps(Payload()),
    "not UTF-8": lambda _: b'{"architecture": "\xff\xfe"}',
    "half a character": lambda _: b'{"architecture": "\\ud800"}',
    "deep lists": lambda _: b"[" * 10**6,
    "deep lists in a field": lambda _: b'{"x":' + b"[" * 10**6,
    "a huge number": lambda d: json.dumps(d).encode().replace(b'"hidden": 6', b'"hidden": 1' + b"0" * 5000),
    "an infinite loss": lambda d: json.dumps(d | {"validation_loss": 0.5}).encode().replace(b"0.5", b"1e999"),
    "no number": lambda d: json.dumps(d | {"validation_loss": 0.5}).encode().replace(b"0.5", b"NaN"),
    "too large": lambda d: json.dumps(d).encode() + b" " * 2**21,
    **{
        f"{name} {value!r:.30}": edited(name, value)
        for name, value in [
            ("hidden", 2**40),
            ("hidden", 2**14 + 1),
            ("hidden", 2**64),
            ("hidden", 0),
            ("hidden", -1),
            ("hidden", 6.5),
            ("hidden", "6"),
            ("layers", 2**40),
            ("layers", 65),
            ("layers", 0),
            ("format_version", 2),
            ("architecture", "x\ny"),
            ("architecture", "x" * 10**5),
            ("alphabet", "x\ny"),
            ("alphabet", "bytes"),
            ("characters", []),
            ("characters", ["<unk>"]),
            ("characters", ["<unk>", *map(chr, range(0x10000, 0x20000))]),
            ("characters", ["<unk>", "\n", "\n"]),
            ("characters", ["<unk>", "\n" * 1000]),
            ("begin", ""),
            ("begin", "\ud800"),
            ("normalization", "../x"),
            ("files", {}),
            ("files", {"../model.onnx": "0"}),
            ("files", 7),
            ("tools", None),
        ]
    },
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_that_makes_no_sense_is_refused(sound: Sound, folder: Path, name: str) -> None:
    plant(folder, sound.manifest, sound.graph)
    document = json.loads((folder / MANIFEST_FILE).read_bytes())
    (folder / MANIFEST_FILE).write_bytes(MANIFESTS[name](document))
    assert_refused(folder)


def test_sizes_are_reckoned_not_allocated(sound: Sound) -> None:
    largest = replace(sound.manifest, layers=64, hidden=2**14)
    assert largest_graph(largest) == 2**31 - 1
    with pytest.raises(ForeignGraph):
        check_graph(sound.graph, largest)


def test_a_file_larger_than_its_manifest_allows_is_not_read(sound: Sound, folder: Path) -> None:
    plant(folder, sound.manifest, sound.graph)
    os.truncate(folder / MODEL_FILE, 2**40)  # sparse: it takes no room on the disk, but would in memory
    assert_refused(folder, "1,099,511,627,776 bytes")


class ReadOnError(Exception):
    """More was read of a file than tells that it is no model."""


def test_of_a_huge_file_of_zeros_only_the_beginning_is_read(sound: Sound, folder: Path, monkeypatch) -> None:
    plant(folder, replace(sound.manifest, layers=64, hidden=2**14), sound.graph)
    os.truncate(folder / MODEL_FILE, 0)
    os.truncate(folder / MODEL_FILE, 2**31 - 1)  # as large as a model of that shape may be

    def read_away(*_: object) -> None:
        raise ReadOnError

    monkeypatch.setattr(hashlib, "file_digest", read_away)
    assert_refused(folder, "is not an ONNX model")


def test_a_file_with_another_hash_is_not_read_into_memory(make_sound, folder: Path) -> None:
    sound = make_sound(1, 512, "lstm")
    plant(folder, sound.manifest, sound.graph)
    with (folder / MODEL_FILE).open("r+b") as file:
        file.seek(len(sound.graph) // 2)
        file.write(bytes(64))
    tracemalloc.start()
    assert_refused(folder, "SHA-256 differs", DamagedArtifact)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < len(sound.graph) / 2


# Files that are not files.


def as_link_outside(path: Path) -> None:
    path.rename(path.parent.parent / path.name)
    path.symlink_to(path.parent.parent / path.name)


def as_relative_link_outside(path: Path) -> None:
    path.rename(path.parent.parent / path.name)
    path.symlink_to(Path("..") / path.name)


def as_link_to(target: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.unlink()
        path.symlink_to(target)

    return make


def as_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


PLACED: Sequence[tuple[Callable[[Path], None], str]] = [
    (Path.unlink, "cannot be read"),
    (as_pipe, "not a regular file"),
    (as_folder, "cannot be read"),
    (as_link_outside, "outside its folder"),
    (as_relative_link_outside, "outside its folder"),
    (as_link_to("/dev/zero"), "outside its folder"),
    (as_link_to("/etc/passwd"), "outside its folder"),
    (as_link_to("."), ""),
    (as_link_to("nowhere"), "cannot be read"),
    (as_link_to(MANIFEST_FILE), ""),
    (as_link_to(MODEL_FILE), ""),
]


@pytest.mark.parametrize("name", [MANIFEST_FILE, MODEL_FILE])
@pytest.mark.parametrize("case", range(len(PLACED)))
def test_only_regular_files_within_the_folder_are_read(sound: Sound, folder: Path, name: str, case: int) -> None:
    make, words = PLACED[case]
    plant(folder, sound.manifest, sound.graph)
    make(folder / name)
    assert_refused(folder, words if (folder / name).is_symlink() or case < 3 else "")


def test_a_link_within_the_folder_is_followed(sound: Sound, folder: Path) -> None:
    plant(folder, sound.manifest, sound.graph)
    (folder / MODEL_FILE).rename(folder / "data")
    (folder / MODEL_FILE).symlink_to("data")
    assert read_artifact(folder).graph == sound.graph


def test_the_folder_itself_may_be_a_link(sound: Sound, folder: Path) -> None:
    plant(folder, sound.manifest, sound.graph)
    (folder.parent / "2").symlink_to(folder)
    assert read_artifact(folder.parent / "2").version == 2
