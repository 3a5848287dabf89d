-- The features of transports that behaviours may need. A transport that lacks one says so in `transports.lua`.
return {
  listener = 'many connections reach one server, which may stop and come back',
  hello = 'yue peers greet each other: every number of results arrives, and the remaining time of calls',
  connection = 'a connection is accepted or refused, and its end is noticed',
  order = 'messages arrive in order, and none is lost',
  large = 'messages of megabytes',
  references = 'functions as arguments and results',
  keepalive = 'a peer may be lost without a sign, so it is pinged',
  half_close = 'one direction of a link can end before the other',
  when_full = 'what happens to notifications that a peer does not read is a choice',
}
