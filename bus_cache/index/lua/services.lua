-- Computes work, or do not: a batch, in any order, any number of times.
--
--   <prefix>services          HASH    host -> msgpack {stamp in ms, whether nova-compute is up}
--   <prefix>gone:host:<host>  STRING  stamp in ms: what is older about this host no longer holds
-- ARGV[2]  msgpack list of {host, stamp in ms, up}
--
-- The newest stamp stays, and of two with one stamp the one that says down.
for _, said in ipairs(cmsgpack.unpack(ARGV[2])) do
  local host, stamp, up = unpack(said)
  local gone = tonumber(redis.call('GET', prefix .. 'gone:host:' .. host) or nil)
  local known = unpacked(redis.call('HGET', prefix .. 'services', host))
  local newer = type(known[1]) ~= 'number' or known[1] < stamp or (known[1] == stamp and not up)
  if newer and (not gone or stamp >= gone)
    and has_room('hosts', 'HLEN', prefix .. 'services', 'HGET', host)
  then
    redis.call('HSET', prefix .. 'services', host, cmsgpack.pack({stamp, up}))
  end
end
return redis.status_reply('OK')
