"""websockets, with msgpack: calls, notifies, answers a call made in mid-call, and the reason of a close."""
import asyncio
import sys

import msgpack
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError, InvalidStatus


class Client:
    """msgpack-rpc in forty lines."""

    def __init__(self, socket):
        self.socket, self.waiting = socket, []
        self.unpacker = msgpack.Unpacker()
        self.reader = asyncio.ensure_future(self.read())

    async def send(self, *message):
        await self.socket.send(msgpack.packb(message))

    async def call(self, method, *arguments):
        answer = asyncio.get_running_loop().create_future()
        self.waiting.append(answer)
        await self.send(0, len(self.waiting) - 1, method, arguments)
        return await asyncio.wait_for(answer, 60)

    async def read(self):
        async for frame in self.socket:
            self.unpacker.feed(frame)
            for kind, *message in self.unpacker:
                if kind == 1:
                    number, error, result = message
                    if error is None:
                        self.waiting[number].set_result(result)
                    else:
                        self.waiting[number].set_exception(RuntimeError(error[1]))
                elif kind == 0:
                    number, method, (a, b) = message
                    assert method == 'client_add'
                    await self.send(1, number, None, a + b)


async def fails(call):
    try:
        return 'no error, but ' + repr(await call)
    except RuntimeError as error:
        return str(error)


async def main():
    address = sys.argv[1]
    async with connect(address, subprotocols=['msgpack-rpc'], ping_interval=0.2) as socket:
        assert socket.subprotocol == 'msgpack-rpc'
        client = Client(socket)
        assert await client.call('hello', 'websockets') == 'hello websockets'
        assert await client.call('math.add', 20, 22) == 42
        assert await client.call('ask_back', 20, 22) == 'the client says 42'
        calls = [client.call('math.add', i, i) for i in range(1000)]
        assert await asyncio.gather(*calls) == [2 * i for i in range(1000)]
        assert len(await client.call('bytes', 300_000)) == 300_000
        assert 'this went wrong on the server' in await fails(client.call('fail'))
        assert 'is private' in await fails(client.call('_secret'))
        await client.send(2, 'note', ['noted by websockets'])
        assert 'noted by websockets' in await client.call('noted')
        # Fragments, with a ping between them, and the pongs of the interval.
        message = msgpack.packb((0, len(client.waiting), 'hello', ['fragments']))
        answer = asyncio.get_running_loop().create_future()
        client.waiting.append(answer)
        await socket.send([message[:3], message[3:5], message[5:]])
        assert await asyncio.wait_for(answer, 60) == 'hello fragments'
        await asyncio.wait_for(await socket.ping(b'are you there?'), 60)
        await asyncio.sleep(0.5)
    assert socket.close_code == 1000

    async with connect(address) as socket:
        await socket.send('text')
        try:
            await socket.recv()
            raise AssertionError('text was accepted')
        except ConnectionClosedError as error:
            assert error.rcvd.code == 1003 and 'binary' in error.rcvd.reason, error

    for path, origin, status in [('/other', None, 404), ('/rpc', 'http://evil.example', 403)]:
        try:
            async with connect(address.replace('/rpc', path), origin=origin):
                raise AssertionError('it was let in')
        except InvalidStatus as error:
            assert error.response.status_code == status, error


asyncio.run(main())
print('websockets: all went well')
