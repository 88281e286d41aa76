-- What is to be done about agents now, each by one consumer only.
--
--   <prefix>gaps       ZSET  host -> ms since a part of what its agent said is missing
--   <prefix>heard      ZSET  host -> ms when its agent was last heard, by the consumers' clocks
--   <prefix>silent     ZSET  host -> the same, of agents that are silent or said goodbye
--   <prefix>listening  HASH  bus -> ms when agents were last told that somebody reads
--   <prefix>agents     HASH  see names.Keys
--   <prefix>gone:host:<host>  STRING  its compute service was deleted
-- ARGV[2]  msgpack {bus, now, gaps before, next time to ask in ms, agents of this bus silent before, of any bus
--          before, told to be read before, agents gone before}; all in ms, 0: not now
-- ARGV[3]  hosts to return of each kind, at the most
-- Returns msgpack {told: 'new' where the index knows nothing of this bus, 'again' or '', {host, epoch, ...} to
-- ask, {host, ...} that are silent, {host, ...} of which nothing was heard for very long}.
local bus, now, gaps, again, silent, silent_any, told, lost = unpack(cmsgpack.unpack(ARGV[2]))
local most, look = tonumber(ARGV[3]), 10 * tonumber(ARGV[3])
local function older(name, than)
  if than <= 0 then return {} end
  return redis.call('ZRANGEBYSCORE', prefix .. name, '-inf', string.format('%d', than), 'LIMIT', 0, look)
end
local listening = ''
local last = tonumber(redis.call('HGET', prefix .. 'listening', bus) or nil)
if not last or last > now + 60000 or last <= told then
  redis.call('HSET', prefix .. 'listening', bus, string.format('%d', now))
  listening = last and 'again' or 'new'
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
for _, host in ipairs(older('heard', silent)) do
  local r = agent(host)
  local at = tonumber(redis.call('ZSCORE', prefix .. 'heard', host))
  if not r then
    redis.call('ZREM', prefix .. 'heard', host)
  elseif #dead < most and (r.bus == bus or at <= silent_any) then
    table.insert(dead, host)
  end
end
local vanished = {}
for _, host in ipairs(older('silent', lost)) do
  if #vanished < most and redis.call('EXISTS', prefix .. 'gone:host:' .. host) == 1 then
    table.insert(vanished, host)
  end
end
return cmsgpack.pack({listening, ask, dead, vanished})
