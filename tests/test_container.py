"""The image, played from its Dockerfile: unprivileged, read-only, without a home, with an empty environment.

Where there is an engine, `deploy/try_image.sh` does the same with the built image, and `deploy/try_gpu_image.sh` with
the one for GPUs, which is too large to be built in every run of the tests.
"""

import itertools
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import grpc
import onnx
import pytest
from image import PLAIN, ROOT, Container, Image
from segue.v1 import generation_pb2 as pb
from segue.v1 import generation_pb2_grpc
from segue_client import Client
from segue_client.errors import InvalidRequest
from segue_export.artifact import read_artifact
from segue_export.graphs.reading import Result, reading_graph
from segue_export.graphs.step import Step
from segue_export.graphs.writing import WritingVariant, writing_graph
from segue_server.engine.runners.onnx_session import cuda_is_built_in

IMAGE = Image.of(ROOT / "Dockerfile", "cpu")
GPU_IMAGE = Image.of(ROOT / "Dockerfile", "gpu")
OPENSHIFT = "1000730000:0"
"""A uid that no image knows, with group 0."""
SOMEBODY = "4242:4242"
OWNER_OF_THE_MODELS = 1234
GIVEN = "/run/secrets/segue_keys"
PATIENCE = 300.0
"""Seconds, for machines that are busy with other things."""

in_a_box = pytest.mark.skipif(bool(PLAIN), reason=f"needs another user and a read-only root: {PLAIN}")

NewContainer = Callable[..., Container]


@dataclass(frozen=True)
class Running:
    """A container whose server is ready."""

    container: Container
    port: int
    process: "subprocess.Popen[str]"
    log: Path

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


@pytest.fixture
def new_container(models_folder: Path, tmp_path: Path) -> NewContainer:
    """Return a function that describes a container: its models belong to another user, its volume is new."""
    models = shutil.copytree(models_folder, tmp_path / "models")
    subprocess.run(["chmod", "-R", "a+rX,a-w", str(models)], check=True)
    if not PLAIN:
        subprocess.run(["chown", "-R", str(OWNER_OF_THE_MODELS), str(models)], check=True)
    (tmp_path / "root").mkdir()
    volume = new_volume(tmp_path / "volume")
    return partial(Container, image=IMAGE, root=tmp_path / "root", models=models, state=volume)


def new_volume(path: Path) -> Path:
    path.mkdir(mode=0o700)
    return path


def key_file(path: Path, user: str) -> Path:
    """A key that was made elsewhere, and mounted such that only `user` can read it."""
    path.write_text(f"3 {'ab' * 32}\n7 {'cd' * 32}\n")
    path.chmod(0o400)
    if not PLAIN:
        uid, gid = map(int, user.split(":"))
        os.chown(path, uid, gid)
    return path


@contextmanager
def running(container: Container, *options: str) -> Iterator[Running]:
    log = container.root.with_name(f"log-{len(list(container.root.parent.iterdir()))}")
    with log.open("w") as errors:
        process = subprocess.Popen(container.serve(*options), stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        assert process.stdout is not None
        ready = re.fullmatch(r"ready: 0\.0\.0\.0:(\d+)\n", process.stdout.readline())
        assert ready, log.read_text()
        yield Running(container, int(ready[1]), process, log)
    finally:
        process.kill()
        process.communicate()
    assert "Traceback" not in log.read_text(), log.read_text()


def refusal(container: Container, *options: str) -> str:
    """The error with which the server of a container does not start: one line, the last."""
    command = container.serve(*options)
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert ended.returncode in {1, 2}, ended
    assert not ended.stdout
    assert "Traceback" not in ended.stderr, ended.stderr
    line = ended.stderr.splitlines()[-1]
    assert line.startswith("Error: "), ended.stderr
    return line


def healthy(server: Running) -> bool:
    """Whether the image's health check says so: engines ask several times, as the server may be slow to answer."""
    command = server.container.check_health(server.port)
    return any(subprocess.run(command, check=False, timeout=PATIENCE).returncode == 0 for _ in range(10))


def stop(server: Running) -> None:
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(timeout=PATIENCE) == 0


def text(server: Running, **options) -> str:
    with Client(server.address) as client:
        return client.generate(seed=1, **options).text()


@in_a_box
def test_the_box_holds_a_process_as_an_engine_would(new_container) -> None:
    look = "grep -E '^(Uid|CapEff|CapBnd|NoNewPrivs)' /proc/self/status; umask; env | cut -d= -f1 | sort; pwd"
    try_all = "for place in / /etc /models /models/tiny/1 /opt/segue /tmp; do touch $place/new && echo $place; done"
    inside = new_container().run("sh", "-c", f"{look}; {try_all}; touch /state/new && echo /state")
    shown = subprocess.run(inside, capture_output=True, text=True, check=True).stdout.split("\n")
    none = f"{0:016x}"
    assert shown[:4] == ["Uid:" + "\t65534" * 4, f"CapEff:\t{none}", f"CapBnd:\t{none}", "NoNewPrivs:\t1"]
    names = {*IMAGE.environment, "PYTHONPATH", "PWD"}
    assert shown[4:] == ["0077", *sorted(names), "/", "/state", ""]


@pytest.mark.parametrize(
    ("user", "given", "home"),
    [
        (IMAGE.user, False, {}),
        pytest.param(IMAGE.user, True, {"HOME": "/nonexistent"}, marks=in_a_box),
        pytest.param(OPENSHIFT, False, {"HOME": "/"}, marks=in_a_box),
        pytest.param(SOMEBODY, True, {}, marks=in_a_box),
    ],
)
def test_it_starts_says_which_keys_it_uses_answers_and_stops(
    new_container, tmp_path: Path, user: str, *, given: bool, home: dict[str, str]
) -> None:
    files = {GIVEN: key_file(tmp_path / "keys", user)} if given else {}
    environment = {**home, "SEGUE_KEYS": GIVEN} if given else home
    container = new_container(files=files, environment=environment, user=user)
    with running(container) as server:
        assert healthy(server)
        assert len(text(server, prompt="The ", max_characters=20)) == 20
        stop(server)
    (line,) = [line for line in server.log.read_text().splitlines() if " keys " in line]
    made = container.state / "keys"
    if given:
        assert f"keys read: {GIVEN if not PLAIN else files[GIVEN]}, key ids 3, 7" in line
        assert not made.exists()
    else:
        assert f"keys made: {'/state/keys' if not PLAIN else made}, key id 1" in line
        assert made.stat().st_mode & 0o777 == 0o600


@in_a_box
def test_with_given_keys_and_sessions_elsewhere_it_needs_neither_a_volume_nor_a_home(
    new_container, tmp_path: Path
) -> None:
    files = {GIVEN: key_file(tmp_path / "keys", SOMEBODY)}
    environment = {"SEGUE_STATE": "", "SEGUE_KEYS": GIVEN, "SEGUE_SESSIONS": "memory:"}
    with running(new_container(state=None, files=files, environment=environment, user=SOMEBODY)) as server:
        assert len(text(server, prompt="The ", max_characters=20)) == 20


def test_what_one_replica_began_another_with_its_volume_continues_to_the_character(new_container) -> None:
    container = new_container()
    with running(container, "--drain-grace", "0.1") as one, running(container) as two:
        assert "keys made" in one.log.read_text()
        assert "keys read" in two.log.read_text()
        with Client(one.address) as client:
            opened = client.open_session("scene", seed=1)
            said = opened.generate(max_characters=50).text()
        stub = generation_pb2_grpc.GenerationServiceStub(grpc.insecure_channel(one.address))
        asked = pb.GenerateRequest(prompt="The ", max_characters=1_000_000, sampling=pb.Sampling(seed=1))
        stream = stub.Generate(asked)
        delivered = "".join(part.text.text for part in itertools.islice(stream, 3))
        one.process.send_signal(signal.SIGTERM)
        *rest, last = stream
        delivered += "".join(part.text.text for part in rest)
        assert one.process.wait(timeout=PATIENCE) == 0
        assert last.finished.reason == pb.FINISH_REASON_DRAINED
        with Client(two.address) as client:
            continued = client.generate(ticket=last.finished.ticket, max_characters=100).text()
            said += client.generate(session="scene", max_characters=50).text()
        assert delivered + continued == text(two, prompt="The ", max_characters=len(delivered) + 100)
        assert said == text(two, max_characters=100)


def test_a_replica_elsewhere_needs_the_same_keys(new_container, tmp_path: Path) -> None:
    keys = {"files": {GIVEN: key_file(tmp_path / "keys", IMAGE.user)}, "environment": {"SEGUE_KEYS": GIVEN}}
    first, second, stranger = (new_volume(tmp_path / name) for name in ("first", "second", "stranger"))
    with running(new_container(state=first, **keys)) as server, Client(server.address) as client:
        begun = client.generate("The ", seed=1, max_characters=30, return_ticket=True)
        said, ticket = begun.text(), begun.finished.ticket
        stop(server)
    with running(new_container(state=second, **keys)) as server, Client(server.address) as client:
        said += client.generate(ticket=ticket, max_characters=30).text()
        assert said == text(server, prompt="The ", max_characters=60)
    with (
        running(new_container(state=stranger)) as server,
        Client(server.address) as client,
        pytest.raises(InvalidRequest, match="ticket"),
    ):
        client.generate(ticket=ticket, max_characters=30).text()


def test_a_container_that_is_replaced_finds_its_keys_and_sessions_again(new_container) -> None:
    container = new_container()
    with running(container) as server, Client(server.address) as client:
        said = client.open_session("scene", seed=1).generate(max_characters=50).text()
        stop(server)
    with running(container) as server, Client(server.address) as client:
        assert "keys read" in server.log.read_text()
        said += client.generate(session="scene", max_characters=50).text()
        assert said == text(server, max_characters=100)


@in_a_box
def test_without_a_writable_volume_it_says_so_in_one_line(new_container) -> None:
    line = refusal(new_container(state=None))
    assert "user 65534 cannot write in the state folder /state: Read-only file system" in line
    assert "mount a volume there" in line


@in_a_box
def test_a_volume_of_another_user_is_refused_in_one_line(new_container, tmp_path: Path) -> None:
    (tmp_path / "volume" / "of somebody else").touch()  # so that it is not new
    line = refusal(new_container())
    assert "user 65534 cannot write in the state folder /state: Permission denied" in line


@in_a_box
@pytest.mark.parametrize(
    ("home", "said"),
    [
        ({}, "HOME is not set, and user 4242 has no home; name one with --state or SEGUE_STATE"),
        ({"HOME": "/nonexistent"}, "cannot write in the state folder /nonexistent/.local/state/segue: Read-only"),
        ({"HOME": "/"}, "cannot write in the state folder /.local/state/segue: Read-only"),
        ({"XDG_STATE_HOME": "/var"}, "cannot write in the state folder /var/segue: Read-only"),
        ({"SEGUE_SESSIONS": "sqlite:~/sessions", "SEGUE_STATE": "/state"}, "has no home; name the whole path"),
    ],
)
def test_a_user_without_a_home_and_a_state_folder_is_told_in_one_line(new_container, home, said: str) -> None:
    assert said in refusal(new_container(user=SOMEBODY, environment={"SEGUE_STATE": "", **home}))


@in_a_box
def test_given_keys_that_are_missing_a_folder_or_not_readable_are_named(new_container, tmp_path: Path) -> None:
    environment = {"SEGUE_KEYS": GIVEN}
    missing = refusal(new_container(environment=environment))
    assert f"cannot make the key file {GIVEN}, which does not exist: Read-only file system" in missing
    assert "--keys or SEGUE_KEYS" in missing
    folder = {GIVEN: new_volume(tmp_path / "made by the engine")}
    assert f"{GIVEN}' is a directory" in refusal(new_container(environment=environment, files=folder))
    secret = {GIVEN: key_file(tmp_path / "keys", SOMEBODY)}
    unreadable = refusal(new_container(environment=environment, files=secret))
    assert f"user 65534 cannot read the key file {GIVEN}: Permission denied" in unreadable


@in_a_box
def test_keys_of_root_for_a_group_of_the_user_are_read(new_container, tmp_path: Path) -> None:
    """Kubernetes mounts secrets so, where a pod has an fsGroup."""
    keys = key_file(tmp_path / "keys", "0:65534")
    keys.chmod(0o440)
    with running(new_container(files={GIVEN: keys}, environment={"SEGUE_KEYS": GIVEN})) as server:
        assert f"keys read: {GIVEN}" in server.log.read_text()


@in_a_box
def test_models_that_the_user_cannot_read_are_named_in_one_line(new_container) -> None:
    container = new_container()
    container.models.chmod(0o700)
    assert "Path '/models' is not readable" in refusal(container)
    container.models.chmod(0o755)
    (container.models / "tiny" / "1" / "model.onnx").chmod(0o600)
    assert "/models/tiny/1" in refusal(container)


def test_the_image_for_gpus_differs_in_its_device_alone() -> None:
    assert replace(GPU_IMAGE, command=IMAGE.command) == IMAGE
    assert (IMAGE.command, GPU_IMAGE.command) == (["--device", "cpu"], ["--device", "cuda"])


@pytest.mark.skipif(cuda_is_built_in(), reason="onnxruntime-gpu is installed")
def test_the_image_for_gpus_does_not_fall_back_to_the_cpu_unless_it_may(new_container) -> None:
    line = refusal(new_container(image=GPU_IMAGE))
    assert "--device cuda: " in line
    assert "Use --device cpu" in line
    with running(new_container(image=replace(GPU_IMAGE, command=["--device", "auto"]))) as server:
        assert len(text(server, prompt="The ", max_characters=20)) == 20


def test_no_model_needs_the_library_that_the_image_for_gpus_leaves_out(models_folder: Path) -> None:
    """ONNX Runtime loads cuFFT when one of two operators first runs."""
    assert "uninstall --yes nvidia-cufft" in (ROOT / "Dockerfile").read_text()
    artifact = read_artifact(models_folder / "tiny" / "1")
    step = Step(artifact.manifest, artifact.weights)
    choices = itertools.product((False, True), repeat=3)
    graphs = [writing_graph(step, WritingVariant(*choice, unrolled=2)) for choice in choices]
    graphs += [
        reading_graph(step, ragged=ragged, unrolled=2, result=result) for ragged in (False, True) for result in Result
    ]
    operators = {node.op_type for graph in graphs for node in onnx.load_from_string(graph).graph.node}
    assert "MatMul" in operators or "Gemm" in operators
    assert not operators & {"Rfft", "Irfft"}


@pytest.mark.parametrize("page", ["README.md", "Dockerfile", "docs/container.md"])
def test_what_pages_mount_is_what_the_image_reads_and_nothing_is_published_to_the_network(page: str) -> None:
    lines = (ROOT / page).read_text().replace("\\\n", " ").replace("\n#", "\n").splitlines()
    runs = [shlex.split(line) for line in lines if re.match(r"\s*(docker|podman) run ", line)]
    assert runs
    for words in runs:
        pairs = list(itertools.pairwise(words))
        mounted = {value.split(":")[1] for option, value in pairs if option == "-v"}
        assert {"/models", "/state"} <= mounted <= {"/models", *IMAGE.volumes, GIVEN}
        assert all(value.startswith("127.0.0.1:") for option, value in pairs if option == "-p")
