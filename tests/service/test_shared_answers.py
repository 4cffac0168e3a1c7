"""Answers that readers share: one reading for all who take it, none older than asked for, failures not kept."""

import asyncio
import gzip
from collections.abc import Callable

import pytest

from service.overview.shared_answers import QUESTIONS, SharedAnswers, max_age_of


class Readings:
    """Counts them, and says which one an answer is from."""

    def __init__(self) -> None:
        self.begun = 0
        self.fails = False
        self.released = asyncio.Event()
        self.released.set()

    async def __call__(self) -> Callable[[], bytes]:
        """One."""
        self.begun += 1
        number = self.begun
        await self.released.wait()
        if self.fails:
            raise OSError("the store is away")
        return lambda: b"%d" % number


def test_readers_of_one_question_share_what_is_young_enough() -> None:
    """Ten at once are one reading; later ones share it for as long as each allows; another question is another reading."""

    async def scenario() -> None:
        answers, readings = SharedAnswers(), Readings()
        readings.released.clear()
        asked = [asyncio.create_task(answers.get("a", 5.0, readings)) for _ in range(10)]
        await asyncio.sleep(0)
        readings.released.set()
        documents = await asyncio.gather(*asked)
        assert (readings.begun, {d.body for d in documents}) == (1, {b"1"})
        assert gzip.decompress(documents[0].packed) == b"1"
        assert await answers.get("a", 5.0, readings) is documents[0]
        assert (await answers.get("b", 5.0, readings)).body == b"2"
        assert (await answers.get("a", 0.0, readings)).body == b"3"
        assert (await answers.get("a", 5.0, readings)).body == b"3"

    asyncio.run(scenario())


def test_who_takes_nothing_old_does_not_wait_for_an_older_reading() -> None:
    """An answer that must be new is begun after the question, also while another is being made."""

    async def scenario() -> None:
        answers, readings = SharedAnswers(), Readings()
        readings.released.clear()
        first = asyncio.create_task(answers.get("a", 5.0, readings))
        await asyncio.sleep(0.01)
        second = asyncio.create_task(answers.get("a", 0.0, readings))
        await asyncio.sleep(0.01)
        assert readings.begun == 2
        readings.released.set()
        assert [(await task).body for task in (first, second)] == [b"1", b"2"]

    asyncio.run(scenario())


def test_a_failure_is_told_to_all_who_waited_and_not_kept() -> None:
    """Everybody hears of it; the next one asks again. A reader who goes away takes nothing from the others."""

    async def scenario() -> None:
        answers, readings = SharedAnswers(), Readings()
        readings.fails = True
        found = await asyncio.gather(*(answers.get("a", 5.0, readings) for _ in range(3)), return_exceptions=True)
        assert [type(one) for one in found] == [OSError] * 3
        readings.fails = False
        readings.released.clear()
        gone, stays = (asyncio.create_task(answers.get("a", 5.0, readings)) for _ in range(2))
        await asyncio.sleep(0)
        gone.cancel()
        readings.released.set()
        assert (await stays).body == b"2"

    asyncio.run(scenario())


def test_no_more_questions_are_kept_than_said() -> None:
    """The question that was answered longest ago goes first."""

    async def scenario() -> None:
        answers, readings = SharedAnswers(), Readings()
        for number in range(QUESTIONS + 1):
            await answers.get(str(number), 5.0, readings)
        await answers.get("1", 5.0, readings)
        assert readings.begun == QUESTIONS + 1
        await answers.get("0", 5.0, readings)
        assert readings.begun == QUESTIONS + 2

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, 0.0),
        ("no-cache", 0.0),
        ("max-age=2", 2.0),
        ("no-store, Max-Age=30 , no-transform", 30.0),
        ("s-max-age=5", 0.0),
        ("max-age=-1", 0.0),
        ("max-age=1e9", 0.0),
    ],
)
def test_how_old_an_answer_may_be(header: str | None, seconds: float) -> None:
    """Only what RFC 9111 says; anything else means: as it is now."""
    assert max_age_of(header) == seconds
