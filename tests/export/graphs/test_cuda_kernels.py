"""Every graph that CUDA runs has kernels for its nodes and can be captured; and what does not, is named."""

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path

import onnx
import pytest
from cuda_graphs.capture import obstacles
from cuda_graphs.graphs import KINDS, Kind
from cuda_graphs.kernels import Kernel, KernelTable, nodes_without_kernel
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from segue_export.graphs.portable import IR_VERSION, OPSET
from segue_server.engine.runners.device_graphs import LENGTHS

PINS = Path(__file__).parents[3] / "constraints-gpu.txt"
TABLE = KernelTable.pinned()
FLOAT, FLOAT16, INT64 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64

Declared = tuple[str, int, Sequence[str | int] | None]


def graph_of(
    nodes: Sequence[onnx.NodeProto], inputs: Sequence[Declared], outputs: Sequence[Declared], opset: int = OPSET
) -> onnx.ModelProto:
    taken, returned = ([helper.make_tensor_value_info(*value) for value in values] for values in (inputs, outputs))
    constants = [helper.make_tensor("copies", INT64, [1], [2]), helper.make_tensor("scale", FLOAT, [], [2.0])]
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(
        helper.make_graph(nodes, "seeded", taken, returned, constants), opset_imports=opsets, ir_version=IR_VERSION
    )


def faults(model: onnx.ModelProto, fixed: Sequence[str] = ()) -> list[str]:
    return nodes_without_kernel(model, TABLE) + obstacles(model, TABLE, fixed)


def test_the_kernels_are_those_of_the_pinned_version() -> None:
    pinned = [line for line in PINS.read_text().splitlines() if line.startswith("onnxruntime")]
    assert pinned == [f"onnxruntime-gpu=={TABLE.onnxruntime}"], "run: cd tests && python -m cuda_graphs.list_kernels"


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_cuda_has_a_kernel_for_every_node_and_can_capture_every_graph(kind: Kind) -> None:
    graphs = [graph for steps in LENGTHS for graph in kind.graphs(steps)]
    assert len(graphs) == 14 * len(LENGTHS)
    graphs += kind.exchanges()
    found = {name: faults(onnx.load_from_string(graph)) for name, graph in graphs}
    assert {name: problems for name, problems in found.items() if problems} == {}


@pytest.mark.parametrize("kind", [KINDS[0], KINDS[-1]], ids=str)
def test_each_kernel_that_is_missing_is_missed_by_the_nodes_that_need_it(kind: Kind) -> None:
    graph = next(graph for name, graph in kind.graphs(1) if "filtered scored ranked" in name)
    model = onnx.load_from_string(graph)
    used = {node.op_type for node in model.graph.node}
    assert len(used) > 20
    for operator in used:
        others = {name: kernels for name, kernels in TABLE.kernels.items() if name != operator}
        missing = nodes_without_kernel(model, dataclasses.replace(TABLE, kernels=others))
        nodes = [node for node in model.graph.node if node.op_type == operator]
        assert len(missing) == len(nodes)
        for text, node in zip(missing, nodes, strict=True):
            assert text.startswith(f"{operator} {node.output[0]}")


def test_no_graph_with_a_loop_can_be_captured() -> None:
    for name, graph in KINDS[0].graphs(0):
        assert [text for text in faults(onnx.load_from_string(graph)) if "control flow" in text], name


def test_a_choice_between_branches_cannot_be_captured() -> None:
    """The If in which a large vocabulary is sorted whole."""
    branches = [
        helper.make_graph(
            [helper.make_node("Identity", ["x"], [name])], name, [], [helper.make_tensor_value_info(name, FLOAT, [4])]
        )
        for name in ("this", "that")
    ]
    node = helper.make_node("If", ["condition"], ["y"], then_branch=branches[0], else_branch=branches[1])
    model = graph_of([node], [("condition", TensorProto.BOOL, []), ("x", FLOAT, [4])], [("y", FLOAT, [4])])
    assert any(text.startswith("If y: control flow") for text in faults(model, ["condition"]))


def test_an_operator_without_a_kernel_for_float16_is_named() -> None:
    inputs = [("x", 0, (1, 1, 4, 4)), ("grid", 0, (1, 4, 4, 2))]

    def sampled(element: int) -> onnx.ModelProto:
        declared = [(name, element, shape) for name, _, shape in inputs]
        return graph_of([helper.make_node("GridSample", ["x", "grid"], ["y"])], declared, [("y", element, None)])

    assert faults(sampled(FLOAT)) == []
    assert faults(sampled(FLOAT16)) == [
        "GridSample y: no kernel for T1 = float16, T2 = float16, X = float16, Y = float16, grid = float16"
    ]


def test_an_operator_without_any_kernel_is_named() -> None:
    model = graph_of([helper.make_node("Acos", ["x"], ["y"])], [("x", FLOAT, [4])], [("y", FLOAT, [4])])
    assert faults(model) == ["Acos y: no kernel of version 7"]


def test_an_operator_that_the_table_cannot_know_is_named() -> None:
    node = helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")
    assert faults(graph_of([node], [("x", FLOAT, [4])], [("y", FLOAT, [4])])) == [
        "Gelu y: the table has no operators of com.microsoft"
    ]


@pytest.mark.parametrize("operator", ["NonZero", "Compress"])
def test_a_shape_that_depends_on_values_cannot_be_captured(operator: str) -> None:
    inputs = ["x"] if operator == "NonZero" else ["x", "kept"]
    node = helper.make_node(operator, inputs, ["y"])
    declared = [("x", FLOAT, [4, 4]), ("kept", TensorProto.BOOL, [16])]
    model = graph_of([node], declared, [("y", INT64 if operator == "NonZero" else FLOAT, None)])
    assert faults(model) == [f"{operator} y: the shape of its output depends on values"]


def test_at_most_32_inputs_are_joined_in_a_capture() -> None:
    def joined(count: int) -> onnx.ModelProto:
        node = helper.make_node("Concat", ["x"] * count, ["y"], axis=0)
        return graph_of([node], [("x", FLOAT, [4])], [("y", FLOAT, [4 * count])])

    assert faults(joined(32)) == []
    assert faults(joined(33)) == ["Concat y: joins 33 inputs, of at most 32"]


def test_what_a_kernel_reads_on_the_host_must_be_known_there() -> None:
    def selected(*before: onnx.NodeProto) -> onnx.ModelProto:
        nodes = [*before, helper.make_node("TopK", ["x", "k"], ["y", "at"])]
        inputs: list[Declared] = [("x", FLOAT, [4]), ("given", INT64, [1])]
        return graph_of(nodes, inputs if before else [inputs[0], ("k", INT64, [1])], [("y", FLOAT, None)])

    computed = ["TopK y, at: reads k on the host, which is computed or given on the device"]
    assert faults(selected(), ["k"]) == []
    assert faults(selected(), []) == computed
    assert faults(selected(helper.make_node("Neg", ["given"], ["k"])), []) == computed


def test_shapes_are_computed_on_the_host_and_may_only_be_read_there() -> None:
    shape = helper.make_node("Shape", ["x"], ["shape"])
    joined = helper.make_node("Concat", ["copies", "shape"], ["longer"], axis=0)
    expanded = helper.make_node("Expand", ["x", "longer"], ["y"])
    scaled = helper.make_node("Mul", ["scale", "number"], ["z"])
    inputs: list[Declared] = [("x", FLOAT, ["rows", 4])]
    assert faults(graph_of([shape, joined, expanded], inputs, [("y", FLOAT, None)])) == []
    added = helper.make_node("Add", ["tokens", "shape"], ["z"])
    with_tokens = [*inputs, ("tokens", INT64, [2])]
    assert faults(graph_of([shape, added], with_tokens, [("z", INT64, None)])) == [
        "Add z: reads shape on the device, which is known on the host"
    ]
    cast = helper.make_node("Cast", ["shape"], ["number"], to=FLOAT)
    assert faults(graph_of([shape, cast, scaled], inputs, [("z", FLOAT, None)])) == []


@given(first=st.integers(1, 30), length=st.none() | st.integers(0, 9), version=st.integers(1, 40))
def test_a_kernel_implements_the_versions_it_was_written_for(first: int, length: int | None, version: int) -> None:
    kernel = Kernel(first, None if length is None else first + length, {})
    written_for = range(first, first + (length or 0) + 1)
    assert kernel.implements(version) == (version in written_for)


def test_the_kinds_cover_all_that_graphs_differ_in() -> None:
    sizes = {len(kind.vocabulary) for kind in KINDS}
    assert sizes == {69, 257, 20_000}
    combinations = {(kind.architecture, kind.together, kind.weights, len(kind.vocabulary)) for kind in KINDS}
    architectures = [(name, False) for name in ("lstm", "gru", "gru-reset-before", "rnn")] + [("lstm", True)]
    assert combinations == {
        (*architecture, *rest)
        for architecture, *rest in itertools.product(architectures, ("float32", "float16"), sizes)
    }
