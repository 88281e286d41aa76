-- What stands before every script: the schema's check, and reading of packed values.
--
-- KEYS[1] is <prefix>schema (STRING, the version of the keys). It carries the hash tag that all other keys
-- share, so that deriving their names from it is safe on a Cluster.
-- ARGV[1] is the version that this code knows: set where none is, and any other is refused.
local prefix = string.sub(KEYS[1], 1, -7)
local schema = redis.pcall('GET', KEYS[1])
if not schema then
  redis.call('SET', KEYS[1], ARGV[1])
elseif schema ~= ARGV[1] then
  return redis.error_reply('SCHEMA is another one')
end

local function unpacked(value)
  local readable, row = pcall(cmsgpack.unpack, value or '')
  return readable and type(row) == 'table' and row or {}
end

-- {stamp in ms, source} of a host's evidence, or nil: what can't be read counts as absent
local function evidence(value)
  local row = unpacked(value)
  return type(row[1]) == 'number' and type(row[2]) == 'number' and row or nil
end

-- {id, size in bytes or false, day} of an image, or nil
local function description(value)
  local row = unpacked(value)
  local sized = row[2] == false or type(row[2]) == 'number'
  return type(row[1]) == 'string' and sized and type(row[3]) == 'number' and row or nil
end

local function hex(raw)
  return (string.gsub(raw, '.', function(c) return string.format('%02x', string.byte(c)) end))
end
