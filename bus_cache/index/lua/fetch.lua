-- Images are on their way to hosts, or no longer: a batch.
--
--   <prefix>image:<hex>       SET     the hosts that hold the image (public)
--   <prefix>coming:<hex>      ZSET    host -> ms until which the image is on its way, at the most
--   <prefix>host:<host>       HASH    raw fingerprint -> msgpack {stamp in ms, source}
--   <prefix>images, agents, ageing: see names.Keys
--   <prefix>gone:image:<hex>  STRING  present: the image was deleted
--   <prefix>gone:host:<host>  STRING  stamp in ms: what is older about this host no longer holds
-- ARGV[2]  msgpack list of {host, hex fingerprint, raw fingerprint, stamp in ms, ms until which it is on its
--          way or 0: it is not}
-- Returns for each row whether the host held the image before, and the image's bytes, -1: unknown.
--
-- What a host holds is not on its way to it, but is touched by Nova, so that it ages from then on; what the
-- host's agent said after this is known better.
local answer = {}
for _, said in ipairs(cmsgpack.unpack(ARGV[2])) do
  local host, fingerprint, raw, stamp, till = unpack(said)
  local speaks = agent(host)
  local gone = tonumber(redis.call('GET', prefix .. 'gone:host:' .. host) or nil)
  local known_better = speaks and speaks.floor_epoch >= 0 and stamp <= speaks.stamp
  local holds = till == 0 and 0 or redis.call('SISMEMBER', prefix .. 'image:' .. fingerprint, host)
  local image = till ~= 0 and description(redis.call('HGET', prefix .. 'images', raw))
  table.insert(answer, holds)
  table.insert(answer, image and image[2] or -1)
  if till == 0 then
    not_coming(fingerprint, host)
  elseif gone and stamp < gone then -- said of a host that is gone
  elseif not known_better and redis.call('EXISTS', prefix .. 'gone:image:' .. fingerprint) == 0
  then
    local known = evidence(redis.call('HGET', prefix .. 'host:' .. host, raw))
    if holds == 0 then
      if has_room('hosts', 'ZCARD', prefix .. 'coming:' .. fingerprint, 'ZSCORE', host) then
        coming(fingerprint, host, till)
      end
    elseif known and math.max(known[1], known[3] or 0) < stamp then
      known[3] = stamp
      redis.call('HSET', prefix .. 'host:' .. host, raw, cmsgpack.pack(known))
      changed(host, stamp)
    end
  end
end
return answer
