-- Images have sizes: a batch, in any order, any number of times.
--
--   <prefix>images            HASH    raw fingerprint -> msgpack {id, size in bytes or false, day}
--   <prefix>gone:image:<hex>  STRING  present: the image was deleted
-- ARGV[2]  msgpack list of {id, hex fingerprint, raw fingerprint, size in bytes, stamp in ms}
--
-- An active image's size never changes, so of two the larger stays.
for _, described in ipairs(cmsgpack.unpack(ARGV[2])) do
  local id, fingerprint, raw, size, stamp = unpack(described)
  if redis.call('EXISTS', prefix .. 'gone:image:' .. fingerprint) == 0
    and has_room('images', 'HLEN', prefix .. 'images', 'HGET', raw)
  then
    local day = math.floor(stamp / 86400000)
    local image = description(redis.call('HGET', prefix .. 'images', raw)) or {id, false, day}
    size = math.max(size, image[2] or 0)
    day = math.max(day, image[3])
    redis.call('HSET', prefix .. 'images', raw, cmsgpack.pack({id, size, day}))
  end
end
return redis.status_reply('OK')
