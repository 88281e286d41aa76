-- A host's compute service was deleted: all that was said of it before leaves the index.
--
--   <prefix>image:<hex>       SET     the hosts that hold the image (public)
--   <prefix>host:<host>       HASH    raw fingerprint -> msgpack {stamp in ms, source}
--   <prefix>hosts             ZSET    host -> stamp in ms of its newest evidence
--   <prefix>gone:host:<host>  STRING  stamp in ms: what is older about this host no longer holds;
--                                     expires
-- ARGV[2]  host
-- ARGV[3]  stamp of the deletion in ms
-- ARGV[4]  seconds to remember it
-- ARGV[5]  HSCAN cursor to go on from, 0 at first
-- Returns the next cursor: call again until it is 0. A call looks at some hundred images, and nothing
-- can come back meanwhile, since the deletion is remembered first.
local host, stamp = ARGV[2], tonumber(ARGV[3])
local page = redis.call('HSCAN', prefix .. 'host:' .. host, ARGV[5], 'COUNT', 200)
local held = page[2]
local heard = tonumber(redis.call('ZSCORE', prefix .. 'hosts', host) or nil)
local known = tonumber(redis.call('GET', prefix .. 'gone:host:' .. host) or nil)
if not known or known < stamp then
  redis.call('SET', prefix .. 'gone:host:' .. host, ARGV[3], 'EX', ARGV[4])
end
for i = 1, #held, 2 do
  local row = evidence(held[i + 1])
  if not row or row[1] < stamp then
    redis.pcall('SREM', prefix .. 'image:' .. hex(held[i]), host)
    redis.call('HDEL', prefix .. 'host:' .. host, held[i])
  end
end
if heard and heard < stamp then
  redis.call('ZREM', prefix .. 'hosts', host)
end
return page[1]
