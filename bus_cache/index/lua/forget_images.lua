-- Images that no host holds and of which nothing was heard for long are forgotten: a bound on
-- memory.
--
--   <prefix>image:<hex>  SET   the hosts that hold the image (public)
--   <prefix>images       HASH  raw fingerprint -> msgpack {id, size in bytes or false, day}
-- ARGV[2]  day since 1970: what was heard of then or later stays
-- ARGV[3]  HSCAN cursor to go on from, 0 at first
-- Returns the next cursor, 0 at the end: a call looks at some hundred images only.
local answer = redis.call('HSCAN', prefix .. 'images', ARGV[3], 'COUNT', 200)
for i = 1, #answer[2], 2 do
  local raw = answer[2][i]
  local image = description(answer[2][i + 1])
  if not image or image[3] < tonumber(ARGV[2]) then
    if redis.call('EXISTS', prefix .. 'image:' .. hex(raw)) == 0 then
      redis.call('HDEL', prefix .. 'images', raw)
    end
  end
end
return answer[1]
