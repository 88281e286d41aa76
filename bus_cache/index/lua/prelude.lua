-- What stands before every script: the schema's check, and reading of packed values.
--
-- KEYS[1] is <prefix>schema (STRING, the version of the keys). It carries the hash tag that all other keys
-- share, so that deriving their names from it is safe on a Cluster.
-- ARGV[1] is the version that this code knows: set where none is, or an older one whose keys mean the
-- same; any other is refused.
local prefix = string.sub(KEYS[1], 1, -7)
local schema = redis.pcall('GET', KEYS[1])
if not schema or schema == '1' or schema == '2' then
  redis.call('SET', KEYS[1], ARGV[1])
  if schema == '1' then redis.call('SET', prefix .. 'adopt', '0') end -- see ageing.lua
elseif schema ~= ARGV[1] then
  return redis.error_reply('SCHEMA is another one')
end

local function unpacked(value)
  if not value or value == '' then return {} end
  local readable, row = pcall(cmsgpack.unpack, value)
  return readable and type(row) == 'table' and row or {}
end

-- A command on a key that may be somebody else's: that is passed over. All else that goes wrong is raised: what
-- follows must not be written where this was not.
local function lenient(...)
  local answer = redis.pcall(...)
  local failure = type(answer) == 'table' and answer.err
  if failure and not string.find(failure, 'WRONGTYPE', 1, true) then error(failure, 0) end
  return answer
end

-- {stamp in ms, source, when it came if that was late, touched} of a host's evidence, or nil: what can't
-- be read counts as absent. touched: of the newest evidence that touches the file, where that is another
local function evidence(value)
  local row = unpacked(value)
  for i = 3, 4 do
    if type(row[i]) ~= 'number' then row[i] = nil end
  end
  return type(row[1]) == 'number' and type(row[2]) == 'number' and row or nil
end

local function evidence_row(stamp, source, late, touched)
  if touched then return cmsgpack.pack({stamp, source, late or false, touched}) end
  return cmsgpack.pack({stamp, source, late})
end

-- {id, size in bytes or false, day} of an image, or nil; the id is empty where only agents know it
local function description(value)
  local row = unpacked(value)
  local sized = row[2] == false or type(row[2]) == 'number'
  return type(row[1]) == 'string' and sized and type(row[3]) == 'number' and row or nil
end

-- what is known of a host's agent, as a table, or nil: see names.Keys. What can't be read counts as absent,
-- so that its next snapshot mends it
local function record(value)
  local row = unpacked(value)
  if row[3] == false then row[3] = row[1] end
  for i = 1, 5 do
    if type(row[i]) ~= 'number' then return nil end
  end
  if type(row[6]) ~= 'boolean' or type(row[7]) ~= 'string' or type(row[8]) ~= 'table' then return nil end
  for _, each in ipairs(row[8]) do
    if type(each) ~= 'number' then return nil end
  end
  return {epoch = row[1], sequence = row[2], floor_epoch = row[3], floor = row[4], stamp = row[5],
    managed = row[6], bus = row[7], ahead = row[8], heard = type(row[9]) == 'number' and row[9] or row[5]}
end

local function agent(host)
  return record(redis.call('HGET', prefix .. 'agents', host))
end

-- whether an agent's row, as HGET answers it, says that the image is there
local function in_inventory(value)
  return value and (value == '' or unpacked(value)[3] == true)
end

-- How many entries a key may have. Whoever may publish can make up names without end.
local MOST = {
  hosts = 100000, -- of the keyspace, and so of one image
  images = 1000000, -- of the keyspace
  images_per_host = 10000, -- as many as a snapshot may tell
  servers_per_host = 10000,
}

-- Whether a key has room for one entry more. Where not, what was said is left out, and counted.
local function room(what, command, key)
  if redis.call(command, key) < MOST[what] then return true end
  local full = prefix .. 'full'
  redis.pcall('HSET', full, what, (tonumber(redis.pcall('HGET', full, what) or nil) or 0) + 1)
  return false
end

-- the same, where the entry may be there already
local function has_room(what, command, key, probe, entry)
  return redis.call(probe, key, entry) or room(what, command, key)
end

local digits = setmetatable({}, {__index = function(known, c)
  known[c] = string.format('%02x', string.byte(c))
  return known[c]
end})

local function hex(raw)
  return (string.gsub(raw, '.', digits))
end

-- Remember that something changed on a host, for the ageing sweep. A sweep that is at work there has added a half
-- to the entry: taken off, it tells that sweep that what it judges is no longer all.
local function changed(host, stamp)
  local known = tonumber(redis.call('ZSCORE', prefix .. 'ageing', host) or nil)
  local entry = known and math.min(stamp, math.floor(known)) or stamp
  if entry ~= known then redis.call('ZADD', prefix .. 'ageing', entry, host) end
end

local function heard_of(host, stamp)
  local known = tonumber(redis.call('ZSCORE', prefix .. 'hosts', host) or nil)
  if not known or known < stamp then redis.call('ZADD', prefix .. 'hosts', stamp, host) end
end

-- an image is on its way to a host until a moment in ms, at the most; minus that moment: it failed, and what
-- began before is not on its way either
local function set_coming(image, host, till)
  local key = prefix .. 'coming:' .. image
  redis.call('ZADD', key, till, host)
  local least = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
  local most = redis.call('ZRANGE', key, -1, -1, 'WITHSCORES')
  redis.call('PEXPIREAT', key, string.format('%d', math.max(most[2], -least[2])))
end

local function coming(image, host, till)
  local known = tonumber(redis.call('ZSCORE', prefix .. 'coming:' .. image, host) or 0)
  if -known >= till then return end -- it failed after that beginning
  set_coming(image, host, math.max(till, known))
end

local function not_coming(image, host)
  redis.call('ZREM', prefix .. 'coming:' .. image, host)
end
