"""pynvim's msgpack-rpc session, over TCP: calls, notifies, and answers a call that the server makes in mid-call."""
import sys

from pynvim.msgpack_rpc import tcp_session

session = tcp_session(sys.argv[1], int(sys.argv[2]))
session.error_wrapper = lambda error: RuntimeError(*error[:2])
asked = []


def fails(method, *arguments):
    try:
        return 'no error, but ' + repr(session.request(method, *arguments))
    except RuntimeError as error:
        return error.args[1]


# Outside of its loop: one blocking call after the other.
assert session.request('hello', 'pynvim') == 'hello pynvim'
assert session.request('math.add', 20, 22) == 42
# Several results come as an array, and nil keeps its place among them.
values = [None, True, -1, 2**40, 0.5, 'ä', b'\xff\x00', [1, [2]], {'k': {'v': []}}, None]
assert session.request('echo', *values) == values
assert session.request('echo', values[-2]) == values[-2]
assert session.request('echo') is None
assert session.request('hello', 'x' * 1_000_000) == 'hello ' + 'x' * 1_000_000
assert 'this went wrong on the server' in fails('fail') and 'server.lua:' in fails('fail')
assert "there is no method 'nowhere.to.be.found'" in fails('nowhere.to.be.found')
for absent in 'text', 'os.exit', 'hello.upper', 'math', '':
    assert 'there is no method' in fails(absent), absent
for private in '_secret', 'hidden._secret', '__index':
    assert 'is private' in fails(private), private
session.request('note', 'noted by pynvim', async_=True)
session.request('no_such_thing', async_=True)
assert 'noted by pynvim' in session.request('noted')


# In its loop: calls suspend a greenlet, and the server's calls are answered meanwhile.
def on_request(method, arguments):
    asked.append(method)
    assert method == 'client_add', method
    # The call in the call in the call.
    assert session.request('hello', 'again') == 'hello again'
    return arguments[0] + arguments[1]


def on_setup():
    assert session.request('ask_back', 20, 22) == 'the client says 42'
    assert session.request('ask_back', -1, 1) == 'the client says 0'
    session.stop()


session.run(on_request, lambda method, arguments: None, on_setup)
assert asked == ['client_add', 'client_add'], asked
session.close()
print('pynvim: all went well')
