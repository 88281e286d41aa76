-- Agents tell what happened to single images: a batch, in any order, any number of times.
--
--   <prefix>image:<hex>       SET     the hosts that hold the image (public)
--   <prefix>agent:<host>      HASH    raw fingerprint -> '' or msgpack {epoch, sequence, held, stamp}
--   <prefix>host:<host>       HASH    raw fingerprint -> msgpack {stamp in ms, source}
--   <prefix>agents, silent, gaps, hosts, images, coming:<hex>: see names.Keys
--   <prefix>gone:host:<host>  STRING  stamp in ms: what is older about this host no longer holds
--   <prefix>gone:image:<hex>  STRING  present: the image was deleted
-- ARGV[2]  msgpack list of {host, epoch, sequence, stamp in ms, hex fingerprint, raw fingerprint, said}
--          said: 0 it is not there, 1 it is, 2 it is on its way
-- ARGV[3]  msgpack {bus, now in ms, source of what an agent says, ms until which images are on their way}
--
-- A statement counts if it is newer than what the index has for this image on this host. Where no snapshot
-- came yet, or the agent was thought dead, it is evidence like Nova's.
local bus, now, source, till = unpack(cmsgpack.unpack(ARGV[3]))
for _, statement in ipairs(cmsgpack.unpack(ARGV[2])) do
  local host, epoch, sequence, stamp, image, raw, said = unpack(statement)
  local gone = tonumber(redis.call('GET', prefix .. 'gone:host:' .. host) or nil)
  local inventory, held, set = prefix .. 'agent:' .. host, prefix .. 'host:' .. host, prefix .. 'image:' .. image
  local value = redis.call('HGET', inventory, raw)
  local claim = evidence(redis.call('HGET', held, raw))
  redis.call('SCARD', set)
  redis.call('ZCARD', prefix .. 'coming:' .. image)
  redis.call('HLEN', prefix .. 'images')
  if (not gone or stamp >= gone)
    and has_room('hosts', 'HLEN', prefix .. 'agents', 'HGET', host)
    and (value or room('images_per_host', 'HLEN', inventory))
  then
    local r = agent(host) or fresh(bus)
    local row = value and value ~= '' and unpacked(value) or {}
    local known_epoch, known = r.floor_epoch, r.floor
    if type(row[2]) == 'number' and newer(row[1], row[2], known_epoch, known) then
      known_epoch, known = row[1], row[2]
    end
    heard(host, r, epoch, sequence, false, now)
    if newer(epoch, sequence, known_epoch, known) then
      r.bus = bus
      r.stamp = math.max(r.stamp, stamp)
      if r.managed then heard_of_agent(host, r) else heard_of(host, stamp) end
      if said == 2 then
        if redis.call('SISMEMBER', set, host) == 0 then coming(image, host, till) end
      else
        redis.call('HSET', inventory, raw, cmsgpack.pack({epoch, sequence, said == 1, stamp}))
        not_coming(image, host)
        if said == 0 then
          if r.managed or not claim or claim[1] <= stamp then
            redis.call('SREM', set, host)
          end
          if claim and claim[1] <= stamp then redis.call('HDEL', held, raw) end
        elseif r.managed then
          redis.call('SADD', set, host)
          if claim and claim[1] <= stamp then redis.call('HDEL', held, raw) end
          known_image(raw, stamp)
        elseif redis.call('EXISTS', prefix .. 'gone:image:' .. image) == 0 then
          redis.call('SADD', set, host)
          if not claim or claim[1] <= stamp then
            redis.call('HSET', held, raw, cmsgpack.pack({stamp, source}))
          end
          changed(host, stamp)
          known_image(raw, stamp)
        end
      end
    end
    save(host, r)
  end
end
return redis.status_reply('OK')
