"""Host memory that a GPU reads by itself, with a stand-in for CUDA's runtime."""

import ctypes
import gc
import logging
import mmap

import numpy as np
import pytest
from segue_server.engine.runners import pinned_memory as module
from segue_server.engine.runners.pinned_memory import pinned_zeros


class Runtime:
    """Notes what is pinned."""

    def __init__(self, status: int = 0) -> None:
        self.pinned: dict[int, int] = {}
        self._status = status

    def cudaHostRegister(self, address: ctypes.c_void_p, size: ctypes.c_size_t, flags: ctypes.c_uint) -> int:  # noqa: N802
        assert flags.value == 0
        if not self._status:
            assert address.value is not None
            self.pinned[address.value] = size.value
        return self._status

    def cudaHostUnregister(self, address: ctypes.c_void_p) -> int:  # noqa: N802
        assert address.value is not None
        del self.pinned[address.value]
        return 0


def test_an_array_has_pages_of_its_own_that_are_pinned_as_long_as_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Runtime()
    monkeypatch.setattr(module, "_runtime", lambda: runtime)
    arrays = [pinned_zeros(shape, kind) for shape, kind in (((3, 5), np.float32), ((1,), np.int64), ((0, 4), np.int64))]
    assert [array.shape for array in arrays] == [(3, 5), (1,), (0, 4)]
    assert all(not array.any() for array in arrays)
    arrays[0][...] = 7
    assert len(runtime.pinned) == 3
    for array in arrays:
        assert runtime.pinned[array.ctypes.data] >= array.nbytes
        assert array.ctypes.data % mmap.PAGESIZE == 0
    part = arrays[0][1]
    del array
    arrays.clear()
    gc.collect()
    assert list(runtime.pinned) == [part.ctypes.data - 5 * 4], "a part keeps its array"
    del part
    gc.collect()
    assert not runtime.pinned


def test_memory_that_is_not_pinned_is_of_use_and_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_runtime", lambda: Runtime(status=2))
    with caplog.at_level(logging.WARNING):
        array = pinned_zeros((4,), np.float32)
    array += 1
    assert array.tolist() == [1, 1, 1, 1]
    assert "not pinned: cudaHostRegister gave error 2" in caplog.text


def test_without_cuda_nothing_is_pinned(caplog: pytest.LogCaptureFixture) -> None:
    module._runtime.cache_clear()
    with caplog.at_level(logging.WARNING):
        arrays = [pinned_zeros((2,), np.int64) for _ in range(2)]
    assert all(array.tolist() == [0, 0] for array in arrays)
    if module._runtime() is None:
        assert caplog.text.count("copies from and to the GPU are slower") == 1
