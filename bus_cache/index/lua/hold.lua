-- Hosts hold images: a batch of evidence, in any order, any number of times.
--
--   <prefix>image:<hex>       SET     the hosts that hold the image (public)
--   <prefix>host:<host>       HASH    raw fingerprint -> msgpack {stamp in ms, source, ...}, see names.Keys
--   <prefix>hosts             ZSET    host -> stamp in ms of its newest evidence
--   <prefix>images            HASH    raw fingerprint -> msgpack {id, size in bytes or false, day}
--   <prefix>agents, agent:<host>, coming:<hex>, ageing: see names.Keys
--   <prefix>gone:image:<hex>  STRING  present: the image was deleted
--   <prefix>gone:host:<host>  STRING  stamp in ms: what is older about this host no longer holds
-- ARGV[2]  msgpack list of {host, id, hex fingerprint, raw fingerprint, stamp in ms, source, ms until
--          which the image is on its way where the host's agent has not seen it yet}
-- ARGV[3]  now in ms
-- ARGV[4]  ms: evidence that is older when it comes was late, or of a wrong clock: it ages from now on
--
-- The newest stamp stays, and of two with one stamp the larger source: so the order of arrival does
-- not matter. A resize or cold migration touches no file that is there: beside it the newest stamp of
-- what does touch stays. Where an agent reports, evidence that is newer than its last word waits for its next one,
-- or for its end, and all else is known better by the agent.
-- All is read before anything is written: a key that is somebody else's leaves no half.
local MIGRATION = 4 -- see changes.Source
local now, on_time = tonumber(ARGV[3]), tonumber(ARGV[4])
for _, held in ipairs(cmsgpack.unpack(ARGV[2])) do
  local host, id, fingerprint, raw, stamp, source, till = unpack(held)
  local host_gone = tonumber(redis.call('GET', prefix .. 'gone:host:' .. host) or nil)
  local image_gone = redis.call('EXISTS', prefix .. 'gone:image:' .. fingerprint) == 1
  local known = evidence(redis.call('HGET', prefix .. 'host:' .. host, raw))
  local image = description(redis.call('HGET', prefix .. 'images', raw))
  local speaks = agent(host)
  local managed = speaks and speaks.managed
  local said = speaks and redis.call('HGET', prefix .. 'agent:' .. host, raw)
  local last = said and said ~= '' and unpacked(said)
  local known_better = speaks and ((speaks.floor_epoch >= 0 and stamp <= speaks.stamp)
    or (last and last[3] == false and stamp <= last[4]))
  redis.call('SCARD', prefix .. 'image:' .. fingerprint)
  local is_coming = redis.call('ZSCORE', prefix .. 'coming:' .. fingerprint, host)
  local heard = redis.call('ZSCORE', prefix .. 'hosts', host)
  local holds = not host_gone or stamp >= host_gone
  holds = holds and (managed or heard or room('hosts', 'ZCARD', prefix .. 'hosts'))
  if holds and not image_gone and not known_better
    and (known or room('images_per_host', 'HLEN', prefix .. 'host:' .. host))
  then
    local late = stamp < on_time and now or nil
    local touched = known and (known[4] or (known[2] ~= MIGRATION and known[1])) or nil
    local touches = source ~= MIGRATION and (not touched or touched < stamp)
    if touches then touched = stamp end
    if not known or known[1] < stamp or (known[1] == stamp and known[2] < source) then
      local came = late
      if not came and known and known[3] and known[3] > stamp then came = known[3] end
      redis.call('HSET', prefix .. 'host:' .. host, raw,
        evidence_row(stamp, source, came, source == MIGRATION and touched))
    elseif touches and known[2] == MIGRATION then
      redis.call('HSET', prefix .. 'host:' .. host, raw, evidence_row(known[1], known[2], known[3], touched))
    end
    if not managed then
      redis.call('SADD', prefix .. 'image:' .. fingerprint, host)
      if is_coming then not_coming(fingerprint, host) end
      changed(host, late or stamp)
    elseif not in_inventory(said) and till > 0 then
      coming(fingerprint, host, till)
    end
  end
  if holds and not (managed and stamp <= speaks.stamp) then heard_of(host, stamp) end
  local day = math.floor(stamp / 86400000)
  if not image_gone and (not image or image[1] == '' or image[3] < day)
    and (image or room('images', 'HLEN', prefix .. 'images'))
  then
    local size = image and image[2] or false
    local last = image and math.max(image[3], day) or day
    redis.call('HSET', prefix .. 'images', raw, cmsgpack.pack({id, size, last}))
  end
end
return redis.status_reply('OK')
