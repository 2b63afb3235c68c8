import asyncio

async def handle_table(table_number):
    print(f"Attending to table {table_number}")
    await asyncio.sleep(2)  # Simulate waiting for the customer to decide
    print(f"Taking order from table {table_number}")
    await asyncio.sleep(1)  # Simulate order processing
    print(f"Serving food to table {table_number}")

async def main():
    tasks = [handle_table(i) for i in range(1, 6)]  # 5 tables
    await asyncio.gather(*tasks)

asyncio.run(main())
