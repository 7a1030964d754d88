"""Several calls of the synchronous client on their way at once."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from threading import Lock
from typing import Any, Protocol, TypeVar

_Result = TypeVar("_Result")


class _Call(Protocol):
    def cancel(self) -> object: ...


class CallsInFlight:
    """Calls of several threads that can be given up together."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._calls: set[_Call] = set()
        self._is_cancelled = False

    def cancel(self) -> None:
        """Give all of them up; whoever waits for one, or begins another, gets CancelledError."""
        with self._lock:
            self._is_cancelled = True
            calls = list(self._calls)
        for call in calls:
            call.cancel()

    def invoked(self, method: Any) -> Callable[..., Any]:
        """Return what a gRPC method returns when it is called, as a function of the same arguments."""

        def invoke(request: object, **options: object) -> Any:
            call = method.future(request, **options)
            self.add(call)
            try:
                return call.result()
            finally:
                self.remove(call)

        self.check()
        return invoke

    def add(self, call: _Call) -> None:
        """Note a call that has begun."""
        with self._lock:
            self._calls.add(call)
        if self._is_cancelled:
            call.cancel()

    def remove(self, call: _Call) -> None:
        """Note its end."""
        with self._lock:
            self._calls.discard(call)

    def check(self) -> None:
        """Raise CancelledError once the calls have been given up."""
        if self._is_cancelled:
            raise CancelledError


def in_order(jobs: Iterable[Callable[[], _Result]], count: int, give_up: Callable[[], None]) -> Generator[_Result]:
    """Run up to `count` jobs at once, each in a thread; yield their results in the order of the jobs.

    Jobs are asked for in this thread, and only as many as are running or have results that nobody took. What the
    iteration over them raises comes behind the results before it. Where the results are not wanted any more, `give_up`
    has to end the jobs that are running.
    """
    iterator, running = iter(jobs), deque[Future[_Result]]()
    failure: Exception | None = None
    has_more = True
    with ThreadPoolExecutor(count, "segue-call") as threads:
        try:
            while has_more or running:
                if has_more and len(running) < count:
                    try:
                        running.append(threads.submit(next(iterator)))
                    except StopIteration:
                        has_more = False
                    except Exception as error:  # noqa: BLE001 - it is raised below
                        failure, has_more = error, False
                else:
                    yield running.popleft().result()
        except BaseException:
            give_up()
            for job in running:
                job.cancel()
            raise
    if failure:
        raise failure
