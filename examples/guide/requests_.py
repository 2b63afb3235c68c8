import asyncio
import sys

import aiohttp
from aiohttp import web

# Served on loopback by this same program, on the same loop, unless URLs are given as arguments.
PAGES = {"/python": "p" * 1_000, "/openai": "o" * 20_000, "/github": "g" * 300_000}


async def fetch_url(session, url):
    async with session.get(url) as response:
        content = await response.text()
        print(f"Fetched {url} with {len(content)} characters.")


async def fetch_all(urls):
    async with aiohttp.ClientSession() as session:
        tasks = [fetch_url(session, url) for url in urls]
        await asyncio.gather(*tasks)


async def page(request):
    return web.Response(text=PAGES[request.path])


async def fetch_own_pages():
    app = web.Application()
    app.add_routes([web.get(path, page) for path in PAGES])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0]
    await fetch_all([f"http://{host}:{port}{path}" for path in PAGES])
    await runner.cleanup()


async def main():
    await (fetch_all(sys.argv[1:]) if sys.argv[1:] else fetch_own_pages())


asyncio.run(main())
