-- Hosts hold images: a batch of evidence, in any order, any number of times.
--
--   <prefix>image:<hex>       SET     the hosts that hold the image (public)
--   <prefix>host:<host>       HASH    raw fingerprint -> msgpack {stamp in ms, source}
--   <prefix>hosts             ZSET    host -> stamp in ms of its newest evidence
--   <prefix>images            HASH    raw fingerprint -> msgpack {id, size in bytes or false, day}
--   <prefix>gone:image:<hex>  STRING  present: the image was deleted
--   <prefix>gone:host:<host>  STRING  stamp in ms: what is older about this host no longer holds
-- ARGV[2]  msgpack list of {host, id, hex fingerprint, raw fingerprint, stamp in ms, source}
--
-- The newest stamp stays, and of two with one stamp the larger source: so the order of arrival does
-- not matter. All is read before anything is written: a key that is somebody else's leaves no half.
for _, held in ipairs(cmsgpack.unpack(ARGV[2])) do
  local host, id, fingerprint, raw, stamp, source = unpack(held)
  local host_gone = tonumber(redis.call('GET', prefix .. 'gone:host:' .. host) or nil)
  local image_gone = redis.call('EXISTS', prefix .. 'gone:image:' .. fingerprint) == 1
  local heard = tonumber(redis.call('ZSCORE', prefix .. 'hosts', host) or nil)
  local known = evidence(redis.call('HGET', prefix .. 'host:' .. host, raw))
  local image = description(redis.call('HGET', prefix .. 'images', raw))
  local holds = not host_gone or stamp >= host_gone
  if holds and not image_gone then
    redis.call('SADD', prefix .. 'image:' .. fingerprint, host)
    if not known or known[1] < stamp or (known[1] == stamp and known[2] < source) then
      redis.call('HSET', prefix .. 'host:' .. host, raw, cmsgpack.pack({stamp, source}))
    end
  end
  if holds and (not heard or heard < stamp) then
    redis.call('ZADD', prefix .. 'hosts', stamp, host)
  end
  local day = math.floor(stamp / 86400000)
  if not image_gone and (not image or image[3] < day) then
    local size = image and image[2] or false
    redis.call('HSET', prefix .. 'images', raw, cmsgpack.pack({id, size, day}))
  end
end
return redis.status_reply('OK')
