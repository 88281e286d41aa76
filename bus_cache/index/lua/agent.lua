-- What stands before the scripts about agents, after the prelude: who is heard, what is missing.
--
-- Versions (epoch, sequence) order what one agent says. A record's floor is the version of the newest
-- snapshot: an image whose row is empty is as it was then.
local AHEAD = 64 -- sequences that may be known beyond a gap; the next snapshot closes it in any case

local function newer(epoch, sequence, than_epoch, than_sequence)
  return epoch > than_epoch or (epoch == than_epoch and sequence > than_sequence)
end

local function save(host, r)
  redis.call('HSET', prefix .. 'agents', host, cmsgpack.pack(
    {r.epoch, r.sequence, r.floor_epoch ~= r.epoch and r.floor_epoch, r.floor, r.stamp, r.managed, r.bus,
      r.ahead, r.heard}))
end

-- note that a message came; a gap in the sequence is opened or closed
local function heard(host, r, epoch, sequence, is_snapshot, now)
  local gap = true
  if epoch > r.epoch then
    r.epoch, r.sequence, r.ahead = epoch, -1, {}
  end
  if epoch == r.epoch then
    if sequence > r.sequence then
      local ahead, seen = {}, is_snapshot
      if is_snapshot then r.sequence = sequence end -- whatever was lost before is in it
      for _, each in ipairs(r.ahead) do
        if each > r.sequence then table.insert(ahead, each) end
        seen = seen or each == sequence
      end
      if not seen then table.insert(ahead, sequence) end
      table.sort(ahead)
      while ahead[1] == r.sequence + 1 do r.sequence = table.remove(ahead, 1) end
      while #ahead > AHEAD do table.remove(ahead) end
      r.ahead = ahead
    end
    gap = #r.ahead > 0 or r.floor_epoch < r.epoch
    r.heard = now
    redis.call('ZREM', prefix .. 'silent', host)
  end -- else late; or its clock was set back and its state is lost: it is asked, and told the epoch
  if not gap then
    redis.call('ZREM', prefix .. 'gaps', host)
  elseif not redis.call('ZSCORE', prefix .. 'gaps', host) then
    redis.call('ZADD', prefix .. 'gaps', now, host)
  end
end

local function fresh(bus)
  return {epoch = -1, sequence = -1, floor_epoch = -1, floor = -1, stamp = 0, managed = false,
    bus = bus, ahead = {}, heard = 0}
end

-- While an agent decides, its own record tells when it spoke last: `hosts` has the host only where Nova's
-- newest word is newer.
local function heard_of_agent(host, r)
  local known = tonumber(redis.call('ZSCORE', prefix .. 'hosts', host) or nil)
  if known and known <= r.stamp then redis.call('ZREM', prefix .. 'hosts', host) end
end

-- an image that only agents know: so that it is listed
local function known_image(raw, stamp)
  if redis.call('HEXISTS', prefix .. 'images', raw) == 0 and room('images', 'HLEN', prefix .. 'images') then
    redis.call('HSET', prefix .. 'images', raw,
      cmsgpack.pack({'', false, math.floor(stamp / 86400000)}))
  end
end

-- The host's agent is silent: what it held becomes evidence, as of its last word, and what Nova said
-- since holds, but for images that Glance deleted. The inventory is kept: should the agent speak again, what
-- it says is compared with that.
local function infer(host, r, source)
  r.managed = false
  save(host, r) -- first: whatever somebody else's key does below
  heard_of(host, r.stamp)
  local rows = redis.call('HGETALL', prefix .. 'agent:' .. host)
  local held = prefix .. 'host:' .. host
  local inventory = {}
  for i = 1, #rows, 2 do
    if in_inventory(rows[i + 1]) then inventory[rows[i]] = true end
  end
  local claims = redis.call('HGETALL', held)
  for i = 1, #claims, 2 do
    local raw, row = claims[i], evidence(claims[i + 1])
    local image = hex(raw)
    if row and row[1] > r.stamp and redis.call('EXISTS', prefix .. 'gone:image:' .. image) == 0 then
      lenient('SADD', prefix .. 'image:' .. image, host)
      lenient('ZREM', prefix .. 'coming:' .. image, host)
      changed(host, row[1])
      inventory[raw] = nil
    elseif not inventory[raw] then
      redis.call('HDEL', held, raw)
    end
  end
  for raw, _ in pairs(inventory) do
    local image = hex(raw)
    if redis.call('EXISTS', prefix .. 'gone:image:' .. image) == 1 then
      lenient('SREM', prefix .. 'image:' .. image, host)
      redis.call('HDEL', held, raw)
    else
      lenient('SADD', prefix .. 'image:' .. image, host)
      redis.call('HSET', held, raw, cmsgpack.pack({r.stamp, source}))
    end
  end
  changed(host, r.stamp)
end
