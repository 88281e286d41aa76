-- An image was deleted: it leaves every host, and late messages about it are kept out.
--
--   <prefix>image:<hex>       SET     the hosts that hold the image (public)
--   <prefix>host:<host>       HASH    raw fingerprint -> msgpack {stamp in ms, source}
--   <prefix>images            HASH    raw fingerprint -> msgpack {id, size in bytes or false, day}
--   <prefix>gone:image:<hex>  STRING  present: the image was deleted; expires
-- ARGV[2]  hex fingerprint
-- ARGV[3]  raw fingerprint
-- ARGV[4]  seconds to remember the deletion
-- ARGV[5]  hosts to take out in one call, so that no call takes long
-- Returns the number of hosts that are still in the set: call again until it is 0. Nothing can
-- come back meanwhile, since the deletion is remembered first.
local set = prefix .. 'image:' .. ARGV[2]
redis.call('SCARD', set) -- both fail on somebody else's key before anything is written
redis.call('HLEN', prefix .. 'images')
redis.call('SET', prefix .. 'gone:image:' .. ARGV[2], '1', 'EX', ARGV[4])
redis.call('HDEL', prefix .. 'images', ARGV[3])
for _, host in ipairs(redis.call('SPOP', set, ARGV[5])) do
  redis.pcall('HDEL', prefix .. 'host:' .. host, ARGV[3])
end
return redis.call('SCARD', set)
