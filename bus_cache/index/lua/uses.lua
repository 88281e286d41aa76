-- Servers use images on hosts, or no longer do: a batch, in any order, any number of times.
--
--   <prefix>uses:<host>       HASH    raw server id -> msgpack {left, raw fingerprint, stamp, ...}
--   <prefix>ageing            ZSET    host -> oldest stamp of a change since the last ageing sweep
--   <prefix>gone:host:<host>  STRING  stamp in ms: what is older about this host no longer holds
-- ARGV[2]  msgpack list of {host, raw server id, raw fingerprint or false: it left, stamp in ms}
-- ARGV[3]  images that one server's row may name: beyond, the oldest are forgotten
--
-- Of each image the newest stamp stays, and of leaving the newest: so order does not matter. See
-- consumers/ageing.py for what a row means.
for _, said in ipairs(cmsgpack.unpack(ARGV[2])) do
  local host, server, raw, stamp = unpack(said)
  local gone = tonumber(redis.call('GET', prefix .. 'gone:host:' .. host) or nil)
  local key = prefix .. 'uses:' .. host
  local before = redis.call('HGET', key, server)
  if not gone or stamp >= gone then
    local row = unpacked(before)
    local left = type(row[1]) == 'number' and row[1] or 0
    local pairs_, found = {}, false
    for i = 2, #row, 2 do
      if type(row[i]) == 'string' and type(row[i + 1]) == 'number' then
        local at = row[i + 1]
        if row[i] == raw then
          at = math.max(at, stamp)
          found = true
        end
        table.insert(pairs_, {row[i], at})
      end
    end
    if raw and not found then table.insert(pairs_, {raw, stamp}) end
    if not raw then left = math.max(left, stamp) end
    table.sort(pairs_, function(a, b) return a[2] > b[2] or (a[2] == b[2] and a[1] > b[1]) end)
    local flat = {left}
    for i = 1, math.min(#pairs_, tonumber(ARGV[3])) do
      table.insert(flat, pairs_[i][1])
      table.insert(flat, pairs_[i][2])
    end
    local after = cmsgpack.pack(flat)
    if after ~= before then
      redis.call('HSET', key, server, after)
      changed(host, stamp)
    end
  end
end
return redis.status_reply('OK')
