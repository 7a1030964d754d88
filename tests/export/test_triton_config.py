"""The file for NVIDIA Triton: consistent with the graph, and written only if unedited."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from segue_export.artifact import find_artifacts, read_artifact
from segue_export.errors import ArtifactError
from segue_export.export import describe, export_checkpoint
from segue_export.graphs.portable import portable_graph
from segue_export.manifest import ARCHITECTURES
from segue_export.triton import CONFIG_FILE, triton_config, write_triton_config
from segue_training.train.checkpoint import save_checkpoint

TYPES = {"TYPE_FP32": onnx.TensorProto.FLOAT, "TYPE_INT64": onnx.TensorProto.INT64}


def parse(text: str) -> dict[str, Any]:
    """Parse the subset of protobuf's text format that the file uses."""
    tokens = re.findall(r'"[^"]*"|[\w.-]+|[{}\[\]:,]', re.sub(r"#.*", "", text))
    fields, rest = parse_fields(tokens)
    assert rest == []
    return fields


def parse_fields(tokens: list[str]) -> tuple[dict[str, Any], list[str]]:
    fields: dict[str, Any] = {}
    while tokens and tokens[0] != "}":
        name, *tokens = tokens
        assert name not in fields
        fields[name], tokens = parse_value(tokens[tokens[0] == ":" :])
    return fields, tokens


def parse_value(tokens: list[str]) -> tuple[Any, list[str]]:
    first, *tokens = tokens
    if first == "{":
        fields, tokens = parse_fields(tokens)
        assert tokens[0] == "}"
        return fields, tokens[1:]
    if first == "[":
        values = []
        while tokens[0] != "]":
            value, tokens = parse_value(tokens[tokens[0] == "," :])
            values.append(value)
        return values, tokens[1:]
    if first.startswith('"'):
        return first[1:-1], tokens
    return int(first) if re.fullmatch(r"-?\d+", first) else first, tokens


def ports(values) -> dict[str, tuple[int, list[int]]]:
    """Return types and dimensions by name as Triton sees them, with -1 for free ones."""
    return {
        value.name: (
            value.type.tensor_type.elem_type,
            [-1 if d.HasField("dim_param") else d.dim_value for d in value.type.tensor_type.shape.dim],
        )
        for value in values
    }


@pytest.fixture(params=ARCHITECTURES)
def exported(request: pytest.FixtureRequest, make_checkpoint) -> tuple[dict[str, Any], bytes]:
    """A config and its graph."""
    checkpoint = make_checkpoint(2, 6, 1, request.param)
    manifest = describe(checkpoint)
    weights = {name: tensor.numpy() for name, tensor in checkpoint.weights.items()}
    return parse(triton_config(manifest)), portable_graph(manifest, weights)


def test_names_types_and_dimensions_are_those_of_the_graph(exported) -> None:
    config, graph = exported
    model = onnx.load_from_string(graph)
    inputs, outputs = ports(model.graph.input), ports(model.graph.output)
    states = config["sequence_batching"]["state"]
    for described in config["output"]:  # the backend requires these to be equal
        assert outputs.pop(described["name"]) == (TYPES[described["data_type"]], described["dims"])
    for state in states:
        kind = (TYPES[state["data_type"]], state["dims"])
        assert inputs.pop(state["input_name"]) == outputs.pop(state["output_name"]) == kind
    assert outputs == {}
    (tokens,) = config["input"]
    kind, dims = inputs.pop(tokens["name"])
    assert inputs == {}
    assert TYPES[tokens["data_type"]] == kind
    assert all(free in (-1, given) for free, given in zip(dims, tokens["dims"], strict=True))


def test_every_sequence_begins_with_zeros_of_the_states_shape(exported) -> None:
    config, _ = exported
    assert config["max_batch_size"] == 0  # so dims are whole shapes
    for state in config["sequence_batching"]["state"]:
        first = state["initial_state"]
        assert first["zero_data"] == "true"
        assert first["name"]
        assert first["data_type"] == state["data_type"]
        assert -1 not in first["dims"]
        assert all(free in (-1, given) for free, given in zip(state["dims"], first["dims"], strict=True))


def test_the_states_come_in_one_order_by_either_name(exported) -> None:
    """Triton pairs them in that order (server#8586), ignoring the pairs."""
    states = exported[0]["sequence_batching"]["state"]
    by_input = sorted(states, key=lambda state: state["input_name"])
    assert by_input == sorted(states, key=lambda state: state["output_name"])


def test_a_server_that_follows_the_config_continues_a_text(exported) -> None:
    config, graph = exported
    session = onnxruntime.InferenceSession(graph)
    states = config["sequence_batching"]["state"]
    held = {state["input_name"]: np.zeros(state["initial_state"]["dims"], np.float32) for state in states}
    begin = dict(held)
    tokens = np.random.default_rng(0).integers(50, size=(1, 9))
    parts = []
    for part in np.split(tokens, [2, 6], axis=1):
        names = ["logits", *(state["output_name"] for state in states)]
        logits, *after = session.run(names, {"tokens": part, **held})
        held = {state["input_name"]: value for state, value in zip(states, after, strict=True)}
        parts.append(logits)
    (whole,) = session.run(["logits"], {"tokens": tokens, **begin})
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, atol=1e-5)


@pytest.fixture
def home(checkpoint, tmp_path: Path) -> Path:
    """The folder of a model with one version."""
    save_checkpoint(tmp_path / "checkpoint", checkpoint)
    return export_checkpoint(tmp_path / "checkpoint", tmp_path / "models", "a").folder.parent


def test_export_writes_it_beside_the_versions(home: Path) -> None:
    (version,) = find_artifacts(home.parent)
    assert (home / CONFIG_FILE).read_text() == triton_config(read_artifact(version).manifest)


def test_a_version_of_another_shape_replaces_it(home: Path, make_checkpoint) -> None:
    write_triton_config(home, other := describe(make_checkpoint(1, 40, 1, "gru")))
    assert (home / CONFIG_FILE).read_text() == triton_config(other)
    assert [path.name for path in home.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text.replace("count: 1", "count: 4"),
        lambda text: text + "# mine\n",
        lambda text: text.split("\n", 1)[1],
        lambda text: "# mine\n" + text,
        lambda _: 'backend: "python"\n',
        lambda _: "",
    ],
)
def test_an_edited_file_stays(home: Path, make_checkpoint, edit) -> None:
    edited = edit((home / CONFIG_FILE).read_text())
    (home / CONFIG_FILE).write_text(edited)
    write_triton_config(home, describe(make_checkpoint(1, 40, 1)))
    assert (home / CONFIG_FILE).read_text() == edited


def test_a_link_stays(home: Path, make_checkpoint) -> None:
    (home / CONFIG_FILE).rename(home.parent / "shared.pbtxt")
    (home / CONFIG_FILE).symlink_to(home.parent / "shared.pbtxt")
    before = (home / CONFIG_FILE).read_text()
    write_triton_config(home, describe(make_checkpoint(1, 40, 1)))
    assert (home / CONFIG_FILE).is_symlink()
    assert (home / CONFIG_FILE).read_text() == before


def test_a_folder_that_is_not_there_is_named(home: Path, checkpoint) -> None:
    with pytest.raises(ArtifactError, match=r"cannot write .*config\.pbtxt"):
        write_triton_config(home / "nowhere", describe(checkpoint))
