import asyncio

import pytest

import service.versions.alone
from service.versions.alone import alone
from tests.server.conftest import START_S


def test_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.setattr(service.versions.alone, "_MOST_S", START_S)
    here = []

    async def stay(number):
        async with alone(tmp_path / "lock"):
            here.append(number)
            assert len(here) == 1
            await asyncio.sleep(0.03)
            here.remove(number)

    async def scenario():
        await asyncio.gather(*(stay(number) for number in range(4)))

    asyncio.run(scenario())


def test_who_waits_no_longer_holds_nobody_up(tmp_path):
    async def scenario():
        async with alone(tmp_path / "lock"):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(alone(tmp_path / "lock").__aenter__(), 0.05)
        async with alone(tmp_path / "lock"):
            pass

    asyncio.run(scenario())


def test_who_is_here_for_too_long_holds_nobody_up(tmp_path, monkeypatch):
    monkeypatch.setattr(service.versions.alone, "_MOST_S", 0.05)

    async def scenario():
        async with alone(tmp_path / "lock"), asyncio.timeout(START_S), alone(tmp_path / "lock"):
            pass

    asyncio.run(scenario())
