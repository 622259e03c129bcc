"""Does one job with the Python client, see job in clients_test.go, and prints its outcome."""

import asyncio
import hashlib
import json
import ssl
import sys

sys.path.insert(0, "../../clients/python")
import preflight  # noqa: E402

job = json.loads(sys.argv[1])
outcome = {"carrier": "", "end": "clean", "status": 0, "code": "", "bytes": 0}
sent, received = hashlib.sha256(), hashlib.sha256()


async def write(writer):
    for i in range(job["size"] // job["block"]):
        block = bytes([i % 256]) * job["block"]  # no two of 256 blocks are the same
        sent.update(block)
        writer.write(block)
        await writer.drain()
    if job["order"] != "echo":
        writer.write_eof()


async def read(reader, writer):
    while data := await reader.read(65536):
        received.update(data)
        outcome["bytes"] += len(data)
        if job["order"] == "echo" and outcome["bytes"] == job["size"]:
            # Over TLS, asyncio has no half-close, and neither has the carrier upgrade.
            if writer.can_write_eof():
                writer.write_eof()
            else:
                writer.close()


async def run():
    reader, writer = await preflight.open_connection(
        job["url"], carriers=job.get("carriers"), headers=job.get("headers"),
        ssl=ssl.create_default_context(cafile=job["ca"]) if job.get("ca") else None)
    outcome["carrier"] = writer.get_extra_info("carrier")
    try:
        if job["order"] == "read first":
            await read(reader, writer)
            await write(writer)
        else:
            await asyncio.gather(write(writer), read(reader, writer))
    finally:
        writer.close()
    await writer.wait_closed()


try:
    asyncio.run(run())
except preflight.Refused as error:
    outcome |= {"end": "refused", "status": error.status, "code": error.code or ""}
except preflight.Truncated:
    outcome["end"] = "truncated"
except ConnectionResetError:
    outcome["end"] = "reset"
print(json.dumps(outcome | {"sent": sent.hexdigest(), "received": received.hexdigest()}))
