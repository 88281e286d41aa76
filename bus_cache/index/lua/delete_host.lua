-- A host's compute service was deleted: all that was said of it before leaves the index.
--
--   <prefix>image:<hex>       SET     the hosts that hold the image (public)
--   <prefix>host:<host>       HASH    raw fingerprint -> msgpack {stamp in ms, source, ...}, see names.Keys
--   <prefix>hosts             ZSET    host -> stamp in ms of its newest evidence
--   <prefix>agents, agent:<host>, silent, gaps, services, uses:<host>, ageing: see names.Keys
--   <prefix>gone:host:<host>  STRING  stamp in ms: what is older about this host no longer holds;
--                                     expires, but where the host's agent spoke later
-- ARGV[2]  host
-- ARGV[3]  stamp of the deletion in ms
-- ARGV[4]  seconds to remember it
-- ARGV[5]  HSCAN cursor to go on from, 0 at first
-- Returns the next cursor: call again until it is 0. A call looks at some hundred images, and nothing
-- can come back meanwhile, since the deletion is remembered first.
local host, stamp = ARGV[2], tonumber(ARGV[3])
local inventory = prefix .. 'agent:' .. host
local page = redis.call('HSCAN', prefix .. 'host:' .. host, ARGV[5], 'COUNT', 200)
local held = page[2]
local heard = tonumber(redis.call('ZSCORE', prefix .. 'hosts', host) or nil)
local known = tonumber(redis.call('GET', prefix .. 'gone:host:' .. host) or nil)
local speaks = agent(host)
if not known or known < stamp then
  if speaks and speaks.stamp >= stamp then -- remembered until its agent is silent, too
    redis.call('SET', prefix .. 'gone:host:' .. host, ARGV[3])
  else
    redis.call('SET', prefix .. 'gone:host:' .. host, ARGV[3], 'EX', ARGV[4])
  end
end
if speaks and speaks.stamp < stamp then
  local rows = redis.call('HGETALL', inventory)
  for i = 1, #rows, 2 do
    if in_inventory(rows[i + 1]) then lenient('SREM', prefix .. 'image:' .. hex(rows[i]), host) end
  end
  redis.call('DEL', inventory)
  redis.call('HDEL', prefix .. 'agents', host)
  for _, name in ipairs({'silent', 'gaps'}) do redis.call('ZREM', prefix .. name, host) end
  -- what Nova said since counts
  local claims = redis.call('HGETALL', prefix .. 'host:' .. host)
  for i = 1, #claims, 2 do
    local row, image = evidence(claims[i + 1]), hex(claims[i])
    if row and row[1] >= stamp and redis.call('EXISTS', prefix .. 'gone:image:' .. image) == 0 then
      lenient('SADD', prefix .. 'image:' .. image, host)
      lenient('ZREM', prefix .. 'coming:' .. image, host)
      changed(host, row[1])
    end
  end
  speaks = nil
end
for i = 1, #held, 2 do
  local row = evidence(held[i + 1])
  if not row or row[1] < stamp then
    if not (speaks and speaks.managed and in_inventory(redis.call('HGET', inventory, held[i]))) then
      lenient('SREM', prefix .. 'image:' .. hex(held[i]), host)
    end
    redis.call('HDEL', prefix .. 'host:' .. host, held[i])
  elseif row[4] and row[4] < stamp then
    redis.call('HSET', prefix .. 'host:' .. host, held[i], evidence_row(row[1], row[2], row[3], nil))
  end
end
if heard and heard < stamp then
  redis.call('ZREM', prefix .. 'hosts', host)
end
if ARGV[5] == '0' then
  local service = unpacked(redis.call('HGET', prefix .. 'services', host))
  if type(service[1]) ~= 'number' or service[1] < stamp then
    redis.call('HDEL', prefix .. 'services', host)
  end
  local uses = redis.call('HGETALL', prefix .. 'uses:' .. host)
  for i = 1, #uses, 2 do
    local row, left = unpacked(uses[i + 1]), {}
    for at = 1, #row, 2 do
      if type(row[at]) == 'number' and row[at] >= stamp then
        table.insert(left, row[at])
        table.insert(left, row[at + 1])
      end
    end
    if #left == 0 then
      redis.call('HDEL', prefix .. 'uses:' .. host, uses[i])
    elseif #left < #row then
      redis.call('HSET', prefix .. 'uses:' .. host, uses[i], cmsgpack.pack(left))
    end
  end
end
return page[1]
