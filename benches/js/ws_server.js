// Row 15: a server on npm's `ws` that answers each message with one of 9 bytes. What one turn answers leaves together.
// Node finds `ws` beside this file, or in NODE_PATH.
const { WebSocketServer } = require('ws')

const answer = Buffer.alloc(9, 'r')
const server = new WebSocketServer({ host: '127.0.0.1', port: 0, perMessageDeflate: false })
server.on('connection', (socket, request) => {
  request.socket.setNoDelay(true)
  let corked = false
  socket.on('message', () => {
    if (!corked) {
      corked = true
      request.socket.cork()
      process.nextTick(() => {
        corked = false
        request.socket.uncork()
      })
    }
    socket.send(answer)
  })
})
server.on('listening', () => console.log('ready ' + server.address().port))
