"""What the package offers, and what it must not need."""

import subprocess
import sys

import charlm_client

FORBIDDEN = ("torch", "numpy", "onnx", "onnxruntime", "charlm_training", "charlm_export", "charlm_server")


def test_public_names() -> None:
    assert charlm_client.__all__ == [
        "Alternative",
        "AsyncClient",
        "AsyncGeneration",
        "AsyncSamples",
        "AsyncScoreStream",
        "AsyncSession",
        "BeginPolicy",
        "Cancelled",
        "Candidate",
        "CandidateRanking",
        "CharlmError",
        "Chunk",
        "Client",
        "Continuation",
        "DeadlineExceeded",
        "EndPolicy",
        "FinishReason",
        "Finished",
        "ForeignSession",
        "Generation",
        "InvalidRequest",
        "LanguageModel",
        "Model",
        "ModelNotFound",
        "NotExact",
        "NotRewindable",
        "Ranking",
        "Samples",
        "Score",
        "ScoreProgress",
        "ScoreStream",
        "ScoringPolicies",
        "ServerBusy",
        "ServerFault",
        "ServerUnavailable",
        "Session",
        "SessionExists",
        "SessionMoved",
        "SessionNotFound",
        "SessionReference",
        "Started",
        "UnknownPolicy",
        "WindowScore",
        "WindowSize",
    ]
    assert all(hasattr(charlm_client, name) for name in charlm_client.__all__)


def test_no_module_brings_a_heavy_library_or_another_folder() -> None:
    program = f"""
import importlib, pkgutil, sys
import charlm_client
names = [module.name for module in pkgutil.iter_modules(charlm_client.__path__)]
assert len(names) > 10, names
for name in names:
    importlib.import_module(f"charlm_client.{{name}}")
loaded = [name for name in {FORBIDDEN!r} if name in sys.modules]
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", program], check=True)
