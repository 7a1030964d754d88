"""A graph of repeated steps on ONNX Runtime, run for any number of steps."""

# Shape suffixes: L layers, B rows, H hidden.

import os
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from segue_server.errors import StartupError

# By default the library reports usage to its maker, which a text service must not do. It is read on import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime

CUDA: Final = "CUDAExecutionProvider"
CPU: Final = "CPUExecutionProvider"

UNROLLED_STEPS: Final = (16, 4, 1)
"""Steps in each of the unrolled graphs: any number is a sum of these."""

_ERRORS_ONLY: Final = 3

Arrays = dict[str, NDArray[Any]]


class StepSession:
    """One graph. `run` may be called from one thread at a time."""

    def __init__(
        self,
        build: Callable[[int], bytes],
        provider: str,
        threads: int,
        *,
        unrolled: bool,
        given: "Given | None" = None,
    ) -> None:
        """Load the graphs that `build` returns: for 0 one with a loop, for n one of n steps. Raises StartupError.

        `threads`: how many of the host's cores one step may use; `unrolled`: use graphs of n steps instead of a loop;
        `given`: constants that are not in the graphs.
        """
        self._unrolled = unrolled
        lengths = UNROLLED_STEPS if unrolled else (0,)
        self._sessions = {length: open_session(build(length), provider, threads, given) for length in lengths}
        self._outputs = [output.name for output in self._sessions[lengths[0]].get_outputs()]

    def run(self, steps: int, feed: Mapping[str, NDArray[Any]], by_step: Mapping[str, NDArray[Any]]) -> Arrays:
        """Run `steps` steps and return all outputs. The first axis of the arrays in `by_step` is that of the steps."""
        if not self._unrolled:
            return self._run(0, {"steps": np.array(steps), **feed, **by_step})
        done, feed, parts = 0, dict(feed), list[Arrays]()
        while done < steps:
            length = next(length for length in UNROLLED_STEPS if length <= steps - done)
            now = {name: value[done : done + length] for name, value in by_step.items()}
            parts.append(self._run(length, feed | now))
            feed |= _next_inputs(feed, parts[-1], length)
            done += length
        return {name: _joined(name, [part[name] for part in parts]) for name in parts[-1]}

    def _run(self, length: int, feed: Mapping[str, NDArray[Any]]) -> Arrays:
        return dict(zip(self._outputs, self._sessions[length].run(self._outputs, feed), strict=True))


def cuda_is_built_in() -> bool:
    """Return whether the installed ONNX Runtime supports CUDA; if so, load CUDA's libraries."""
    if CUDA not in onnxruntime.get_available_providers():
        return False
    onnxruntime.preload_dlls()
    return True


Given = dict[str, onnxruntime.OrtValue]
"""Constants by name. They must live as long as the sessions that share them."""


def give(constants: Mapping[str, NDArray[Any]]) -> Given:
    """Return `constants` for any number of sessions on the CPU, which then hold no copies of their own."""
    values = {name: np.ascontiguousarray(value) for name, value in constants.items()}
    return {name: onnxruntime.OrtValue.ortvalue_from_numpy(value) for name, value in values.items()}


def open_session(graph: bytes, provider: str, threads: int, given: Given | None = None) -> onnxruntime.InferenceSession:
    """Load a graph; raises StartupError."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    # Idle threads sleep instead of taking cores from the event loop.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if given:
        options.add_external_initializers(list(given), list(given.values()))  # or it would look for a file
        for name, value in given.items():
            options.add_initializer(name, value)  # or each session would copy it
    settings = {"use_tf32": "0"} if provider == CUDA else {}  # full float32, as on the CPU
    try:
        return onnxruntime.InferenceSession(graph, options, providers=[(provider, settings)], enable_fallback=0)
    except Exception as error:
        raise StartupError(f"ONNX Runtime cannot load the model on {provider}: {error}") from error


def _next_inputs(feed: Arrays, outputs: Arrays, length: int) -> Arrays:
    """Return the inputs of the next run that differ from those of this one, which had `length` steps."""
    carried = {name: outputs[f"{name}_out"] for name in ("h", "c", "spelling") if f"{name}_out" in outputs}
    if "token" in feed:
        carried["token"] = outputs["ids"][-1]
    if "length" in feed:
        carried["length"] = feed["length"] - length
    return carried


def _joined(name: str, parts: list[NDArray[Any]]) -> NDArray[Any]:
    return parts[-1] if name.endswith("_out") else np.concatenate(parts)
