import asyncio

async def greet(name):
    await asyncio.sleep(1)  # Simulate an I/O-bound operation
    print(f"Hello, {name}!")

asyncio.run(greet("Hashim"))
