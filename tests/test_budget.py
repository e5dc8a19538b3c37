"""A budget of pixels: never exceeded, fair, and never a deadlock."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from whycam.data.budget import PixelBudget


def run_all(budget: PixelBudget, requests: list[int]) -> list[tuple[int, int]]:
    """(request, pixels in use while it was held) of each, eight threads at once."""

    def run(pixels: int) -> tuple[int, int]:
        with budget.hold(pixels):
            seen = [budget.in_use]
            time.sleep(0.002)
            seen.append(budget.in_use)
            return pixels, max(seen)

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(run, requests))


def test_no_more_than_the_budget_is_held_by_all_threads() -> None:
    budget = PixelBudget(100)
    seen = run_all(budget, [30, 40, 50, 60, 70, 100, 1, 0] * 8)
    assert max(in_use for _, in_use in seen) <= 100
    assert max(in_use for _, in_use in seen) > 70  # not one after the other
    assert budget.in_use == 0


def test_what_is_larger_than_the_budget_is_alone() -> None:
    seen = run_all(PixelBudget(100), [30, 250, 20, 250, 50, 101] * 6)
    assert {(pixels, in_use) for pixels, in_use in seen if pixels > 100} == {(250, 250), (101, 101)}
    assert max(in_use for pixels, in_use in seen if pixels <= 100) <= 100


def test_a_large_request_is_not_overtaken_for_ever() -> None:
    budget, order = PixelBudget(100), []
    first = threading.Event()

    def small(name: str) -> None:
        with budget.hold(60):
            order.append(name)
            first.set()
            time.sleep(0.05)

    def large() -> None:
        with budget.hold(100):
            order.append("large")

    threads = [threading.Thread(target=small, args=["before"])]
    threads[0].start()
    assert first.wait(5)
    for run, words in ((large, []), (small, ["after"])):
        threads.append(threading.Thread(target=run, args=words))
        threads[-1].start()
        time.sleep(0.01)
    for thread in threads:
        thread.join(5)
    assert order == ["before", "large", "after"]


def test_a_thread_that_holds_some_does_not_wait_for_itself() -> None:
    budget = PixelBudget(100)

    def run(_: int) -> int:
        with budget.hold(60), budget.hold(50):
            inner = budget.in_use
            with budget.hold(80):
                assert budget.in_use >= 80
            return inner

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(run, range(20), timeout=10)) == [60] * 20
    assert budget.in_use == 0


def test_an_error_gives_the_pixels_back() -> None:
    budget = PixelBudget(100)
    with pytest.raises(ZeroDivisionError), budget.hold(100):
        raise ZeroDivisionError
    with budget.hold(100):
        assert budget.in_use == 100
