import asyncio

async def process_data(data):
    print(f"Processing {data}...")
    await asyncio.sleep(2)  # Simulate I/O delay
    result = data * 2
    print(f"Finished processing {data}: Result is {result}")
    return result

async def main():
    data_items = [1, 2, 3, 4, 5]
    tasks = [process_data(item) for item in data_items]
    results = await asyncio.gather(*tasks)
    print(f"All results: {results}")

asyncio.run(main())
