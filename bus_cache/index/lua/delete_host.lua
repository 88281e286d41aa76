-- A host's compute service was deleted: all that was said of it before leaves the index.
--
-- Keys. KEYS[1] is <prefix>schema and carries the hash tag that all other keys share.
--   <prefix>schema            STRING  version of the keys; set where absent, another is refused
--   <prefix>image:<hex>       SET     the hosts that hold the image (public)
--   <prefix>host:<host>       HASH    raw fingerprint -> msgpack {stamp in ms, source}
--   <prefix>hosts             ZSET    host -> stamp in ms of its newest evidence
--   <prefix>gone:host:<host>  STRING  stamp in ms: what is older about this host no longer holds; expires
-- ARGV[1]  the schema's version
-- ARGV[2]  host
-- ARGV[3]  stamp of the deletion in ms
-- ARGV[4]  seconds to remember it
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

local host, stamp = ARGV[2], tonumber(ARGV[3])
local known = redis.call('GET', prefix .. 'gone:host:' .. host)
if not known or tonumber(known) < stamp then
  redis.call('SET', prefix .. 'gone:host:' .. host, ARGV[3], 'EX', ARGV[4])
end
local evidence = redis.call('HGETALL', prefix .. 'host:' .. host)
for i = 1, #evidence, 2 do
  local raw = evidence[i]
  local known = row(evidence[i + 1])
  if not known or known[1] < stamp then
    local hex = string.gsub(raw, '.', function(c) return string.format('%02x', string.byte(c)) end)
    redis.call('SREM', prefix .. 'image:' .. hex, host)
    redis.call('HDEL', prefix .. 'host:' .. host, raw)
  end
end
local newest = redis.call('ZSCORE', prefix .. 'hosts', host)
if newest and tonumber(newest) < stamp then
  redis.call('ZREM', prefix .. 'hosts', host)
end
return redis.status_reply('OK')
