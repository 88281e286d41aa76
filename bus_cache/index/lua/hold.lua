-- Hosts hold images: a batch of evidence, in any order, any number of times.
--
-- Keys. KEYS[1] is <prefix>schema and carries the hash tag that all other keys share, so that
-- deriving them from it is safe on a Cluster.
--   <prefix>schema            STRING  version of the keys; set where absent, another is refused
--   <prefix>image:<hex>       SET     the hosts that hold the image (public)
--   <prefix>host:<host>       HASH    raw fingerprint -> msgpack {stamp in ms, source}
--   <prefix>hosts             ZSET    host -> stamp in ms of its newest evidence
--   <prefix>images            HASH    raw fingerprint -> msgpack {id, size in bytes or false, day}
--   <prefix>gone:image:<hex>  STRING  present: the image was deleted
--   <prefix>gone:host:<host>  STRING  stamp in ms: what is older about this host no longer holds
-- ARGV[1]  the schema's version
-- ARGV[2]  msgpack list of {host, id, hex fingerprint, raw fingerprint, stamp in ms, source}
--
-- The newest stamp stays, and of two with one stamp the larger source: so the order of arrival does
-- not matter.
local prefix = string.sub(KEYS[1], 1, -7)
local schema = redis.call('GET', KEYS[1])
if not schema then
  redis.call('SET', KEYS[1], ARGV[1])
elseif schema ~= ARGV[1] then
  return redis.error_reply('SCHEMA ' .. schema)
end

-- What can't be read counts as absent, and is written anew.
local function row(value)
  local readable, found = pcall(cmsgpack.unpack, value or '')
  return readable and type(found) == 'table' and found or nil
end

local DAY = 86400000
for _, held in ipairs(cmsgpack.unpack(ARGV[2])) do
  local host, id, hex, raw, stamp, source = unpack(held)
  local host_gone = redis.call('GET', prefix .. 'gone:host:' .. host)
  local heard = not host_gone or stamp >= tonumber(host_gone)
  if heard then
    redis.call('ZADD', prefix .. 'hosts', 'GT', stamp, host)
  end
  if redis.call('EXISTS', prefix .. 'gone:image:' .. hex) == 0 then
    if heard then
      redis.call('SADD', prefix .. 'image:' .. hex, host)
      local known = row(redis.call('HGET', prefix .. 'host:' .. host, raw))
      if not known or known[1] < stamp or (known[1] == stamp and known[2] < source) then
        redis.call('HSET', prefix .. 'host:' .. host, raw, cmsgpack.pack({stamp, source}))
      end
    end
    local day = math.floor(stamp / DAY)
    local image = row(redis.call('HGET', prefix .. 'images', raw))
    if not image or image[3] < day then
      local size = image and image[2] or false
      redis.call('HSET', prefix .. 'images', raw, cmsgpack.pack({id, size, day}))
    end
  end
end
return redis.status_reply('OK')
