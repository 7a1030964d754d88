"""Let ONNX Runtime for GPUs place and capture every graph of the server, without a GPU.

    python -m cuda_graphs.rehearse      from the folder `tests`, where the extra server-gpu is installed

First some models are loaded as `segue serve --device cuda` does, and read and write in every way: all of the code that
serves on a GPU, but for the numbers. Then every graph is captured by itself. It says what a capture is refused for, and
what the kernels call during it besides launches, after the optimizations that `capture` and `kernels` do not know of.
Ends with 1 if a graph cannot be captured.
"""

import sys
from collections.abc import Mapping
from itertools import chain, product
from typing import Any, Final

from cuda_graphs.stand_in import StandIn, load

_CUDA: Final = "CUDAExecutionProvider"
_ROWS: Final = 3
_SLOTS: Final = 7
_STEPS: Final = 41
"""Of a model's runs: 32, 8 and 1."""
_NO_LOG: Final = 4
_ELEMENTS: Final = {"tensor(int64)": "int64", "tensor(float)": "float32", "tensor(float16)": "float16"}
_ON_DEVICE: Final = frozenset({"capture", "cudaMemcpyAsync device to device", "cudaMemsetAsync"})
"""What a capture may contain besides launches."""


def rehearse(stand_in: StandIn, graph: bytes, sizes: Mapping[str, int]) -> list[str]:
    """Return what keeps `graph` from being captured; `sizes` are those of its named axes."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(_NO_LOG)
    stand_in.forget()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _NO_LOG
    for axis, size in sizes.items():
        options.add_free_dimension_override_by_name(axis, size)
    settings = {"enable_cuda_graph": "1", "use_tf32": "0"}
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=[(_CUDA, settings)], enable_fallback=0)
        _run(session, sizes)
    except Exception as error:  # noqa: BLE001 - whatever it is, this graph cannot be captured
        return [str(error)]
    calls = stand_in.captured()
    return sorted(set(calls) - _ON_DEVICE) if "capture" in calls else ["nothing was captured"]


def _run(session: Any, sizes: Mapping[str, int]) -> None:
    import numpy as np
    import onnxruntime

    binding, given = session.io_binding(), dict[str, Any]()
    for value in session.get_inputs():
        shape = [sizes.get(axis, axis) for axis in value.shape]
        given[value.name] = onnxruntime.OrtValue.ortvalue_from_numpy(
            np.zeros(shape, dtype=_ELEMENTS[value.type]), "cuda", 0
        )
        binding.bind_ortvalue_input(value.name, given[value.name])
    for value in session.get_outputs():
        pool = given.get(value.name.removesuffix("_out"))
        if pool is None:
            binding.bind_output(value.name, "cuda", 0)
        else:
            binding.bind_ortvalue_output(value.name, pool)
    session.run_with_iobinding(binding)


def rehearse_model(stand_in: StandIn, artifact: Any, buckets: tuple[int, ...]) -> list[str]:
    """Load a model and use it in every way; return what its captures held besides work on the device."""
    import numpy as np
    from segue_server.engine.model import Device, Model
    from segue_server.engine.runners.runner import Reading, Writing
    from segue_server.engine.runners.settings import DeviceSettings
    from segue_server.engine.sampling import Sampling, SamplingRows

    stand_in.forget()
    model = Model(artifact, Device.CUDA, settings=DeviceSettings(buckets))
    ids, spelling, uniform = (
        np.ones((_STEPS, _ROWS), np.int64),
        np.zeros(_ROWS, np.int64),
        np.full((_STEPS, _ROWS), 0.5),
    )
    states = np.zeros((model.state_shape[0], _ROWS, model.state_shape[1]), np.float32)
    rows = model.scatter(states, states)
    for length, alternatives in product((np.full(_ROWS, _STEPS), np.arange(_ROWS) + _STEPS - _ROWS + 1), (None, 2)):
        rows = model.read(rows, Reading(ids, ids, length, alternatives)).rows
    for filtered, scored, alternatives in product((False, True), (False, True), (0, 2)):
        sampling = SamplingRows([Sampling(0.8, 5 * filtered)] * _ROWS, model.symbols.barred)
        writing = Writing(ids[0], spelling, sampling, uniform.astype(np.float32), filtered, scored, alternatives)
        rows = model.write(rows, writing).rows
    model.gather(rows)
    calls = stand_in.captured()
    return sorted(set(calls) - _ON_DEVICE) if "capture" in calls else ["nothing was captured"]


def main() -> int:
    """Rehearse models and every graph; return the exit code."""
    stand_in = load()
    from segue_server.engine.runners.device_graphs import LENGTHS

    from cuda_graphs.graphs import KINDS, RANKED

    captured = refused = 0
    for kind, buckets in product((KINDS[0], KINDS[4], KINDS[-1]), ((4,), (1, 4, 1024))):
        problems = rehearse_model(stand_in, kind.artifact, buckets)
        refused += bool(problems)
        print(f"{kind}, rows {buckets}: {', '.join(problems) or 'served'}")  # noqa: T201
    for kind in KINDS:
        for steps in LENGTHS:
            sizes = {"batch": _ROWS, "bias_rows": _ROWS, "slots": _SLOTS, "ranked": RANKED, "ranks": RANKED}
            for name, graph in chain(kind.graphs(steps), kind.exchanges()):
                problems = rehearse(stand_in, graph, {**sizes, "steps": steps, "time": steps})
                captured, refused = captured + (not problems), refused + bool(problems)
                print(*(f"{name}: {problem}\n" for problem in problems), sep="", end="")  # noqa: T201
    print(f"{captured} graphs captured, {refused} not")  # noqa: T201
    return int(refused > 0)


if __name__ == "__main__":
    sys.exit(main())
