-- The recipe `postgres` with a real server.
local check = require 'check'
local servers = require 'servers'
local postgres = dofile 'examples/recipes/postgres.lua'

local addr, port, certificate, server = servers.postgres()
local options = { addr = addr, user = 'frodo', password = 'the ring', database = 'postgres' }
-- It accepts connections before it is ready.
local db = check.eventually(function()
  local ok, made = pcall(postgres.connect, options)
  if not ok and made.code ~= '57P03' then error(made, 0) end
  return ok and made
end)

-- Values.
check.equal(db:query("select 1 as a, 'x' as b, true as c, false as d, null as e, 1.5::float8 as f"),
  { { a = 1, b = 'x', c = true, d = false, f = 1.5 }, count = 1 })
check.equal(db:query('select 9007199254740993 as n, 2::numeric as m')[1], { n = '9007199254740993', m = '2' })
check.equal(db:query('select $1::text as t, $2::int as n, $3::bool as b, $4::text as z', "a'b\n$1", -5, true, nil)[1],
  { t = "a'b\n$1", n = -5, b = true })
check.equal(db:query('select $1::float8 as x', 0.1)[1].x, 0.1)
check.equal(db:query('select 1 where false'), { count = 0 })
local long = ('ä'):rep(300000)
check.that(db:query('select $1::text as t', long)[1].t == long)
check.equal(#db:query 'select * from generate_series(1, 10000)', 10000)

-- Statements.
db:script [[
  create table players (id serial primary key, name text unique not null, gold int not null check (gold >= 0));
  insert into players (name, gold) values ('frodo', 10), ('sam', 20)
]]
check.equal(db:query('update players set gold = gold + 1').count, 2)
check.equal(db:query('select name, gold from players order by id'),
  { { name = 'frodo', gold = 11 }, { name = 'sam', gold = 21 }, count = 2 })

-- Errors.
local e = check.raises('RuntimeError', 'duplicate key', db.query, db, 'insert into players (name, gold) values ($1, 0)',
  'sam')
check.equal(e.code, '23505')
check.equal(e.value.constraint, 'players_name_key')
check.contains(e.value.detail, '(sam)')
check.equal(check.raises('RuntimeError', 'syntax error', db.query, db, 'selec 1').code, '42601')
check.equal(check.raises('RuntimeError', nil, db.script, db, 'select 1; select 1/0').code, '22012')
check.equal(check.raises('RuntimeError', nil, db.query, db, 'select 1; select 2').code, '42601')
check.equal(db:query('select 1 as n')[1].n, 1, 'the connection continues')

-- Transactions.
check.equal(db:transaction(function(c)
  c:query("update players set gold = gold - 5 where name = 'frodo'")
  c:query("update players set gold = gold + 5 where name = 'sam'")
  return 'paid'
end), 'paid')
e = check.raises('RuntimeError', 'players_gold_check', db.transaction, db, function(c)
  c:query("update players set gold = gold + 100 where name = 'sam'")
  c:query("update players set gold = gold - 100 where name = 'frodo'")
end)
check.equal(e.code, '23514')
check.raises('RuntimeError', 'changed my mind', db.transaction, db, function(c)
  c:query 'delete from players'
  error 'I have changed my mind'
end)
check.equal(db:query('select gold from players order by id'), { { gold = 6 }, { gold = 26 }, count = 2 })

-- Many fibers, one connection; then a pool.
local fibers = {}
for i = 1, 100 do
  fibers[i] = yue.spawn(function() return db:query('select $1::int * 2 as n', i)[1].n end)
end
for i, n in ipairs(yue.all(fibers)) do check.equal(n, 2 * i) end
local pool = postgres.pool(5, options)
local most, begin = 0, yue.now()
for i = 1, 20 do
  fibers[i] = yue.spawn(function()
    pool:query 'select pg_sleep(0.05)'
    most = math.max(most, #pool.idle)
    return i
  end)
end
for i = 1, 20 do fibers[i]:get() end
check.that(most <= 5)
check.that(yue.now() - begin < 0.05 * 20, 'at the same time')

-- A time limit ends its connection, and the pool makes another.
check.raises('TimeoutError', nil, yue.timeout, 0.05, pool.query, pool, 'select pg_sleep(60)')
check.equal(pool:query('select 1 as n')[1].n, 1)
check.raises('TimeoutError', nil, yue.timeout, 0.05, db.query, db, 'select pg_sleep(60)')
check.equal(check.raises('RuntimeError', 'closed', db.query, db, 'select 1').code, 'EBADF')
check.equal(pool:transaction(function(c) return c:query('select 2 as n')[1].n end), 2)

-- Logins that fail.
e = check.raises('RuntimeError', 'password authentication failed', postgres.connect,
  { addr = addr, user = 'frodo', password = 'x', database = 'postgres' })
check.equal(e.code, '28P01')
check.raises('TLSError', 'does not offer TLS', postgres.connect,
  { addr = addr, user = 'frodo', password = 'the ring', database = 'postgres', tls = {} })
local secure = { addr = port, user = 'frodo', password = 'the ring', database = 'postgres', tls = { ca = certificate } }
local encrypted = postgres.connect(secure)
check.equal(encrypted:query('select ssl from pg_stat_ssl where pid = pg_backend_pid()')[1].ssl, true)
encrypted:close()
secure.tls = {}
check.raises('TLSError', 'cannot make a TLS connection', postgres.connect, secure)
check.raises('RuntimeError', 'does not exist', postgres.connect,
  { addr = addr, user = 'frodo', password = 'the ring', database = 'nothing' })

begin = yue.now()
for i = 1, 20 do fibers[i] = yue.spawn(function() for _ = 1, 100 do pool:query('select $1::int', i) end end) end
for i = 1, 20 do fibers[i]:get() end
print(('5 connections: %d queries a second'):format(2000 / (yue.now() - begin)))
pool:close()
server:stop()
check.done()
