-- Images have sizes: a batch, in any order, any number of times.
--
-- Keys. KEYS[1] is <prefix>schema and carries the hash tag that all other keys share.
--   <prefix>schema            STRING  version of the keys; set where absent, another is refused
--   <prefix>images            HASH    raw fingerprint -> msgpack {id, size in bytes or false, day}
--   <prefix>gone:image:<hex>  STRING  present: the image was deleted
-- ARGV[1]  the schema's version
-- ARGV[2]  msgpack list of {id, hex fingerprint, raw fingerprint, size in bytes, stamp in ms}
--
-- An active image's size never changes, so of two the larger stays.
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
for _, described in ipairs(cmsgpack.unpack(ARGV[2])) do
  local id, hex, raw, size, stamp = unpack(described)
  if redis.call('EXISTS', prefix .. 'gone:image:' .. hex) == 0 then
    local day = math.floor(stamp / DAY)
    local image = row(redis.call('HGET', prefix .. 'images', raw)) or {id, false, day}
    size = math.max(size, image[2] or 0)
    day = math.max(day, image[3])
    redis.call('HSET', prefix .. 'images', raw, cmsgpack.pack({id, size, day}))
  end
end
return redis.status_reply('OK')
