"""asyncpg on PostgreSQL and redis-py on Redis, each with a server of its own."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from reallib import Program, flat

asyncpg: Any = pytest.importorskip("asyncpg", reason="make integration installs it")
redis: Any = pytest.importorskip("redis.asyncio", reason="make integration installs it")


# ---- PostgreSQL -------------------------------------------------------------------------------


async def connect(port: int) -> Any:
    return await asyncpg.connect(
        host="127.0.0.1", port=port, user="tester", database="postgres", ssl=False
    )


def test_postgres_types_transactions_and_copy(program: Program, postgres_port: int) -> None:
    async def main() -> None:
        db = await connect(postgres_port)
        try:
            await db.execute("CREATE TEMP TABLE t (id int PRIMARY KEY, name text, blob bytea)")
            rows = [(i, f"name {i}", bytes([i % 256]) * i) for i in range(500)]
            await db.copy_records_to_table("t", records=rows)
            assert [tuple(r) for r in await db.fetch("SELECT * FROM t ORDER BY id")] == rows
            with pytest.raises(asyncpg.UniqueViolationError):
                async with db.transaction():
                    await db.execute("DELETE FROM t WHERE id > 10")
                    await db.execute("INSERT INTO t VALUES (1, 'again', '')")
            assert await db.fetchval("SELECT count(*) FROM t") == len(rows)
            async with db.transaction():
                seen = [r["id"] async for r in db.cursor("SELECT id FROM t ORDER BY id")]
            assert seen == list(range(500))
        finally:
            await db.close()

    program(main())


def test_postgres_pool_under_load(program: Program, postgres_port: int) -> None:
    async def main() -> None:
        pool = await asyncpg.create_pool(
            host="127.0.0.1", port=postgres_port, user="tester", database="postgres",
            min_size=2, max_size=5, ssl=False,
        )  # fmt: skip

        async def square(n: int) -> int:
            async with pool.acquire() as db:
                value: int = await db.fetchval("SELECT $1::int * $1::int", n)
                return value

        async with pool:
            assert await asyncio.gather(*map(square, range(200))) == [n * n for n in range(200)]

    program(main())


def test_postgres_notifications(program: Program, postgres_port: int) -> None:
    async def main() -> None:
        listener, sender = await connect(postgres_port), await connect(postgres_port)
        got: asyncio.Queue[str] = asyncio.Queue()
        await listener.add_listener("news", lambda *args: got.put_nowait(args[-1]))
        for i in range(20):
            await sender.execute("SELECT pg_notify('news', $1)", str(i))
        assert [await got.get() for _ in range(20)] == [str(i) for i in range(20)]
        await listener.close()
        await sender.close()

    program(main())


def test_postgres_timeout_cancels_the_query(program: Program, postgres_port: int) -> None:
    async def main() -> None:
        db = await connect(postgres_port)
        with pytest.raises(TimeoutError):
            await db.fetchval("SELECT pg_sleep(600)", timeout=0.1)
        assert await db.fetchval("SELECT 1") == 1  # the connection is of use after that
        task = asyncio.ensure_future(db.fetchval("SELECT pg_sleep(600)"))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await db.fetchval("SELECT 2") == 2
        await db.close()

    program(main())


def test_postgres_flat_over_queries(program: Program, postgres_port: int) -> None:
    async def main() -> None:
        db = await connect(postgres_port)
        await flat(lambda: db.fetch("SELECT generate_series(1, 50) AS n"))
        await db.close()

    program(main())


def test_postgres_flat_over_connections(program: Program, postgres_port: int) -> None:
    async def step() -> None:
        db = await connect(postgres_port)
        await db.fetchval("SELECT 1")
        await db.close()

    program(flat(step))


# ---- Redis --------------------------------------------------------------------------------------


def test_redis_pipelines_and_many_clients(program: Program, redis_port: int) -> None:
    async def main() -> None:
        async with redis.Redis(port=redis_port, max_connections=20) as db:
            await db.flushall()

            async def count(name: str) -> None:
                for _ in range(50):
                    await db.incr(name)

            await asyncio.gather(*(count(f"key{i % 5}") for i in range(20)))
            assert [int(await db.get(f"key{i}")) for i in range(5)] == [200] * 5
            async with db.pipeline(transaction=True) as pipe:
                for i in range(100):
                    pipe.set(f"p{i}", b"x" * i)
                assert await pipe.execute() == [True] * 100
            big = bytes(range(256)) * 8192  # 2 MiB
            await db.set("big", big)
            assert await db.get("big") == big

    program(main())


def test_redis_subscriptions(program: Program, redis_port: int) -> None:
    async def main() -> None:
        async with redis.Redis(port=redis_port) as db, db.pubsub() as channel:
            await channel.subscribe("news")
            got: list[bytes] = []

            async def read() -> None:
                async for message in channel.listen():
                    if message["type"] == "message":
                        got.append(message["data"])
                        if len(got) == 50:
                            return

            reader = asyncio.ensure_future(read())
            while await db.pubsub_numsub("news") != [(b"news", 1)]:
                await asyncio.sleep(0)
            for i in range(50):
                await db.publish("news", str(i))
            await reader
            assert got == [str(i).encode() for i in range(50)]

    program(main())


def test_redis_cancelled_while_blocked(program: Program, redis_port: int) -> None:
    async def main() -> None:
        async with redis.Redis(port=redis_port) as db:
            await db.delete("nothing")
            for _ in range(20):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.01):
                        await db.blpop("nothing", timeout=0)
            assert await db.ping()

    program(main())


def test_redis_flat_over_commands(program: Program, redis_port: int) -> None:
    async def main() -> None:
        async with redis.Redis(port=redis_port) as db:
            await db.set("key", b"v" * 1000)
            await flat(lambda: db.get("key"))

    program(main())


def test_redis_flat_over_connections(program: Program, redis_port: int) -> None:
    async def step() -> None:
        async with redis.Redis(port=redis_port) as db:
            await db.ping()

    program(flat(step))
