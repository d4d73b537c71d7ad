"""A TCP proxy before a database that passes everything on late, each direction by itself, in order.

Usage: delay.py DATABASE_URL DELAY_MS FILE: writes the address of the proxy, as a database URL, into FILE.
"""

import asyncio
import os
import sys
from urllib.parse import urlsplit, urlunsplit

URL, DELAY_S, FILE = urlsplit(sys.argv[1]), float(sys.argv[2]) / 1e3, sys.argv[3]


async def pass_on(reader, writer):
    late = asyncio.Queue()

    async def read():
        while chunk := await reader.read(1 << 16):
            late.put_nowait((asyncio.get_running_loop().time() + DELAY_S, chunk))
        late.put_nowait((0, b""))

    reading = asyncio.create_task(read())
    try:
        while True:
            due, chunk = await late.get()
            if not chunk:
                break
            await asyncio.sleep(max(0, due - asyncio.get_running_loop().time()))
            writer.write(chunk)
            await writer.drain()
    except OSError:
        # One side is gone; closing the other tells it so.
        pass
    finally:
        reading.cancel()
        writer.close()


async def connected(reader, writer):
    there_reader, there_writer = await asyncio.open_connection(URL.hostname, URL.port or 5432)
    await asyncio.gather(pass_on(reader, there_writer), pass_on(there_reader, writer), return_exceptions=True)


async def main():
    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    user = f"{URL.netloc.rpartition('@')[0]}@" if "@" in URL.netloc else ""
    with open(f"{FILE}.tmp", "w", encoding="utf-8") as file:
        file.write(urlunsplit(URL._replace(netloc=f"{user}127.0.0.1:{port}")))
    os.rename(f"{FILE}.tmp", FILE)
    await server.serve_forever()


asyncio.run(main())
