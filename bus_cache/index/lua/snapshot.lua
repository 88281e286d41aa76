-- A host's agent tells all that is in its cache: one atomic change.
--
--   <prefix>image:<hex>       SET     the hosts that hold the image (public)
--   <prefix>agent:<host>      HASH    raw fingerprint -> '' or msgpack {epoch, sequence, held, stamp}
--   <prefix>host:<host>       HASH    raw fingerprint -> msgpack {stamp in ms, source}
--   <prefix>agents, silent, gaps, hosts, images, coming:<hex>: see names.Keys
--   <prefix>gone:host:<host>  STRING  stamp in ms: what is older about this host no longer holds
-- ARGV[2]  msgpack {host, epoch, sequence, stamp in ms, leaving, bus, now in ms, source of what an agent
--          that leaves held, ms until which images are on their way}
-- ARGV[3]  hex fingerprints of the images, one after the other
-- ARGV[4]  the same, raw
-- ARGV[5]  hex fingerprints of images on their way
-- Returns 'managed' or 'inferred' where the host's state changed by this, else ''.
--
-- It replaces what is not newer than itself: later statements that came before it stay.
local MANY = 1000 -- Lua can hand over some thousand arguments
local host, epoch, sequence, stamp, leaving, bus, now, source, till = unpack(cmsgpack.unpack(ARGV[2]))
local gone = tonumber(redis.call('GET', prefix .. 'gone:host:' .. host) or nil)
if gone and stamp < gone then return '' end
if not has_room('hosts', 'HLEN', prefix .. 'agents', 'HGET', host) then return '' end
local inventory, held = prefix .. 'agent:' .. host, prefix .. 'host:' .. host
local rows = redis.call('HGETALL', inventory)
local claims = redis.call('HGETALL', held)
redis.call('HLEN', prefix .. 'images')
local r = agent(host) or fresh(bus)
local was = r.managed
local is_newer = newer(epoch, sequence, r.floor_epoch, r.floor)
if is_newer then r.floor_epoch, r.floor = epoch, sequence end
heard(host, r, epoch, sequence, true, now)
if not is_newer then
  save(host, r)
  return ''
end
r.bus = bus
r.stamp = math.max(r.stamp, stamp)
local known, kept = {}, {}
for i = 1, #rows, 2 do
  local raw, value = rows[i], rows[i + 1]
  known[raw] = value
  local row = value ~= '' and unpacked(value)
  if row and type(row[2]) == 'number' and newer(row[1], row[2], epoch, sequence) then
    kept[raw] = row
  end
end
local listed, new = {}, {}
for i = 0, #ARGV[4] / 20 - 1 do
  local raw = string.sub(ARGV[4], i * 20 + 1, i * 20 + 20)
  if not kept[raw] then
    local image = string.sub(ARGV[3], i * 40 + 1, i * 40 + 40)
    listed[raw] = true
    lenient('SADD', prefix .. 'image:' .. image, host)
    if known[raw] ~= '' then table.insert(new, {raw, prefix .. 'coming:' .. image}) end
  end
end
for first = 1, #new, MANY do -- many at once: a call from Lua costs as much as what it does
  local raws, entries, comings = {}, {}, {}
  for i = first, math.min(first + MANY - 1, #new) do
    local at = i - first + 1
    raws[at], comings[at] = new[i][1], new[i][2]
    entries[2 * at - 1], entries[2 * at] = new[i][1], ''
  end
  redis.call('HSET', inventory, unpack(entries))
  if redis.call('EXISTS', unpack(comings)) > 0 then
    for _, key in ipairs(comings) do lenient('ZREM', key, host) end
  end
  for at, description in ipairs(redis.call('HMGET', prefix .. 'images', unpack(raws))) do
    if not description then known_image(raws[at], stamp) end
  end
end
for raw, _ in pairs(known) do
  if not listed[raw] and not kept[raw] then
    redis.call('HDEL', inventory, raw)
    lenient('SREM', prefix .. 'image:' .. hex(raw), host)
  end
end
for raw, row in pairs(kept) do
  lenient(row[3] and 'SADD' or 'SREM', prefix .. 'image:' .. hex(raw), host)
  if row[3] then known_image(raw, stamp) end
end
for i = 1, #claims, 2 do
  local raw, row = claims[i], evidence(claims[i + 1])
  if not (listed[raw] or (kept[raw] and kept[raw][3])) then
    lenient('SREM', prefix .. 'image:' .. hex(raw), host)
  end
  if not row or row[1] <= r.stamp then redis.call('HDEL', held, raw) end
end
for i = 0, #ARGV[5] / 40 - 1 do
  pcall(coming, string.sub(ARGV[5], i * 40 + 1, i * 40 + 40), host, till)
end
r.managed = true
r.heard = now -- also where a later epoch was heard of already
heard_of_agent(host, r)
redis.call('ZREM', prefix .. 'silent', host)
if leaving and #r.ahead == 0 then
  infer(host, r, source)
  redis.call('ZREM', prefix .. 'gaps', host)
  redis.call('ZADD', prefix .. 'silent', now, host)
else
  save(host, r)
end
if r.managed == was then return '' end
return r.managed and 'managed' or 'inferred'
