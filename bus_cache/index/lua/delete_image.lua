-- An image was deleted: it leaves every host but those whose agent sees its file, and late messages
-- about it are kept out.
--
--   <prefix>image:<hex>       SET     the hosts that hold the image (public)
--   <prefix>host:<host>       HASH    raw fingerprint -> msgpack {stamp in ms, source}
--   <prefix>images            HASH    raw fingerprint -> msgpack {id, size in bytes or false, day}
--   <prefix>agents, coming:<hex>: see names.Keys
--   <prefix>gone:image:<hex>  STRING  present: the image was deleted; expires
-- ARGV[2]  hex fingerprint
-- ARGV[3]  raw fingerprint
-- ARGV[4]  seconds to remember the deletion
-- ARGV[5]  hosts to look at in one call, so that no call takes long
-- ARGV[6]  SSCAN cursor to go on from, 0 at first
-- Returns the next cursor: call again until it is 0. Nothing can come back meanwhile, since the
-- deletion is remembered first.
local set = prefix .. 'image:' .. ARGV[2]
local page = redis.call('SSCAN', set, ARGV[6], 'COUNT', ARGV[5]) -- these fail on somebody else's key
redis.call('HLEN', prefix .. 'images') -- before anything is written
redis.call('SET', prefix .. 'gone:image:' .. ARGV[2], '1', 'EX', ARGV[4])
lenient('DEL', prefix .. 'coming:' .. ARGV[2])
for _, host in ipairs(page[2]) do
  local speaks = agent(host)
  lenient('HDEL', prefix .. 'host:' .. host, ARGV[3])
  if not (speaks and speaks.managed) then redis.call('SREM', set, host) end
end
if page[1] == '0' and redis.call('EXISTS', set) == 0 then
  redis.call('HDEL', prefix .. 'images', ARGV[3])
end
return page[1]
