"""aio-msgpack-rpc: calls, many at once, and notifies."""
import asyncio
import sys

from aio_msgpack_rpc import Client
from aio_msgpack_rpc.error import RPCResponseError


async def fails(client, method, *arguments):
    try:
        return 'no error, but ' + repr(await client.call(method, *arguments, timeout=60))
    except RPCResponseError as error:
        return repr(error.args)


async def main():
    client = Client(*await asyncio.open_connection(sys.argv[1], int(sys.argv[2])))
    # Its first message id is 0.
    assert await client.call('hello', 'aio', timeout=60) == 'hello aio'
    assert await client.call('math.add', 20, 22, timeout=60) == 42
    calls = [client.call('math.add', i, i, timeout=60) for i in range(1000)]
    assert await asyncio.gather(*calls) == [2 * i for i in range(1000)]
    assert 'this went wrong on the server' in await fails(client, 'fail')
    assert 'is private' in await fails(client, '_secret')
    await client.notify('note', 'noted by aio')
    await client.notify('no_such_thing')
    assert 'noted by aio' in await client.call('noted', timeout=60)
    client.close()


asyncio.run(main())
print('aio-msgpack-rpc: all went well')
