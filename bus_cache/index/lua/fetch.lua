-- Images are on their way to hosts, or no longer: a batch.
--
--   <prefix>image:<hex>       SET     the hosts that hold the image (public)
--   <prefix>coming:<hex>      ZSET    host -> ms until which the image is on its way, at the most; minus: it failed
--   <prefix>agents            HASH    see names.Keys
--   <prefix>gone:image:<hex>  STRING  present: the image was deleted
--   <prefix>gone:host:<host>  STRING  stamp in ms: what is older about this host no longer holds
-- ARGV[2]  msgpack list of {host, hex fingerprint, stamp in ms, ms until which this matters, whether it is on its
--          way}
--
-- The newest stands, and of one stamp that it failed: a beginning that comes late is not believed. What
-- a host holds is not on its way to it, and what the host's agent said after this is known better.
for _, said in ipairs(cmsgpack.unpack(ARGV[2])) do
  local host, fingerprint, stamp, till, begun = unpack(said)
  local key = prefix .. 'coming:' .. fingerprint
  local last = tonumber(redis.call('ZSCORE', key, host) or nil)
  local speaks = agent(host)
  local gone = tonumber(redis.call('GET', prefix .. 'gone:host:' .. host) or nil)
  local known_better = speaks and speaks.floor_epoch >= 0 and stamp <= speaks.stamp
  if not begun then
    if last and math.abs(last) <= till or not last and room('hosts', 'ZCARD', key) then
      set_coming(fingerprint, host, -till)
    end
  elseif gone and stamp < gone then -- said of a host that is gone
  elseif not known_better and redis.call('EXISTS', prefix .. 'gone:image:' .. fingerprint) == 0
    and redis.call('SISMEMBER', prefix .. 'image:' .. fingerprint, host) == 0
  then
    if last and math.abs(last) < till or not last and room('hosts', 'ZCARD', key) then
      set_coming(fingerprint, host, till)
    end
  end
end
return redis.status_reply('OK')
