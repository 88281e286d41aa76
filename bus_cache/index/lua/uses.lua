-- Servers use images on hosts, or no longer do: a batch, in any order, any number of times.
--
--   <prefix>uses:<host>       HASH    raw server id -> msgpack {stamp in ms, raw fingerprints or '', ...}
--   <prefix>ageing            ZSET    host -> oldest stamp of a change since the last ageing sweep
--   <prefix>gone:host:<host>  STRING  stamp in ms: what is older about this host no longer holds
-- ARGV[2]  msgpack list of {host, raw server id, raw fingerprints or '': it left, stamp in ms}
-- ARGV[3]  things that one server's row may tell: beyond, the oldest are forgotten
--
-- What was told is kept with its stamp, the newest first; of one stamp, that the server left is the
-- newest: so order does not matter. See consumers/ageing.py for what a row means.
local function is_newer(a, b)
  if a[1] ~= b[1] then return a[1] > b[1] end
  if (a[2] == '') ~= (b[2] == '') then return a[2] == '' end
  return a[2] > b[2]
end

for _, said in ipairs(cmsgpack.unpack(ARGV[2])) do
  local host, server, what, stamp = unpack(said)
  local gone = tonumber(redis.call('GET', prefix .. 'gone:host:' .. host) or nil)
  local key = prefix .. 'uses:' .. host
  local before = redis.call('HGET', key, server)
  if (not gone or stamp >= gone)
    and (before or room('servers_per_host', 'HLEN', key))
    and has_room('hosts', 'ZCARD', prefix .. 'ageing', 'ZSCORE', host)
  then
    local row = unpacked(before)
    local known, found = {}, false
    for i = 1, #row, 2 do
      if type(row[i]) == 'number' and type(row[i + 1]) == 'string' then
        table.insert(known, {row[i], row[i + 1]})
        found = found or (row[i] == stamp and row[i + 1] == what)
      end
    end
    if not found then table.insert(known, {stamp, what}) end
    table.sort(known, is_newer)
    local flat = {}
    for i = 1, math.min(#known, tonumber(ARGV[3])) do
      table.insert(flat, known[i][1])
      table.insert(flat, known[i][2])
    end
    local after = cmsgpack.pack(flat)
    if after ~= before then
      redis.call('HSET', key, server, after)
      changed(host, stamp)
    end
  end
end
return redis.status_reply('OK')
