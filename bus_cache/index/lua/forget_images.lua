-- Images that no host holds and of which nothing was heard for long are forgotten: a bound on memory.
--
-- Keys. KEYS[1] is <prefix>schema and carries the hash tag that all other keys share.
--   <prefix>schema       STRING  version of the keys; set where absent, another is refused
--   <prefix>image:<hex>  SET     the hosts that hold the image (public)
--   <prefix>images       HASH    raw fingerprint -> msgpack {id, size in bytes or false, day}
-- ARGV[1]  the schema's version
-- ARGV[2]  HSCAN cursor to go on from, 0 at first
-- ARGV[3]  day since 1970: what was heard of later stays
-- Returns the next cursor, 0 at the end: a call looks at some hundred images only.
local prefix = string.sub(KEYS[1], 1, -7)
local schema = redis.call('GET', KEYS[1])
if not schema then
  redis.call('SET', KEYS[1], ARGV[1])
elseif schema ~= ARGV[1] then
  return redis.error_reply('SCHEMA ' .. schema)
end

-- What can't be read counts as absent.
local function row(value)
  local readable, found = pcall(cmsgpack.unpack, value or '')
  return readable and type(found) == 'table' and found or nil
end

local answer = redis.call('HSCAN', prefix .. 'images', ARGV[2], 'COUNT', 200)
local images = answer[2]
for i = 1, #images, 2 do
  local raw = images[i]
  local image = row(images[i + 1])
  if not image or image[3] < tonumber(ARGV[3]) then
    local hex = string.gsub(raw, '.', function(c) return string.format('%02x', string.byte(c)) end)
    if redis.call('EXISTS', prefix .. 'image:' .. hex) == 0 then
      redis.call('HDEL', prefix .. 'images', raw)
    end
  end
end
return answer[1]
