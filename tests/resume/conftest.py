"""Models of several kinds in one folder, and servers that share the keys of their tickets."""

import asyncio
import itertools
import os
import random
import re
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
import pytest
from segue.v1 import generation_pb2 as pb
from segue.v1 import generation_pb2_grpc
from segue_client import AsyncClient, AsyncGeneration, Chunk
from segue_client._async.score_stream import AsyncScoreStream
from segue_client.errors import ServerBusy, ServerUnavailable
from segue_client.protocol.score_stream import ScoreProgress, collected
from segue_export.artifact import read_artifact, write_artifact
from segue_export.export import export_checkpoint
from segue_export.graphs.portable import portable_graph
from segue_export.graphs.quantization import quantize
from segue_training.text.vocabulary import Vocabulary
from segue_training.train.checkpoint import Checkpoint, save_checkpoint

Generate = Callable[[pb.GenerateRequest], Any]

_LINES: Final = pytest.StashKey[list[str]]()


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Return what takes a line that is to stand at the end of the tests' output."""
    return request.config.stash.setdefault(_LINES, []).append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in config.stash.get(_LINES, []):
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def free_ports() -> Callable[[int], list[int]]:
    """Return a function that returns so many ports at which nobody listens, and that no connection is given."""

    def find(count: int) -> list[int]:
        ports: list[int] = []
        for port in random.SystemRandom().sample(range(20_000, 32_000), k=2_000):
            with socket.socket() as listener:
                try:
                    listener.bind(("127.0.0.1", port))
                except OSError:
                    continue
            ports.append(port)
            if len(ports) == count:
                return ports
        raise AssertionError("no port is free")

    return find


@pytest.fixture(scope="session")
def kinds_folder(make_checkpoint: Callable[..., Checkpoint], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artifacts of every kind, by the name that it is served under; `int8` is `characters` in 8 bits."""
    of_bytes, folder = Vocabulary.of_bytes(), tmp_path_factory.mktemp("kinds")
    kinds = {
        "characters": make_checkpoint(layers=1, hidden=24, seed=2),
        "layers": make_checkpoint(layers=2, hidden=24, seed=6),
        "gru": make_checkpoint(1, 24, 7, "gru"),
        "bytes": make_checkpoint(layers=1, hidden=24, seed=3, vocabulary=of_bytes),
        "lines": make_checkpoint(layers=1, hidden=24, seed=4, documents="lines"),
        "byte-lines": make_checkpoint(layers=1, hidden=24, seed=5, vocabulary=of_bytes, documents="lines"),
    }
    for name, checkpoint in kinds.items():
        save_checkpoint(folder / name, checkpoint)
        export_checkpoint(folder / name, folder / "models", name)
    artifact = read_artifact(folder / "models" / "characters" / "1")
    manifest = replace(artifact.manifest, weights="int8")
    weights = quantize(dict(artifact.weights), manifest.layers)
    write_artifact(folder / "models", "int8", manifest, portable_graph(manifest, weights))
    return folder / "models"


@pytest.fixture(scope="session")
def one_kind(kinds_folder: Path) -> Path:
    """The folder of `characters` alone, so that servers start soon."""
    folder = kinds_folder.parent / "one"
    folder.mkdir()
    shutil.copytree(kinds_folder / "characters", folder / "characters")
    return folder


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of the keys that all servers share; the first of them makes it."""
    return tmp_path_factory.mktemp("keys") / "keys"


@pytest.fixture(scope="session")
def two_servers(start_server, kinds_folder: Path, keys: Path) -> Iterator[tuple[str, str]]:
    """The addresses of two server processes."""
    with ExitStack() as stack:
        one, other = (
            stack.enter_context(start_server("--keys", str(keys), models=kinds_folder)).address for _ in range(2)
        )
        yield one, other


@pytest.fixture
async def generates(two_servers: tuple[str, str]) -> AsyncIterator[tuple[Generate, Generate]]:
    """The Generate method of each of the two."""
    async with grpc.aio.insecure_channel(two_servers[0]) as one, grpc.aio.insecure_channel(two_servers[1]) as other:
        yield tuple(generation_pb2_grpc.GenerationServiceStub(channel).Generate for channel in (one, other))


@dataclass
class Told:
    """All that came of a text, perhaps in several calls."""

    text: str = ""
    log_probabilities: list[float] = field(default_factory=list)
    alternatives: list[bytes] = field(default_factory=list)
    tickets: dict[int, bytes] = field(default_factory=dict)
    """Those that came on the way, by the number of characters before them."""
    started: list[pb.GenerationStarted] = field(default_factory=list)
    finished: list[pb.GenerationFinished] = field(default_factory=list)

    @property
    def end(self) -> tuple[Any, ...]:
        """How the latest call ended."""
        finished = self.finished[-1]
        return finished.reason, finished.stop, finished.position

    @property
    def heard(self) -> tuple[Any, ...]:
        """What must not depend on where the text was resumed."""
        return self.text, self.log_probabilities, self.alternatives, self.end

    def until(self, count: int) -> "Told":
        """Return the first `count` characters, as if the connection had broken then."""
        return Told(self.text[:count], self.log_probabilities[:count], self.alternatives[:count])

    def take(self, response: pb.GenerateResponse) -> None:
        """Note what the next message brings."""
        match response.WhichOneof("event"):
            case "started":
                self.started.append(response.started)
            case "finished":
                self.finished.append(response.finished)
            case _:
                self._take_text(response.text)

    def _take_text(self, piece: pb.GeneratedText) -> None:
        self.text += piece.text
        self.log_probabilities += piece.log_probabilities
        self.alternatives += [each.SerializeToString() for each in piece.alternatives]
        if piece.ticket:
            self.tickets[len(self.text)] = piece.ticket

    async def hear(self, generate: Generate, request: pb.GenerateRequest) -> "Told":
        """Take all that comes of `request`; return this same object."""
        before = len(self.text)
        async for response in generate(request, timeout=60):
            self.take(response)
        assert self.finished[-1].generated_count == len(self.text) - before
        return self


@dataclass(frozen=True)
class Case:
    """A text to be written, and in what ways."""

    model: str
    sampling: dict[str, float]
    """What a ticket keeps."""
    repeated: dict[str, Any] = field(default_factory=dict)
    """What it does not."""
    seed: int = 0
    alternatives: int = 0
    stops: tuple[str, ...] = ()

    def request(self, count: int, **fields: Any) -> pb.GenerateRequest:
        """Return the request for the first `count` characters."""
        sampling = pb.Sampling(seed=self.seed, **self.sampling, **self.repeated)
        return self._request(count, sampling, prompt="The rain ", **fields)

    def resumed(self, ticket: bytes, count: int, before: str, **fields: Any) -> pb.GenerateRequest:
        """Return the request for what follows: with nothing that the ticket keeps."""
        sampling, start = pb.Sampling(**self.repeated), {"ticket": ticket}
        return self._request(count, sampling, start=start, written_before=before, **fields)

    def _request(self, count: int, sampling: pb.Sampling, **fields: Any) -> pb.GenerateRequest:
        return pb.GenerateRequest(
            model={"name": self.model},
            sampling=sampling,
            max_characters=count,
            top_alternatives=self.alternatives,
            **{"stop": self.stops, "log_probabilities": True, "return_ticket": True, **fields},
        )

    async def of_length(self, generate: Generate, fewest: int, most: int) -> "Case":
        """Return the case with the first seed whose text has so many characters."""
        for seed in itertools.count():
            case = replace(self, seed=seed)
            told = await Told().hear(generate, case.request(most))
            if len(told.text) >= fewest:
                return case
        raise AssertionError


@dataclass(frozen=True)
class Texts:
    """What tests ask for and hear."""

    case: type[Case] = Case
    told: type[Told] = Told

    @staticmethod
    def stop_between(text: str, begin: int, end: int) -> str:
        """Return what ends `text` at `end` and at no other place before, begun at `begin` or earlier."""
        while text.find(text[begin:end]) != begin:
            begin -= 1
        return text[begin:end]


@pytest.fixture(scope="session")
def texts() -> Texts:
    return Texts()


@dataclass(frozen=True)
class Errand:
    """A request, or two in one session, of a model whose symbols are characters."""

    prompt: str
    options: dict[str, Any]
    in_session: bool = False
    samples: int = 1
    scored: bool = False
    """Whether the prompt is scored as a stream, in pieces; otherwise it is continued."""


@dataclass(frozen=True)
class Heard:
    """All that a caller of the client hears of an errand."""

    texts: tuple[str, ...]
    log_probabilities: tuple[tuple[float, ...], ...]
    ends: tuple[Any, ...]
    then: tuple[str, ...] = ()
    """What follows from the last tickets, or in the session."""

    @property
    def characters(self) -> int:
        return sum(map(len, self.texts))


@dataclass
class Watch:
    """Which streams run, and whether anything has come of them since a moment."""

    running: dict[object, bool] = field(default_factory=dict)
    resumptions: int = 0
    news: asyncio.Event = field(default_factory=asyncio.Event)

    @contextmanager
    def over(self, stream: object) -> Iterator[None]:
        """Count `stream` as one that runs."""
        self.running[stream] = False
        try:
            yield
        finally:
            del self.running[stream]

    def note(self, stream: object) -> None:
        """Something has come of `stream`."""
        self.running[stream] = True
        self.news.set()

    def begin(self) -> int:
        """Return of how many running streams something has come since this was last called."""
        count = sum(self.running.values())
        self.running = dict.fromkeys(self.running, False)
        self.news.clear()
        return count


class Caller:
    """Runs errands through a client, and looks at the outcome through another one that nobody disturbs."""

    def __init__(self, client: AsyncClient, quiet: AsyncClient, watch: Watch) -> None:
        self._client = client
        self._quiet = quiet
        self._watch = watch

    async def run(self, errand: Errand) -> Heard:
        """Return what came of it; raises whatever the client raises."""
        if errand.in_session:
            return await self._run_in_session(errand)
        if errand.scored:
            return await self._begun(lambda: self._scored(errand))
        if errand.samples > 1:
            options = {"samples": errand.samples, **errand.options}
            texts = await self._begun(lambda: self._client.generate_samples(errand.prompt, **options))
            return await self._heard(texts, texts, errand.samples)
        text = await self._begun(lambda: self._client.generate(errand.prompt, **errand.options))
        return await self._heard(text, _numbered(text), 1)

    async def _run_in_session(self, errand: Errand) -> Heard:
        name, parts = (await self._begun(lambda: self._quiet.open_session(seed=5))).name, list[Heard]()
        session = await self._begun(lambda: self._client.session(name))
        for prompt in (errand.prompt, ""):
            text = await self._begun(partial(session.generate, prompt, **errand.options))
            parts.append(await self._heard(text, _numbered(text), 1))
        last = await self._begun(lambda: self._quiet.generate(session=name, max_characters=16))
        return Heard(
            tuple(text for part in parts for text in part.texts),
            tuple(each for part in parts for each in part.log_probabilities),
            tuple(end for part in parts for end in part.ends),
            (await last.text(),),
        )

    async def _scored(self, errand: Errand) -> Heard:
        text, progresses = errand.prompt, list[ScoreProgress]()
        pieces = [text[at : at + _PIECE] for at in range(0, len(text), _PIECE)]
        stream = self._client.score_stream(
            pieces, join=False, ticket_interval=_PIECE, return_ticket=True, **errand.options
        )
        with self._watch.over(stream):
            while (progress := await self._next(stream, progresses)) is not None:
                progresses.append(progress)
                self._watch.note(stream)
        assert stream.finished
        whole = collected(progresses, stream.finished)
        then = await (await self._quiet.generate(ticket=whole.ticket, max_characters=16)).text()
        ends = replace(whole, ticket=None, continuation=None, log_probabilities=())
        assert progresses[-1].sent_count == len(text)
        return Heard((text,), (whole.log_probabilities,), (ends,), (then,))

    async def _next(self, stream: AsyncScoreStream, progresses: list[ScoreProgress]) -> ScoreProgress | None:
        try:
            return await anext(stream, None)
        except ServerUnavailable as error:
            if progresses:
                raise AssertionError(f"given up after {progresses[-1].sent_count} characters") from error
            raise

    async def _begun(self, begin: Callable[[], Awaitable[Any]]) -> Any:
        """Begin until a server is there and has time: a call that nobody has answered is not tried for long."""
        while True:
            try:
                return await begin()
            except ServerUnavailable:
                await asyncio.sleep(0.05)
            except ServerBusy as error:  # a slow machine has less time for as many streams
                await asyncio.sleep(error.retry_after or 0.05)

    async def _heard(self, stream: Any, chunks: AsyncIterator[tuple[int, Chunk]], samples: int) -> Heard:
        texts, log_probabilities = [list[str]() for _ in range(samples)], [list[float]() for _ in range(samples)]
        position = [0] * samples
        with self._watch.over(stream):
            async for sample, chunk in chunks:
                assert position[sample] in (0, chunk.position - len(chunk.text)), "lost, doubled or reordered"
                position[sample] = chunk.position
                texts[sample].append(chunk.text)
                log_probabilities[sample] += chunk.log_probabilities
                self._watch.note(stream)
        self._watch.resumptions += stream.resumed_count
        finished = stream.finished if samples > 1 else (stream.finished,)
        tickets = [each.ticket for each in finished if each.ticket]
        follow = [await self._quiet.generate(ticket=ticket, max_characters=16) for ticket in tickets]
        return Heard(
            tuple(map("".join, texts)),
            tuple(map(tuple, log_probabilities)),
            tuple((each.reason, each.stop, each.generated_count, each.position) for each in finished),
            tuple([await each.text() for each in follow]),
        )


async def _numbered(text: AsyncGeneration) -> AsyncIterator[tuple[int, Chunk]]:
    async for chunk in text:
        yield 0, chunk


def _text(number: int, longest: int) -> Errand:
    generator = random.Random(number)
    options: dict[str, Any] = {
        "seed": generator.randrange(2**64),
        "temperature": generator.choice([0.7, 1.0, 1.4]),
        "top_k": generator.choice([0, 0, 0, 8]),
        "max_characters": generator.randrange(longest // 4, longest),
        "log_probabilities": number % 2 == 0,
        "return_ticket": number % 3 == 0,
    }
    prompt = "".join(generator.choices("etaoin shrdlu", k=generator.randrange(60)))
    match number % 8:
        case _ if number % 16 == 5:
            return Errand(_long_text(generator, longest), _SCORED[number // 16 % 3], scored=True)
        case 1:  # over before the first ticket is due
            return Errand(prompt, options | {"max_characters": generator.randrange(300, 900)})
        case 2:
            return Errand(prompt, options | {"max_characters": generator.randrange(200, 800)}, samples=3)
    return Errand(prompt, options)


def _long_text(generator: random.Random, longest: int) -> str:
    return "".join(
        generator.choices("etaoin shrdlu\n§", weights=[9] * 13 + [3, 1], k=generator.randrange(longest, 4 * longest))
    )


def _in_session(number: int, longest: int) -> Errand:
    """Short: every call is written from its start until it ends."""
    errand = _text(number - number % 8, longest)
    del errand.options["seed"]
    return replace(errand, options=errand.options | {"max_characters": 200 + 20 * number}, in_session=True)


_PIECE: Final = 2_000
_SCORED: Final = ({}, {"log_probabilities": True, "ranks": True}, {"windows": "lines"})
_ERRANDS: Final = {
    "texts": _text,
    "sessions": _in_session,
    "all": lambda number, longest: (_text if number % 8 else _in_session)(number, longest),
}


@dataclass(frozen=True)
class Errands:
    """What tests of the client under fire need."""

    caller: type[Caller] = Caller
    watch: type[Watch] = Watch

    async def expectations(
        self, caller: Caller, count: int, longest: int, kinds: str = "all"
    ) -> list[tuple[Errand, Heard]]:
        """Return errands, each of its own prompt, seed, settings and length, and what comes of them.

        `caller` is one that nobody disturbs. Some texts end by a stop string, which begins a while before.
        `kinds`: "texts", "sessions", or "all" of them.
        """

        async def one(number: int) -> tuple[Errand, Heard]:
            errand = _ERRANDS[kinds](number, longest)
            heard = await caller.run(errand)
            if number % 4 != 3 or errand.in_session:
                return errand, heard
            [text] = heard.texts
            stop = Texts.stop_between(text, len(text) - 60, len(text) - 9)
            errand = replace(errand, options=errand.options | {"stop": [f"{stop}{stop}", stop]})
            heard = await caller.run(errand)
            assert heard.texts == (text[:-9],)
            return errand, heard

        return await asyncio.gather(*map(one, range(count)))


@pytest.fixture(scope="session")
def errands() -> Errands:
    return Errands()


_DOCUMENTED_PORTS: Final = ("50050", "50061", "50062", "50063")
_AROUND: Final = """
daemon off;
master_process off;
pid {folder}/pid;
error_log {folder}/errors;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {folder}/client_body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {documented}
}}
"""


def _documented(ports: list[int]) -> str:
    """Return what docs/resume.md tells operators to write, with these ports."""
    text = (Path(__file__).parents[2] / "docs" / "resume.md").read_text()
    [block] = re.findall(r"```nginx\n(.*?)```", text, re.DOTALL)
    for said, port in zip(_DOCUMENTED_PORTS, ports, strict=True):
        assert said in block
        block = block.replace(said, str(port))
    return str(block)


@pytest.fixture
def nginx(tmp_path: Path) -> Callable[..., AbstractContextManager[str]]:
    """Return a context in which nginx runs as documented, on the first port, before servers on the others."""
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
    if program is None:
        pytest.skip("nginx is not installed; on Debian: apt-get install nginx-light")

    @contextmanager
    def run(ports: list[int], change: Callable[[str], str] = str) -> Iterator[str]:
        folder, address = tmp_path / "nginx", f"127.0.0.1:{ports[0]}"
        folder.mkdir()
        configuration = folder / "configuration"
        configuration.write_text(_AROUND.format(folder=folder, documented=change(_documented(ports))))
        process = subprocess.Popen([program, "-e", str(folder / "errors"), "-c", str(configuration)])
        try:
            with grpc.insecure_channel(address) as channel:
                grpc.channel_ready_future(channel).result(timeout=20)
            yield address
        finally:
            process.terminate()
            process.wait()

    return run
