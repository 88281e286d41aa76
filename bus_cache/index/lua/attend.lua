-- What is to be done about agents now, each by one consumer only.
--
--   <prefix>gaps       ZSET  host -> ms since a part of what its agent said is missing
--   <prefix>silent     ZSET  host -> ms when its agent was last heard, of those that are silent or said goodbye
--   <prefix>listening  HASH  bus -> ms when agents were last told that somebody reads; 'server' -> run_id;
--                            'look:<bus>' -> HSCAN cursor of agents, where the next look for silent ones begins
--   <prefix>agents     HASH  see names.Keys: also when each was last heard, by the consumers' clocks
--   <prefix>services   HASH  host -> msgpack {stamp in ms, whether nova-compute is up}
--   <prefix>hosts      ZSET  host -> stamp in ms of its newest evidence
--   <prefix>gone:host:<host>  STRING  stamp in ms: its compute service was deleted
--   <prefix>wanted:reconcile  STRING  why the index is to be compared with Nova's API
-- ARGV[2]  msgpack {bus, now, gaps before, next time to ask in ms, agents of this bus silent before, of any bus
--          before, told to be read before, agents gone before}; all in ms, 0: not now
-- ARGV[3]  hosts to return of each kind, at the most
-- Returns msgpack {told: 'new' where the index knows nothing of this bus, 'again' or '', {host, epoch, ...} to
-- ask, {host, ...} that are silent, {host, stamp, ...} of which nothing is left: as of when}.
local bus, now, gaps, again, silent, silent_any, told, lost = unpack(cmsgpack.unpack(ARGV[2]))
local most, look = tonumber(ARGV[3]), 10 * tonumber(ARGV[3])
local AGENTS = 500 -- that one call looks at for silent ones, about a millisecond: 10,000 take 20 calls
local function older(name, than)
  if than <= 0 then return {} end
  -- a score from a clock that was ahead would be believed until then
  for _, ahead in ipairs(redis.call('ZRANGEBYSCORE', prefix .. name, now + 600000, '+inf', 'LIMIT', 0, 100)) do
    redis.call('ZADD', prefix .. name, now, ahead)
  end
  local till = string.format('%d', than)
  local count = redis.call('ZCOUNT', prefix .. name, '-inf', till)
  -- where there are more than are looked at, each has its turn, whatever others there are
  local first = count > look and now % (count - look + 1) or 0
  return redis.call('ZRANGEBYSCORE', prefix .. name, '-inf', till, 'LIMIT', first, look)
end
-- Another server than before, or the same one started anew: after a failover it lacks what the other one
-- acknowledged and did not pass on, after a crash what it had not saved. So all counts as new. Who may not
-- ask is not told.
local answer = redis.pcall('INFO', 'server')
local server = type(answer) == 'string' and string.match(answer, 'run_id:(%x+)')
local before = redis.call('HGET', prefix .. 'listening', 'server')
if server and before ~= server then
  redis.call('DEL', prefix .. 'listening')
  redis.call('HSET', prefix .. 'listening', 'server', server)
end
local listening = ''
local last = tonumber(redis.call('HGET', prefix .. 'listening', bus) or nil)
if not last or last > now + 60000 or last <= told then
  redis.call('HSET', prefix .. 'listening', bus, string.format('%d', now))
  listening = last and 'again' or 'new'
  if not last then
    redis.call('SET', prefix .. 'wanted:reconcile', before and 'Redis was started anew' or 'the keyspace was new')
  end
end
local ask = {}
for _, host in ipairs(older('gaps', gaps)) do
  local r = agent(host)
  if not r then
    redis.call('ZREM', prefix .. 'gaps', host)
  elseif r.bus == bus and #ask < 2 * most then
    if redis.call('ZSCORE', prefix .. 'silent', host) then -- once: most likely nobody is there
      redis.call('ZREM', prefix .. 'gaps', host)
    else
      redis.call('ZADD', prefix .. 'gaps', again, host)
    end
    table.insert(ask, host)
    table.insert(ask, r.epoch)
  end
end
local dead = {}
if silent > 0 then
  local place = 'look:' .. bus
  local from = redis.call('HGET', prefix .. 'listening', place)
  if not from or not string.match(from, '^%d+$') then from = '0' end
  local page = redis.call('HSCAN', prefix .. 'agents', from, 'COUNT', AGENTS)
  for i = 1, #page[2], 2 do
    local host = page[2][i]
    local r = record(page[2][i + 1])
    if r and r.heard > now + 600000 then -- by a clock that was ahead: it would be believed until then
      r.heard = now
      save(host, r)
    end
    if r and #dead < most and r.heard <= silent and (r.bus == bus or r.heard <= silent_any)
      and not redis.call('ZSCORE', prefix .. 'silent', host)
    then
      table.insert(dead, host)
    end
  end
  -- whom there was no room for is met in the next round
  if page[1] ~= from then redis.call('HSET', prefix .. 'listening', place, page[1]) end
end
local vanished = {}
for _, host in ipairs(older('silent', lost)) do
  local gone = tonumber(redis.call('GET', prefix .. 'gone:host:' .. host) or nil)
  local r, service = agent(host), unpacked(redis.call('HGET', prefix .. 'services', host))
  local newest = tonumber(redis.call('ZSCORE', prefix .. 'hosts', host) or nil)
  -- nothing but its agent was heard since, not even that its service is back
  local only_agent = gone and r and (not newest or newest <= math.max(r.stamp, gone))
    and not (service[2] == true and service[1] > gone)
  if not r then
    redis.call('ZREM', prefix .. 'silent', host)
  elseif #vanished < 2 * most and only_agent then
    table.insert(vanished, host)
    table.insert(vanished, r.stamp + 1)
  end
end
return cmsgpack.pack({listening, ask, dead, vanished})
