"""What the package offers, and what it must not need."""

import subprocess
import sys

import pytest
import segue_client

FORBIDDEN = ("torch", "numpy", "onnx", "onnxruntime", "segue_training", "segue_export", "segue_server")


def test_public_names() -> None:
    assert segue_client.__all__ == [
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
        "SegueError",
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
    assert all(hasattr(segue_client, name) for name in segue_client.__all__)


def test_no_module_brings_a_heavy_library_or_another_folder() -> None:
    program = f"""
import importlib, pkgutil, sys
import pytest
import segue_client
names = [module.name for module in pkgutil.walk_packages(segue_client.__path__, "segue_client.")]
assert len(names) > 10, names
for name in names:
    importlib.import_module(name)
loaded = [name for name in {FORBIDDEN!r} if name in sys.modules]
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_command_does_not_import_grpc_before_it_knows_its_subcommand() -> None:
    # `segue serve` answers signals first, and tells gRPC to be silent, which gRPC reads when it is imported.
    program = "import sys, segue_client.commands.main, segue_server.cli; assert 'grpc' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_name_that_the_package_does_not_have_is_an_attribute_error() -> None:
    assert set(segue_client.__all__) <= set(dir(segue_client))
    with pytest.raises(AttributeError, match="no attribute 'Nope'"):
        _ = segue_client.Nope
