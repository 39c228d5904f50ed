"""GETs a URL many times by aiohttp, and fails unless every answer is right.

    aiohttp_get.py VARIANT URL N CONNECTIONS

VARIANT is one of

    semaphore   one task for each URL, all gathered at once, a semaphore that lets
                CONNECTIONS of them through
    batches     the same in batches of 10 000 URLs, each finished before the next begins
    processes   two processes, each with half of the URLs and connections, as batches
"""
import asyncio
import multiprocessing
import sys

import aiohttp

PONG = b'{"message":"pong"}'
BATCH = 10_000
PROCESSES = 2


async def get(session, semaphore, url):
    async with semaphore:
        async with session.get(url) as answer:
            body = await answer.read()
            if answer.status != 200 or body != PONG:
                raise ValueError(f"an answer with status {answer.status} and body {body}")


async def fetch(url, n, connections, batch):
    semaphore = asyncio.Semaphore(connections)
    async with aiohttp.ClientSession() as session:
        for start in range(0, n, batch):
            size = min(batch, n - start)
            await asyncio.gather(*(get(session, semaphore, url) for _ in range(size)))


def run(url, n, connections, batch):
    asyncio.run(fetch(url, n, connections, batch))


def main(variant, url, n, connections):
    if variant == "semaphore":
        run(url, n, connections, n)
    elif variant == "batches":
        run(url, n, connections, BATCH)
    elif variant == "processes":
        shares = [(url, n // PROCESSES + (i < n % PROCESSES), connections // PROCESSES, BATCH)
                  for i in range(PROCESSES)]
        with multiprocessing.Pool(PROCESSES) as pool:
            pool.starmap(run, shares, chunksize=1)
            pool.close()
            pool.join()
    else:
        sys.exit(__doc__)
    print(n, "answers")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
