"""Items made ahead of their use, by one thread, in the same order.

The thread takes the next item of an iterator while its consumer works on an earlier one. At most a few wait, so that an
endless iterator needs no more memory than a short one.
"""

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

Item = TypeVar("Item")

_END: Final = object()


def prefetched(items: Iterator[Item], ahead: int) -> Generator[Item]:
    """Yield `items`, of which a thread makes up to `ahead` in advance; 0: none, without a thread.

    What making an item raises is raised where the item would have been yielded. The thread has ended when the generator
    has: after its last item, after an error, and when it is closed.
    """
    if ahead == 0:
        yield from items
        return
    thread = ThreadPoolExecutor(1, "prefetch")
    try:
        waiting: deque[Future[Item | object]] = deque(thread.submit(next, items, _END) for _ in range(ahead))
        while (item := waiting.popleft().result()) is not _END:
            waiting.append(thread.submit(next, items, _END))
            yield item  # type: ignore[misc]  # not _END, hence an Item
    finally:
        thread.shutdown(cancel_futures=True)
