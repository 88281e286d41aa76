-- Images that Nova has removed from a host's cache, by its own rule, leave the host.
--
--   <prefix>image:<hex>  SET   the hosts that hold the image (public)
--   <prefix>host:<host>  HASH  raw fingerprint -> msgpack {stamp in ms, source, ...}, see names.Keys
--   <prefix>uses:<host>  HASH  raw server id -> msgpack {stamp in ms, raw fingerprints or '', ...}
--   <prefix>agents       HASH  see names.Keys
--   <prefix>ageing       ZSET  host -> oldest stamp of a change since the last ageing sweep
-- ARGV[2]  host
-- ARGV[3]  msgpack list of {raw fingerprint, stamp in ms: evidence that is newer keeps it}
-- ARGV[4]  msgpack list of {raw server id, row: to forget where it still is the same}
-- ARGV[5]  what `ageing` was set to when the sweep began
-- ARGV[6]  ms: what is to be looked at next, empty: nothing
-- Returns the raw fingerprints that left. All is looked at again here, since things change meanwhile.
local host = ARGV[2]
local held, used = prefix .. 'host:' .. host, prefix .. 'uses:' .. host
local r = agent(host)
local left, live = {}, {}
for _, row in ipairs(cmsgpack.unpack(ARGV[4])) do
  if redis.call('HGET', used, row[1]) == row[2] then redis.call('HDEL', used, row[1]) end
end
for _, value in ipairs(redis.call('HVALS', used)) do
  local row = unpacked(value)
  if type(row[1]) == 'number' and type(row[2]) == 'string' then
    for i = 1, #row[2], 20 do live[string.sub(row[2], i, i + 19)] = true end
  end
end
if not (r and r.managed) then
  for _, due in ipairs(cmsgpack.unpack(ARGV[3])) do
    local raw, stamp = due[1], due[2]
    local row = evidence(redis.call('HGET', held, raw))
    if not live[raw] and (not row or math.max(row[1], row[3] or 0) <= stamp) then
      lenient('SREM', prefix .. 'image:' .. hex(raw), host)
      redis.call('HDEL', held, raw)
      table.insert(left, raw)
    end
  end
end
local before, now = ARGV[5] + 0.5, tonumber(redis.call('ZSCORE', prefix .. 'ageing', host) or nil)
local next_look = tonumber(ARGV[6])
if now and now ~= before then -- something changed meanwhile
  now = math.floor(now)
  next_look = math.min(now, next_look or now)
end
if next_look then
  redis.call('ZADD', prefix .. 'ageing', next_look, host)
else
  redis.call('ZREM', prefix .. 'ageing', host)
end
return left
