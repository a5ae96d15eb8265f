"""Applies a function to many cases in parallel, with a progress bar and few cases in memory at a time."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from tqdm import tqdm

from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.reading import OUT_OF_MEMORY

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_cases(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    workers: int,
    progress: bool = True,
    description: str = "",
) -> list[Result]:
    """``[function(item) for item in items]``, in that order, with ``workers`` threads.

    Threads are enough, because decoding, resizing and compressing release the interpreter's lock. After an
    interruption, they leave no process behind. At most two items per worker are in memory.

    Args:
        function: Called once per item, from any thread.
        items: The items.
        workers: Number of threads.
        progress: Show a progress bar, on a terminal only.
        description: Text of the progress bar.

    Raises:
        InputError: memory ran out.
        BaseException: the first error of ``function``, or ``KeyboardInterrupt``; waiting items are dropped.
    """
    results: list[Result] = []
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        with tqdm(total=len(items), desc=description, unit="case", disable=None if progress else True) as bar:
            for item in items:
                if len(waiting) == 2 * workers:
                    results.append(waiting.popleft().result())
                    bar.update()
                waiting.append(pool.submit(function, item))
            while waiting:
                results.append(waiting.popleft().result())
                bar.update()
    except MemoryError as error:
        raise InputError(OUT_OF_MEMORY) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return results
